internal import PEFT
public import TensorFiles

extension TrainingArguments {
  /// All settings that are read, in the order in which help lists them.
  package static let settings: [Setting] = batches + optimizer + data + events

  private static let batches: [Setting] = [
    count("per_device_train_batch_size", "sequences of a batch", "8", \.batchSize),
    count("per_device_eval_batch_size", "sequences of a batch of evaluation", "8", \.evaluationBatchSize).changing,
    count("gradient_accumulation_steps", "batches of a step", "1", \.accumulationSteps),
    number("num_train_epochs", "times that all records are seen", "3", \.epochs, 0...1e9),
    Setting(
      name: "max_steps", summary: "steps of the run; the epochs do not count then", defaultText: "-1",
      expected: "a whole number", read: { .integer($0.maxSteps) },
      set: { arguments, value in
        guard let steps = value.integerValue, (-1...1 << 40).contains(steps) else { return false }
        arguments.maxSteps = steps
        return true
      }),
  ]

  private static let optimizer: [Setting] = [
    number("learning_rate", "greatest learning rate", "5e-5", \.learningRate, 0...1e9),
    number(
      "weight_decay", "share of a parameter that each step takes away, times the rate", "0", \.weightDecay, 0...1e9),
    number("adam_beta1", "decay of the first moment", "0.9", \.beta1, 0...0.9999999),
    number("adam_beta2", "decay of the second moment", "0.999", \.beta2, 0...0.9999999),
    number("adam_epsilon", "what is added to the second moment's root", "1e-8", \.epsilon, 0...1),
    number(
      "max_grad_norm", "norm that gradients are scaled down to; 0 for no clipping", "1", \.maxGradientNorm, -1e9...1e30),
    choice(
      "lr_scheduler_type", "course of the learning rate", \.schedule.kind, LearningRateSchedule.Kind.allCases),
    Setting(
      name: "lr_scheduler_kwargs", summary: "settings of the course, as a JSON object",
      expected: "num_cycles, power, lr_end or timescale", read: { $0.schedule.json },
      set: { arguments, value in
        for member in value.members ?? [] {
          guard let number = member.value.numberValue, number.isFinite else { return false }
          switch member.key {
          case "num_cycles": arguments.schedule.cycles = number
          case "power": arguments.schedule.power = number
          case "lr_end": arguments.schedule.endRate = number
          case "timescale": arguments.schedule.timescale = Int(exactly: number)
          default: return false
          }
        }
        return value.members != nil || value == .null
      }),
    Setting(
      name: "warmup_steps", summary: "steps over which the rate rises, or their share below 1", defaultText: "0",
      expected: "a number of steps, or a share below 1",
      read: { $0.warmupShare.map { .number($0) } ?? .integer($0.schedule.warmupSteps) },
      set: { arguments, value in
        guard let number = value.numberValue, (0...1e12).contains(number) else { return false }
        arguments.warmupShare = number > 0 && number < 1 ? number : nil
        arguments.schedule.warmupSteps = number < 1 ? 0 : Int(number)
        return true
      }),
    number("loraplus_lr_ratio", "what the rate of LoRA's B is multiplied by (LoRA+)", \.loraPlusRatio, 0...1e9),
    number(
      "loraplus_lr_embedding", "LoRA+'s rate of factors on embeddings", "1e-6", \.loraPlusEmbeddingRate, 0...1e9),
  ]

  private static let data: [Setting] = [
    number("label_smoothing_factor", "share of the loss that all tokens get", "0", \.labelSmoothing, 0...1),
    number("neftune_noise_alpha", "strength of the noise on embeddings (NEFTune)", \.neftuneAlpha, 0...1e9),
    seed("seed", "seed of order and dropout", "42", read: { $0.seed }, set: { $0.seed = $1 }),
    seed("data_seed", "seed of the order alone", nil, read: { $0.dataSeed }, set: { $0.dataSeed = $1 }),
    flag("dataloader_drop_last", "leave out a last batch that is not full", \.dropsLast),
    choice(
      "train_sampling_strategy", "order of the records: random, sequential or group_by_length", \.sampling,
      SamplingStrategy.allCases),
    flag("activation_checkpointing", "keep layers' inputs alone, and run them again", \.checkpointsActivations)
      .changing,
  ]

  private static let events: [Setting] = [
    choice("logging_strategy", "when to log: no, steps or epoch", \.loggingInterval, [.no, .steps, .epoch]).changing,
    interval("logging_steps", "steps between logs, or their share below 1", "500", \.loggingSteps).changing,
    flag("logging_first_step", "log the first step too", \.logsFirstStep).changing,
    choice("eval_strategy", "when to evaluate: no, steps or epoch", \.evaluationInterval, [.no, .steps, .epoch]),
    Setting(
      name: "eval_steps", summary: "steps between evaluations, or their share below 1; those of logging if not given",
      expected: intervalText, read: { $0.evaluationSteps.map { .number($0) } ?? .null },
      set: { arguments, value in
        guard let steps = interval(value) else { return value == .null }
        arguments.evaluationSteps = steps
        return true
      }),
    number("eval_delay", "steps or epochs before the first evaluation", "0", \.evaluationDelay, 0...1e12),
    choice(
      "save_strategy", "when to write a checkpoint: no, steps, epoch or best", \.saveInterval,
      TrainingInterval.allCases
    ).changing,
    interval("save_steps", "steps between checkpoints, or their share below 1", "500", \.saveSteps).changing,
    Setting(
      name: "save_total_limit", summary: "checkpoints that are kept, the best and the newest always",
      mayChange: true, expected: "a whole number", read: { $0.saveLimit.map { .integer($0) } ?? .null },
      set: { arguments, value in
        guard let count = value.integerValue, (0...1 << 30).contains(count) else { return value == .null }
        arguments.saveLimit = count
        return true
      }),
    flag("save_only_model", "write checkpoints that a run cannot go on from", \.savesOnlyModel).changing,
    flag("load_best_model_at_end", "end with the best checkpoint's adapter", \.loadsBest).changing,
    Setting(
      name: "metric_for_best_model", summary: "figure of an evaluation that finds the best: loss or nll_per_token",
      mayChange: true, expected: "loss, eval_loss, nll_per_token or eval_nll_per_token",
      read: { $0.bestMetric.map { .string($0) } ?? .null },
      set: { arguments, value in
        guard let name = value.stringValue else { return value == .null }
        guard ["loss", "nll_per_token"].contains(name.replacing("eval_", with: "")) else { return false }
        arguments.bestMetric = name
        return true
      }),
    Setting(
      name: "greater_is_better", summary: "whether the best figure is the greatest: true or false", mayChange: true,
      expected: "true or false", read: { $0.greaterIsBetter.map { .bool($0) } ?? .null },
      set: { arguments, value in
        guard let flag = value.boolValue else { return value == .null }
        arguments.greaterIsBetter = flag
        return true
      }),
  ]

  /// Sets a value by its name. Throws `.unknownArgument` with the nearest names, `.argumentValue`.
  public mutating func set(_ name: String, _ value: JSONValue) throws(TrainingError) {
    guard let setting = Self.settings.first(where: { $0.name == name }) else {
      throw .unknownArgument(name: name, nearest: nearestNames(to: name, in: Self.settings.map(\.name)))
    }
    guard setting.set(&self, value) else {
      throw .argumentValue(name: name, found: value.compactText, expected: setting.expected)
    }
  }

  /// All settings with their values, by name.
  public var json: JSONValue { .object(Self.settings.map { .init($0.name, $0.read(self)) }) }

  /// The first setting that decides the trained numbers and has another value in `other`, with this one's value and the other's.
  func difference(to other: JSONValue) -> (name: String, found: String, expected: String)? {
    for setting in Self.settings where !setting.mayChange {
      let (own, given) = (setting.read(self), other[setting.name] ?? .null)
      if own != given { return (setting.name, own.compactText, given.compactText) }
    }
    return nil
  }
}

extension LearningRateSchedule {
  /// What `lr_scheduler_kwargs` says.
  fileprivate var json: JSONValue {
    var members: [JSONValue.Member] = []
    if let cycles { members.append(.init("num_cycles", .number(cycles))) }
    if power != 1 { members.append(.init("power", .number(power))) }
    if endRate != 1e-7 { members.append(.init("lr_end", .number(endRate))) }
    if let timescale { members.append(.init("timescale", .integer(timescale))) }
    return .object(members)
  }
}
