/// The settings of a run, with the names' meanings and defaults of transformers' `TrainingArguments` 5.23.
public struct TrainingArguments: Sendable, Equatable {
  /// Sequences of a batch.
  public var batchSize = 8
  public var evaluationBatchSize = 8
  /// Batches of a step.
  public var accumulationSteps = 1
  public var epochs = 3.0
  /// Steps of the run, if positive; the epochs do not count then.
  public var maxSteps = -1
  public var learningRate = 5e-5
  public var weightDecay = 0.0
  public var beta1 = 0.9
  public var beta2 = 0.999
  public var epsilon = 1e-8
  /// The norm that gradients are scaled down to; 0 or less for no clipping.
  public var maxGradientNorm = 1.0
  public var schedule = LearningRateSchedule()
  /// Warm-up as a share of the steps, where it is below 1; takes the place of the schedule's steps.
  public var warmupShare: Double?
  public var labelSmoothing = 0.0
  public var seed: UInt64 = 42
  public var dataSeed: UInt64?
  /// Leaves out a last batch that is not full.
  public var dropsLast = false
  /// False to take records in the order in which they come.
  public var shuffles = true
  public var checkpointsActivations = false

  public init() {}
}
