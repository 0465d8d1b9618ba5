internal import PEFT
public import TensorFiles

/// config.json of a model, its values checked as they are asked for.
public struct ModelConfig: Sendable {
  public let path: String
  public let json: JSONValue

  /// Reads config.json in a directory. Throws `.configMissing`, `.file`.
  public init(directory: String) throws(ModelError) {
    guard
      let path = try asModelError({ () throws(TensorFileError) in try ModelFiles.path("config.json", in: directory) })
    else { throw .configMissing(path: directory) }
    self.path = path
    json = try asModelError { () throws(TensorFileError) in try JSONValue(contentsOf: path) }
  }

  /// A value that is there and not null.
  public func value(_ key: String) -> JSONValue? { json[key].flatMap { $0 == .null ? nil : $0 } }

  private func wrong(_ key: String, _ expected: String) -> ModelError {
    .configValue(path: path, key: key, expected: expected, found: json[key]?.compactText ?? "absent")
  }

  /// A whole number from 1 to 2³⁰; the fallback where it is absent or null. Throws `.configValue`.
  public func count(_ key: String, default fallback: Int? = nil) throws(ModelError) -> Int {
    guard let found = value(key) else {
      if let fallback { return fallback }
      throw wrong(key, "a whole number")
    }
    guard let number = found.integerValue, (1...1 << 30).contains(number) else {
      throw wrong(key, "a whole number from 1")
    }
    return number
  }

  /// A finite number; the fallback where it is absent or null. Throws `.configValue`.
  public func number(_ key: String, default fallback: Double) throws(ModelError) -> Double {
    guard let found = value(key) else { return fallback }
    guard let number = found.doubleValue, number.isFinite else { throw wrong(key, "a number") }
    return number
  }

  /// A share of one; the fallback where it is absent or null. Throws `.configValue`.
  public func share(_ key: String, default fallback: Double) throws(ModelError) -> Double {
    let share = try number(key, default: fallback)
    guard (0...1).contains(share) else { throw wrong(key, "a number from 0 to 1") }
    return share
  }

  /// True or false; the fallback where it is absent or null. Throws `.configValue`.
  public func flag(_ key: String, default fallback: Bool) throws(ModelError) -> Bool {
    guard let found = value(key) else { return fallback }
    guard let flag = found.boolValue else { throw wrong(key, "true or false") }
    return flag
  }

  /// A text; the fallback where it is absent or null. Throws `.configValue`.
  public func text(_ key: String, default fallback: String) throws(ModelError) -> String {
    guard let found = value(key) else { return fallback }
    guard let text = found.stringValue else { throw wrong(key, "a string") }
    return text
  }

  /// Throws `.configValue` unless the condition holds.
  public func require(_ holds: Bool, _ key: String, _ expected: String) throws(ModelError) {
    guard holds else { throw wrong(key, expected) }
  }
}

extension JSONValue {
  /// Any number as a `Double`; nil for anything else.
  var doubleValue: Double? {
    switch self {
    case .integer(let value): Double(value)
    case .number(let value): value
    default: nil
    }
  }
}
