internal import TensorMath

/// Which records a run's batches hold.
///
/// Source: accelerate `SeedableRandomSampler`, torch `BatchSampler`, transformers `Trainer._run_epoch`.
public struct BatchOrder: Sendable {
  let records: Int
  let batchSize: Int
  let accumulationSteps: Int
  let dropsLast: Bool
  /// Nil for the records' own order.
  let seed: UInt64?

  public init(records: Int, arguments: TrainingArguments) {
    self.records = records
    batchSize = max(1, arguments.batchSize)
    accumulationSteps = max(1, arguments.accumulationSteps)
    dropsLast = arguments.dropsLast
    seed = arguments.shuffles ? arguments.dataSeed ?? arguments.seed : nil
  }

  public var batchesPerEpoch: Int { dropsLast ? records / batchSize : (records + batchSize - 1) / batchSize }

  /// Optimizer steps of an epoch; the last one may have fewer batches.
  public var stepsPerEpoch: Int { max(1, (batchesPerEpoch + accumulationSteps - 1) / accumulationSteps) }

  /// The records of each batch of an epoch.
  public func batches(epoch: Int) -> [[Int]] {
    var order = Array(0..<records)
    if let seed {
      var generator = TorchGenerator(seed: seed &+ UInt64(epoch))
      order = generator.permutation(of: records, first: records)
    }
    return stride(from: 0, to: records, by: batchSize).prefix(batchesPerEpoch).map {
      Array(order[$0..<min($0 + batchSize, records)])
    }
  }
}
