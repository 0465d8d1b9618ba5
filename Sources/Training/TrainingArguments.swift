/// What a log, an evaluation or a checkpoint waits for.
public enum TrainingInterval: String, Sendable, CaseIterable {
  case no, steps, epoch
  /// For checkpoints: an evaluation better than all before it.
  case best
}

/// In which order records are taken.
public enum SamplingStrategy: String, Sendable, CaseIterable {
  case random, sequential
  /// Records of like length together, the longest of all first.
  case groupByLength = "group_by_length"
}

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
  public var sampling: SamplingStrategy = .random
  public var checkpointsActivations = false
  /// What the rate of LoRA's B is multiplied by, as in LoRA+; nil for one rate.
  public var loraPlusRatio: Double?
  /// LoRA+'s rate of factors on embeddings.
  public var loraPlusEmbeddingRate = 1e-6
  /// Strength of the noise on embeddings, as in NEFTune; nil for none.
  public var neftuneAlpha: Double?

  public var loggingInterval: TrainingInterval = .steps
  /// Below 1 a share of the run's steps; so are the two below.
  public var loggingSteps = 500.0
  public var logsFirstStep = false
  public var evaluationInterval: TrainingInterval = .no
  /// Nil for the steps of logging.
  public var evaluationSteps: Double?
  /// Steps or epochs before the first evaluation.
  public var evaluationDelay = 0.0
  public var saveInterval: TrainingInterval = .steps
  public var saveSteps = 500.0
  /// Checkpoints that are kept; nil or 0 for all.
  public var saveLimit: Int?
  /// True to leave out what a run needs to go on from a checkpoint.
  public var savesOnlyModel = false
  public var loadsBest = false
  /// Figure of an evaluation that finds the best checkpoint, with `eval_` or without; nil for the loss if the best is wanted.
  public var bestMetric: String?
  public var greaterIsBetter: Bool?

  public init() {}
}
