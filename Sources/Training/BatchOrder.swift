internal import TensorMath

/// Which records a run's batches hold.
///
/// Source: accelerate `SeedableRandomSampler`, torch `BatchSampler`, transformers `Trainer._run_epoch`.
public struct BatchOrder: Sendable {
  /// Tokens of each record.
  let lengths: [Int]
  let batchSize: Int
  let accumulationSteps: Int
  let dropsLast: Bool
  let sampling: SamplingStrategy
  let seed: UInt64

  public init(lengths: [Int], arguments: TrainingArguments) {
    self.lengths = lengths
    batchSize = max(1, arguments.batchSize)
    accumulationSteps = max(1, arguments.accumulationSteps)
    dropsLast = arguments.dropsLast
    sampling = arguments.sampling
    seed = arguments.dataSeed ?? arguments.seed
  }

  public var batchesPerEpoch: Int {
    dropsLast ? lengths.count / batchSize : (lengths.count + batchSize - 1) / batchSize
  }

  /// Optimizer steps of an epoch; the last one may have fewer batches.
  public var stepsPerEpoch: Int { max(1, (batchesPerEpoch + accumulationSteps - 1) / accumulationSteps) }

  /// The records of each batch of an epoch.
  ///
  /// - Parameter generator: torch's global generator, from which grouping by length draws.
  func batches(epoch: Int, _ generator: inout TorchGenerator) -> [[Int]] {
    let order: [Int]
    switch sampling {
    case .sequential: order = Array(lengths.indices)
    case .random:
      var own = TorchGenerator(seed: seed &+ UInt64(epoch))
      order = own.permutation(of: lengths.count, first: lengths.count)
    case .groupByLength: order = grouped(generator.permutation(of: lengths.count, first: lengths.count))
    }
    return stride(from: 0, to: order.count, by: batchSize).prefix(batchesPerEpoch).map {
      Array(order[$0..<min($0 + batchSize, order.count)])
    }
  }

  /// Sorts stretches of a permutation by length, longest first, and puts the longest of all to the front.
  ///
  /// Source: transformers/trainer_pt_utils.py `get_length_grouped_indices`.
  private func grouped(_ order: [Int]) -> [Int] {
    let batch = batchSize * accumulationSteps
    let stretch = max(1, min(order.count / (4 * batch), 50)) * batch
    var stretches = stride(from: 0, to: order.count, by: stretch).map { start in
      order[start..<min(start + stretch, order.count)].enumerated().sorted {
        (lengths[$1.element], $0.offset) < (lengths[$0.element], $1.offset)
      }.map(\.element)
    }
    guard let longest = stretches.map({ lengths[$0[0]] }).max(),
      let place = stretches.firstIndex(where: { lengths[$0[0]] == longest })
    else { return order }
    let first = stretches[0][0]
    stretches[0][0] = stretches[place][0]
    stretches[place][0] = first
    return stretches.flatMap { $0 }
  }
}
