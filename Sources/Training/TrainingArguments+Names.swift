public import TensorFiles

extension TrainingArguments {
  /// A setting by its name in transformers' `TrainingArguments`.
  struct Setting: Sendable {
    let name: String
    /// What the value may be, for messages.
    let expected: String
    /// Takes the value; false if it is not one that the setting can have.
    let set: @Sendable (inout TrainingArguments, JSONValue) -> Bool
  }

  /// All settings that are read, in the order in which help lists them.
  static let settings: [Setting] = [
    count("per_device_train_batch_size", \.batchSize), count("per_device_eval_batch_size", \.evaluationBatchSize),
    count("gradient_accumulation_steps", \.accumulationSteps),
    number("num_train_epochs", \.epochs, 0...1e9),
    Setting(name: "max_steps", expected: "a whole number") { arguments, value in
      guard let steps = value.integerValue, (-1...1 << 40).contains(steps) else { return false }
      arguments.maxSteps = steps
      return true
    },
    number("learning_rate", \.learningRate, 0...1e9), number("weight_decay", \.weightDecay, 0...1e9),
    number("adam_beta1", \.beta1, 0...0.9999999), number("adam_beta2", \.beta2, 0...0.9999999),
    number("adam_epsilon", \.epsilon, 0...1), number("max_grad_norm", \.maxGradientNorm, -1e9...1e30),
    Setting(
      name: "lr_scheduler_type", expected: LearningRateSchedule.Kind.allCases.map(\.rawValue).joined(separator: ", ")
    ) { arguments, value in
      guard let kind = LearningRateSchedule.Kind(rawValue: value.stringValue ?? "") else { return false }
      arguments.schedule.kind = kind
      return true
    },
    Setting(name: "lr_scheduler_kwargs", expected: "num_cycles, power, lr_end or timescale") { arguments, value in
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
    Setting(name: "warmup_steps", expected: "a number of steps, or a share below 1") { arguments, value in
      guard let number = value.number, (0...1e12).contains(number) else { return false }
      arguments.warmupShare = number > 0 && number < 1 ? number : nil
      arguments.schedule.warmupSteps = number < 1 ? 0 : Int(number)
      return true
    },
    Setting(name: "warmup_ratio", expected: "a share from 0 to 1") { arguments, value in
      guard let number = value.number, (0...1).contains(number) else { return false }
      arguments.warmupShare = number > 0 ? number : nil
      return true
    },
    number("label_smoothing_factor", \.labelSmoothing, 0...1),
    Setting(name: "seed", expected: "a whole number from 0") { arguments, value in
      guard let seed = value.integerValue, seed >= 0 else { return false }
      arguments.seed = UInt64(seed)
      return true
    },
    Setting(name: "data_seed", expected: "a whole number from 0") { arguments, value in
      guard let seed = value.integerValue, seed >= 0 else { return value == .null }
      arguments.dataSeed = UInt64(seed)
      return true
    },
    flag("dataloader_drop_last", \.dropsLast),
    Setting(name: "train_sampling_strategy", expected: "random or sequential") { arguments, value in
      guard ["random", "sequential"].contains(value.stringValue) else { return false }
      arguments.shuffles = value.stringValue == "random"
      return true
    },
    flag("activation_checkpointing", \.checkpointsActivations),
    flag("gradient_checkpointing", \.checkpointsActivations),
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

  private static func count(_ name: String, _ path: any WritableKeyPath<TrainingArguments, Int> & Sendable) -> Setting {
    Setting(name: name, expected: "a whole number from 1") { arguments, value in
      guard let count = value.integerValue, (1...1 << 30).contains(count) else { return false }
      arguments[keyPath: path] = count
      return true
    }
  }

  private static func number(
    _ name: String, _ path: any WritableKeyPath<TrainingArguments, Double> & Sendable, _ range: ClosedRange<Double>
  ) -> Setting {
    Setting(name: name, expected: "a number from \(range.lowerBound) to \(range.upperBound)") { arguments, value in
      guard let number = value.number, range.contains(number) else { return false }
      arguments[keyPath: path] = number
      return true
    }
  }

  private static func flag(_ name: String, _ path: any WritableKeyPath<TrainingArguments, Bool> & Sendable) -> Setting {
    Setting(name: name, expected: "true or false") { arguments, value in
      guard let flag = value.boolValue else { return value == .null }
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
