public import TensorFiles

extension TrainingArguments {
  /// A setting by its name in transformers' `TrainingArguments`.
  package struct Setting: Sendable {
    package let name: String
    /// One line for help.
    package let summary: String
    /// True for a setting that is true or false.
    package var isSwitch = false
    /// Its value where none is given.
    package var defaultText: String?
    /// What the value may be, for messages.
    let expected: String
    /// Takes the value; false if it is not one that the setting can have.
    let set: @Sendable (inout TrainingArguments, JSONValue) -> Bool
  }

  /// All settings that are read, in the order in which help lists them.
  package static let settings: [Setting] = [
    count("per_device_train_batch_size", "sequences of a batch", "8", \.batchSize),
    count("per_device_eval_batch_size", "sequences of a batch of evaluation", "8", \.evaluationBatchSize),
    count("gradient_accumulation_steps", "batches of a step", "1", \.accumulationSteps),
    number("num_train_epochs", "times that all records are seen", "3", \.epochs, 0...1e9),
    Setting(
      name: "max_steps", summary: "steps of the run; the epochs do not count then", defaultText: "-1",
      expected: "a whole number"
    ) { arguments, value in
      guard let steps = value.integerValue, (-1...1 << 40).contains(steps) else { return false }
      arguments.maxSteps = steps
      return true
    },
    number("learning_rate", "greatest learning rate", "5e-5", \.learningRate, 0...1e9),
    number(
      "weight_decay", "share of a parameter that each step takes away, times the rate", "0", \.weightDecay, 0...1e9),
    number("adam_beta1", "decay of the first moment", "0.9", \.beta1, 0...0.9999999),
    number("adam_beta2", "decay of the second moment", "0.999", \.beta2, 0...0.9999999),
    number("adam_epsilon", "what is added to the second moment's root", "1e-8", \.epsilon, 0...1),
    number(
      "max_grad_norm", "norm that gradients are scaled down to; 0 for no clipping", "1", \.maxGradientNorm, -1e9...1e30),
    Setting(
      name: "lr_scheduler_type", summary: "course of the learning rate", defaultText: "linear",
      expected: LearningRateSchedule.Kind.allCases.map(\.rawValue).joined(separator: ", ")
    ) { arguments, value in
      guard let kind = LearningRateSchedule.Kind(rawValue: value.stringValue ?? "") else { return false }
      arguments.schedule.kind = kind
      return true
    },
    Setting(
      name: "lr_scheduler_kwargs", summary: "settings of the course, as a JSON object",
      expected: "num_cycles, power, lr_end or timescale"
    ) { arguments, value in
      for member in value.members ?? [] {
        guard let number = member.value.number, number.isFinite else { return false }
        switch member.key {
        case "num_cycles": arguments.schedule.cycles = number
        case "power": arguments.schedule.power = number
        case "lr_end": arguments.schedule.endRate = number
        case "timescale": arguments.schedule.timescale = Int(exactly: number)
        default: return false
        }
      }
      return value.members != nil || value == .null
    },
    Setting(
      name: "warmup_steps", summary: "steps over which the rate rises, or their share below 1", defaultText: "0",
      expected: "a number of steps, or a share below 1"
    ) { arguments, value in
      guard let number = value.number, (0...1e12).contains(number) else { return false }
      arguments.warmupShare = number > 0 && number < 1 ? number : nil
      arguments.schedule.warmupSteps = number < 1 ? 0 : Int(number)
      return true
    },
    Setting(
      name: "warmup_ratio", summary: "share of the steps over which the rate rises", expected: "a share from 0 to 1"
    ) { arguments, value in
      guard let number = value.number, (0...1).contains(number) else { return false }
      arguments.warmupShare = number > 0 ? number : nil
      return true
    },
    number("label_smoothing_factor", "share of the loss that all tokens get", "0", \.labelSmoothing, 0...1),
    Setting(name: "seed", summary: "seed of order and dropout", defaultText: "42", expected: "a whole number from 0") {
      arguments, value in
      guard let seed = value.integerValue, seed >= 0 else { return false }
      arguments.seed = UInt64(seed)
      return true
    },
    Setting(name: "data_seed", summary: "seed of the order alone", expected: "a whole number from 0") {
      arguments, value in
      guard let seed = value.integerValue, seed >= 0 else { return value == .null }
      arguments.dataSeed = UInt64(seed)
      return true
    },
    flag("dataloader_drop_last", "leave out a last batch that is not full", \.dropsLast),
    Setting(
      name: "train_sampling_strategy", summary: "random or sequential", defaultText: "random",
      expected: "random or sequential"
    ) { arguments, value in
      guard ["random", "sequential"].contains(value.stringValue) else { return false }
      arguments.shuffles = value.stringValue == "random"
      return true
    },
    flag("activation_checkpointing", "keep layers' inputs alone, and run them again", \.checkpointsActivations),
    flag("gradient_checkpointing", "the old name of --activation-checkpointing", \.checkpointsActivations),
  ]

  /// Sets a value by its name. Throws `.unknownArgument` with the nearest name, `.argumentValue`.
  public mutating func set(_ name: String, _ value: JSONValue) throws(TrainingError) {
    guard let setting = Self.settings.first(where: { $0.name == name }) else {
      throw .unknownArgument(name: name, known: Self.settings.map(\.name))
    }
    guard setting.set(&self, value) else {
      throw .argumentValue(name: name, found: value.compactText, expected: setting.expected)
    }
  }

  private static func count(
    _ name: String, _ summary: String, _ defaultText: String,
    _ path: any WritableKeyPath<TrainingArguments, Int> & Sendable
  ) -> Setting {
    Setting(name: name, summary: summary, defaultText: defaultText, expected: "a whole number from 1") {
      arguments, value in
      guard let count = value.integerValue, (1...1 << 30).contains(count) else { return false }
      arguments[keyPath: path] = count
      return true
    }
  }

  private static func number(
    _ name: String, _ summary: String, _ defaultText: String,
    _ path: any WritableKeyPath<TrainingArguments, Double> & Sendable, _ range: ClosedRange<Double>
  ) -> Setting {
    Setting(
      name: name, summary: summary, defaultText: defaultText,
      expected: "a number from \(range.lowerBound) to \(range.upperBound)"
    ) { arguments, value in
      guard let number = value.number, range.contains(number) else { return false }
      arguments[keyPath: path] = number
      return true
    }
  }

  private static func flag(
    _ name: String, _ summary: String, _ path: any WritableKeyPath<TrainingArguments, Bool> & Sendable
  ) -> Setting {
    Setting(name: name, summary: summary, isSwitch: true, expected: "true or false") { arguments, value in
      guard let flag = value.boolValue ?? (value == .string("true") ? true : nil) else { return value == .null }
      arguments[keyPath: path] = flag
      return true
    }
  }
}

extension JSONValue {
  /// Any number as a `Double`; nil for anything else.
  fileprivate var number: Double? {
    switch self {
    case .integer(let value): Double(value)
    case .number(let value): value
    default: nil
    }
  }
}
