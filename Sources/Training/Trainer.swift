internal import Glibc
internal import TensorMath

/// A record that can be trained on: tokens, and what is to be learnt of them.
public struct TrainingRecord: Sendable, Equatable {
  public let tokens: [Int]
  /// As many as tokens; -100 where nothing is learnt.
  public let labels: [Int]

  public init(tokens: [Int], labels: [Int]) {
    precondition(tokens.count == labels.count, "labels do not fit the tokens")
    self.tokens = tokens
    self.labels = labels
  }
}

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
}

/// A run of training: batches in transformers' order, gradients, clipping, AdamW, the schedule.
///
/// Source: transformers/trainer.py `Trainer._inner_training_loop`.
public final class Trainer {
  public let model: TrainableModel
  public let arguments: TrainingArguments
  public let steps: Int
  private let records: [TrainingRecord]
  private let order: BatchOrder
  private let optimizer: AdamW
  private let padsLeft: Bool
  /// Steps done.
  public private(set) var step = 0

  /// - Parameter padsLeft: the tokenizer's padding side, which decides which draws of dropout meet which tokens.
  public init(
    _ model: TrainableModel, records: [TrainingRecord], arguments: TrainingArguments, padsLeft: Bool = false
  ) {
    self.model = model
    self.records = records
    self.padsLeft = padsLeft
    order = BatchOrder(records: records.count, arguments: arguments)
    steps =
      arguments.maxSteps > 0
      ? arguments.maxSteps : Int((arguments.epochs * Double(order.stepsPerEpoch)).rounded(.up))
    var arguments = arguments
    if let share = arguments.warmupShare {
      arguments.schedule.warmupSteps = Int((share * Double(steps)).rounded(.up))
    }
    self.arguments = arguments
    var optimizer = AdamW()
    (optimizer.beta1, optimizer.beta2, optimizer.epsilon) = (arguments.beta1, arguments.beta2, arguments.epsilon)
    self.optimizer = optimizer
    model.checkpointsActivations = arguments.checkpointsActivations
    model.generator = TorchGenerator(seed: arguments.seed)
  }

  /// Trains to the last step.
  ///
  /// - Parameter onStep: gets each step's figures; false ends the run.
  /// Throws `.notFinite`, before the step that would have spoilt the parameters.
  public func run(onStep: (TrainingStep) throws -> Bool = { _ in true }) throws {
    var epoch = step / order.stepsPerEpoch
    while step < steps {
      // The iterator of torch's DataLoader draws a seed for its workers.
      model.generator.skip(words: 2)
      let batches = order.batches(epoch: epoch)
      for start in stride(from: 0, to: batches.count, by: order.accumulationSteps) where step < steps {
        let end = min(start + order.accumulationSteps, batches.count)
        let done = try take(
          batches[start..<end].map(batch), epoch: Double(epoch) + Double(end) / Double(batches.count))
        guard try onStep(done) else { return }
      }
      epoch += 1
    }
  }

  private func batch(_ indices: [Int]) -> TokenBatch {
    TokenBatch(
      sequences: indices.map { records[$0].tokens }, labels: indices.map { records[$0].labels }, padsLeft: padsLeft)
  }

  private func take(_ batches: [TokenBatch], epoch: Double) throws -> TrainingStep {
    let labelled = batches.reduce(0) { $0 + $1.labelledCount }
    let parameters = model.parameters
    parameters.gradients.clear()
    var loss = 0.0
    for batch in batches {
      loss += model.addGradients(of: batch, share: 1 / Double(labelled), smoothing: arguments.labelSmoothing)
    }
    guard loss.isFinite else { throw TrainingError.notFinite(step: step + 1, what: "the loss") }
    let norm = parameters.clipGradients(to: arguments.maxGradientNorm)
    guard norm.isFinite else { throw TrainingError.notFinite(step: step + 1, what: "the gradient's norm") }
    let rate =
      arguments.learningRate
      * arguments.schedule.factor(step: step, steps: steps, rate: arguments.learningRate)
    parameters.update(optimizer, step: step + 1, rate: rate, decay: arguments.weightDecay)
    model.finish(step: step)
    step += 1
    return TrainingStep(
      step: step, loss: loss, gradientNorm: norm, learningRate: rate, epoch: epoch,
      tokens: batches.reduce(0) { $0 + $1.tokenCount })
  }

  /// The mean over batches, weighted by their records, of the mean loss of a batch's labelled tokens.
  ///
  /// Source: transformers/trainer.py `Trainer.evaluation_loop`.
  public func evaluate(_ records: [TrainingRecord]) -> Double {
    var (sum, count) = (0.0, 0)
    for start in stride(from: 0, to: records.count, by: arguments.evaluationBatchSize) {
      let part = records[start..<min(start + arguments.evaluationBatchSize, records.count)]
      let batch = TokenBatch(sequences: part.map(\.tokens), labels: part.map(\.labels), padsLeft: padsLeft)
      sum += model.loss(of: batch, share: 1 / Double(max(1, batch.labelledCount))) * Double(part.count)
      count += part.count
    }
    return sum / Double(max(1, count))
  }
}
