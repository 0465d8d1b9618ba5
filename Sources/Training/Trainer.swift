internal import Glibc
internal import TensorMath

/// What a step of a run gave.
public struct TrainingStep: Sendable, Equatable {
  /// Counted from 1.
  public let step: Int
  public let loss: Double
  /// Before clipping.
  public let gradientNorm: Double
  public let learningRate: Double
  public let epoch: Double
  /// Tokens that were computed, without padding.
  public let tokens: Int
  /// Tokens with padding, as transformers counts its operations.
  let paddedTokens: Int
  /// True if an epoch ends with it, or the run.
  let endsEpoch: Bool
}

/// What an evaluation found.
public struct Evaluation: Sendable, Equatable {
  /// The mean over records of the mean loss of their batch's labelled tokens, as transformers has it.
  public let loss: Double
  /// The mean over all labelled tokens, without smoothing.
  public let lossPerToken: Double
}

/// The steps of a run: batches in transformers' order, gradients, clipping, AdamW, the schedule.
///
/// Source: transformers/trainer.py `Trainer._inner_training_loop`.
public final class Trainer {
  public let model: TrainableModel
  public let arguments: TrainingArguments
  public let steps: Int
  let records: [TrainingRecord]
  let order: BatchOrder
  /// Those who train together: each computes some of a step's batches.
  public let ranks: any Ranks
  private let optimizer: AdamW
  private let gradients: StepGradients
  let padsLeft: Bool
  /// Steps done.
  public internal(set) var step = 0
  /// The generator before the epoch's order was drawn.
  var epochGenerator: TorchGenerator

  /// - Parameter padsLeft: the tokenizer's padding side, which decides which draws of dropout meet which tokens.
  /// - Parameter ranks: with R of them the run is that of one with R times the batches of a step, to the bit.
  public init(
    _ model: TrainableModel, records: [TrainingRecord], arguments: TrainingArguments, padsLeft: Bool = false,
    ranks: any Ranks = OneRank()
  ) {
    var arguments = arguments
    arguments.accumulationSteps *= ranks.count
    self.ranks = ranks
    gradients = StepGradients(model, ranks: ranks)
    self.model = model
    self.records = records
    self.padsLeft = padsLeft
    order = BatchOrder(lengths: records.map(\.tokens.count), arguments: arguments)
    steps =
      arguments.maxSteps > 0
      ? arguments.maxSteps : Int((arguments.epochs * Double(order.stepsPerEpoch)).rounded(.up))
    if let share = arguments.warmupShare {
      arguments.schedule.warmupSteps = Int((share * Double(steps)).rounded(.up))
    }
    self.arguments = arguments
    var optimizer = AdamW()
    (optimizer.beta1, optimizer.beta2, optimizer.epsilon) = (arguments.beta1, arguments.beta2, arguments.epsilon)
    self.optimizer = optimizer
    model.checkpointsActivations = arguments.checkpointsActivations
    model.noise = arguments.neftuneAlpha
    model.generator = TorchGenerator(seed: arguments.seed)
    epochGenerator = model.generator
  }

  /// Epochs that the run begins.
  public var epochs: Int { (steps + order.stepsPerEpoch - 1) / order.stepsPerEpoch }

  /// Trains to the last step.
  ///
  /// - Parameter onStep: gets each step's figures; false ends the run.
  /// Throws `.notFinite`, before the step that would have spoilt the parameters.
  public func run(onStep: (TrainingStep) throws -> Bool = { _ in true }) throws {
    while step < steps {
      let (epoch, done) = step.quotientAndRemainder(dividingBy: order.stepsPerEpoch)
      let batches = beginEpoch(epoch)
      guard !batches.isEmpty else {
        throw TrainingError.contradiction("dataloader_drop_last leaves no batch of \(records.count) records.")
      }
      for start in stride(from: done * order.accumulationSteps, to: batches.count, by: order.accumulationSteps)
      where step < steps {
        let end = min(start + order.accumulationSteps, batches.count)
        let taken = try take(
          batches[start..<end].map { batch in TokenBatch(batch.map { records[$0] }, padsLeft: padsLeft) },
          epoch: Double(epoch) + Double(end) / Double(batches.count), endsEpoch: end == batches.count)
        guard try onStep(taken) else { return }
      }
    }
  }

  /// The batches of an epoch. At its beginning draws what transformers draws; in its middle, where a checkpoint lies, nothing.
  private func beginEpoch(_ epoch: Int) -> [[Int]] {
    let begins = step % order.stepsPerEpoch == 0
    if begins {
      // The iterator of torch's DataLoader draws a seed for its workers.
      model.generator.skip(words: 2)
      epochGenerator = model.generator
    }
    var generator = epochGenerator
    let batches = order.batches(epoch: epoch, &generator)
    if begins { model.generator = generator }
    return batches
  }

  private func take(_ batches: [TokenBatch], epoch: Double, endsEpoch: Bool) throws -> TrainingStep {
    let labelled = batches.reduce(0) { $0 + $1.labelledCount }
    let parameters = model.parameters
    let loss = try gradients.add(
      batches, share: 1 / Double(max(1, labelled)), smoothing: arguments.labelSmoothing)
    guard loss.isFinite else { throw TrainingError.notFinite(step: step + 1, what: "the loss", checkpoint: nil) }
    let norm = parameters.clipGradients(to: arguments.maxGradientNorm)
    guard norm.isFinite else {
      let name = parameters.firstNotFinite.map { " of \($0)" } ?? "'s norm"
      throw TrainingError.notFinite(step: step + 1, what: "the gradient\(name)", checkpoint: nil)
    }
    let factor = arguments.schedule.factor(step: step, steps: steps, rate: arguments.learningRate)
    parameters.update(optimizer, decay: arguments.weightDecay, leftOut: model.leftOut) {
      arguments.greatestRate(of: $0) * factor
    }
    model.finish(step: step)
    step += 1
    return TrainingStep(
      step: step, loss: loss, gradientNorm: norm, learningRate: arguments.learningRate * factor, epoch: epoch,
      tokens: batches.reduce(0) { $0 + $1.tokenCount }, paddedTokens: batches.reduce(0) { $0 + $1.paddedCount },
      endsEpoch: endsEpoch || step == steps)
  }

  /// The loss of records that are not learnt.
  ///
  /// Source: transformers/trainer.py `Trainer.evaluation_loop`.
  public func evaluate(_ records: [TrainingRecord]) -> Evaluation {
    let smoothing = arguments.labelSmoothing
    let batches = stride(from: 0, to: records.count, by: arguments.evaluationBatchSize).map { start in
      TokenBatch(Array(records[start..<min(start + arguments.evaluationBatchSize, records.count)]), padsLeft: padsLeft)
    }
    // Each rank computes some, and all add them in the batches' order.
    let own = stride(from: ranks.rank, to: batches.count, by: ranks.count).flatMap { index -> [Double] in
      let share = 1 / Double(max(1, batches[index].labelledCount))
      let loss = model.loss(of: batches[index], share: share, smoothing: smoothing)
      return [loss, smoothing == 0 ? loss : model.loss(of: batches[index], share: share)]
    }
    let all = ranks.gather(own)
    var (sum, total, labelled) = (0.0, 0.0, 0)
    for (index, batch) in batches.enumerated() {
      let place = 2 * (index / ranks.count)
      let count = max(1, batch.labelledCount)
      sum += all[index % ranks.count][place] * Double(batch.rowCount)
      total += all[index % ranks.count][place + 1] * Double(count)
      labelled += count
    }
    return Evaluation(loss: sum / Double(max(1, records.count)), lossPerToken: total / Double(max(1, labelled)))
  }
}
