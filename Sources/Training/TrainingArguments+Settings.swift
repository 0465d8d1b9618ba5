package import TensorFiles

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
    /// The words that it may be; empty where it is no choice of words.
    package var choices: [String] = []
    /// True if a run that goes on from a checkpoint may have another value: the trained numbers do not depend on it.
    var mayChange = false
    /// What the value may be, for messages.
    let expected: String
    /// The value that arguments have.
    let read: @Sendable (TrainingArguments) -> JSONValue
    /// Takes the value; false if it is not one that the setting can have.
    let set: @Sendable (inout TrainingArguments, JSONValue) -> Bool

    /// The same setting, free to change between runs.
    var changing: Setting {
      var setting = self
      setting.mayChange = true
      return setting
    }
  }

  static func count(
    _ name: String, _ summary: String, _ defaultText: String,
    _ path: any WritableKeyPath<TrainingArguments, Int> & Sendable
  ) -> Setting {
    Setting(
      name: name, summary: summary, defaultText: defaultText, expected: "a whole number from 1",
      read: { .integer($0[keyPath: path]) },
      set: { arguments, value in
        guard let count = value.integerValue, (1...1 << 30).contains(count) else { return false }
        arguments[keyPath: path] = count
        return true
      })
  }

  static func number(
    _ name: String, _ summary: String, _ defaultText: String,
    _ path: any WritableKeyPath<TrainingArguments, Double> & Sendable, _ range: ClosedRange<Double>
  ) -> Setting {
    Setting(
      name: name, summary: summary, defaultText: defaultText,
      expected: "a number from \(range.lowerBound) to \(range.upperBound)", read: { .number($0[keyPath: path]) },
      set: { arguments, value in
        guard let number = value.numberValue, range.contains(number) else { return false }
        arguments[keyPath: path] = number
        return true
      })
  }

  /// A number that may be null.
  static func number(
    _ name: String, _ summary: String, _ path: any WritableKeyPath<TrainingArguments, Double?> & Sendable,
    _ range: ClosedRange<Double>
  ) -> Setting {
    Setting(
      name: name, summary: summary, expected: "a number from \(range.lowerBound) to \(range.upperBound)",
      read: { $0[keyPath: path].map { .number($0) } ?? .null },
      set: { arguments, value in
        if value == .null {
          arguments[keyPath: path] = nil
          return true
        }
        guard let number = value.numberValue, range.contains(number) else { return false }
        arguments[keyPath: path] = number
        return true
      })
  }

  static let intervalText = "a whole number of steps, or a share above 0 and below 1"

  /// A number of steps, or their share below 1; nil for anything else.
  static func interval(_ value: JSONValue) -> Double? {
    guard let number = value.numberValue, number > 0, number <= 1e12, number < 1 || number == number.rounded() else {
      return nil
    }
    return number
  }

  static func interval(
    _ name: String, _ summary: String, _ defaultText: String,
    _ path: any WritableKeyPath<TrainingArguments, Double> & Sendable
  ) -> Setting {
    Setting(
      name: name, summary: summary, defaultText: defaultText, expected: intervalText,
      read: { .number($0[keyPath: path]) },
      set: { arguments, value in
        guard let steps = interval(value) else { return false }
        arguments[keyPath: path] = steps
        return true
      })
  }

  static func flag(
    _ name: String, _ summary: String, _ path: any WritableKeyPath<TrainingArguments, Bool> & Sendable
  ) -> Setting {
    Setting(
      name: name, summary: summary, isSwitch: true, expected: "true or false", read: { .bool($0[keyPath: path]) },
      set: { arguments, value in
        if value == .null { return true }
        guard let flag = value.flagValue else { return false }
        arguments[keyPath: path] = flag
        return true
      })
  }

  static func choice<Choice: RawRepresentable<String> & Sendable & SendableMetatype>(
    _ name: String, _ summary: String, _ path: any WritableKeyPath<TrainingArguments, Choice> & Sendable,
    _ choices: [Choice]
  ) -> Setting {
    let words = choices.map(\.rawValue)
    let expected = words.dropLast().joined(separator: ", ") + " or \(words.last ?? "")"
    return Setting(
      name: name, summary: summary, defaultText: TrainingArguments()[keyPath: path].rawValue, choices: words,
      expected: expected,
      read: { .string($0[keyPath: path].rawValue) },
      set: { arguments, value in
        // YAML 1.1 and flags without quotes give `no` as a truth value.
        let word = value.stringValue ?? (value == .bool(false) ? "no" : "")
        guard let choice = choices.first(where: { $0.rawValue == word }) else { return false }
        arguments[keyPath: path] = choice
        return true
      })
  }

  static func seed(
    _ name: String, _ summary: String, _ defaultText: String?, read: @escaping @Sendable (TrainingArguments) -> UInt64?,
    set: @escaping @Sendable (inout TrainingArguments, UInt64) -> Void
  ) -> Setting {
    Setting(
      name: name, summary: summary, defaultText: defaultText, expected: "a whole number from 0",
      read: { read($0).map { .integer(Int($0)) } ?? .null },
      set: { arguments, value in
        guard let seed = value.integerValue, seed >= 0 else { return value == .null && defaultText == nil }
        set(&arguments, UInt64(seed))
        return true
      })
  }
}

extension JSONValue {
  /// Any number as a `Double`; nil for anything else. A text such as `5e-5`, which YAML 1.1 takes for one, counts.
  package var numberValue: Double? {
    switch self {
    case .integer(let value): Double(value)
    case .number(let value): value
    case .string(let text): Double(text).flatMap { $0.isFinite ? $0 : nil }
    default: nil
    }
  }

  fileprivate var flagValue: Bool? {
    switch self {
    case .bool(let flag): flag
    case .string("true"): true
    case .string("false"): false
    default: nil
    }
  }
}
