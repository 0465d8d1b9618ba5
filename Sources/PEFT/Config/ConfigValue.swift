public import TensorFiles

/// A type that a key of adapter_config.json can hold.
protocol ConfigValue: Equatable, Sendable {
  /// What the error says was expected, as in "expected a whole number".
  static var expectation: String { get }
  /// Nil if the value has another type.
  init?(json: JSONValue)
  var json: JSONValue { get }
}

extension Bool: ConfigValue {
  static var expectation: String { "true or false" }
  init?(json: JSONValue) {
    guard let value = json.boolValue else { return nil }
    self = value
  }
  var json: JSONValue { .bool(self) }
}

extension Int: ConfigValue {
  static var expectation: String { "a whole number" }
  init?(json: JSONValue) {
    guard let value = json.integerValue else { return nil }
    self = value
  }
  var json: JSONValue { .integer(self) }
}

extension String: ConfigValue {
  static var expectation: String { "a string" }
  init?(json: JSONValue) {
    guard let value = json.stringValue else { return nil }
    self = value
  }
  var json: JSONValue { .string(self) }
}

extension JSONValue: ConfigValue {
  static var expectation: String { "any value" }
  init?(json: JSONValue) { self = json }
  var json: JSONValue { self }
}

extension Optional: ConfigValue where Wrapped: ConfigValue {
  static var expectation: String { "\(Wrapped.expectation) or null" }
  init?(json: JSONValue) {
    if json == .null {
      self = Optional<Wrapped>.none
    } else {
      guard let value = Wrapped(json: json) else { return nil }
      self = Optional<Wrapped>.some(value)
    }
  }
  var json: JSONValue { self?.json ?? .null }
}

extension Array: ConfigValue where Element: ConfigValue {
  static var expectation: String { "a list (each \(Element.expectation))" }
  init?(json: JSONValue) {
    guard let elements = json.elements else { return nil }
    var values: [Element] = []
    for element in elements {
      guard let value = Element(json: element) else { return nil }
      values.append(value)
    }
    self = values
  }
  var json: JSONValue { .array(map(\.json)) }
}

/// A number as Python wrote it: 16 and 16.0 stay apart, so that a saved file keeps its bytes.
public enum PythonNumber: Sendable, Hashable, ExpressibleByIntegerLiteral, ExpressibleByFloatLiteral {
  case integer(Int)
  case real(Double)

  public init(integerLiteral value: Int) { self = .integer(value) }
  public init(floatLiteral value: Double) { self = .real(value) }

  public var doubleValue: Double {
    switch self {
    case .integer(let value): Double(value)
    case .real(let value): value
    }
  }
}

extension PythonNumber: ConfigValue {
  static var expectation: String { "a number" }
  init?(json: JSONValue) {
    switch json {
    case .integer(let value): self = .integer(value)
    case .number(let value): self = .real(value)
    default: return nil
    }
  }
  var json: JSONValue {
    switch self {
    case .integer(let value): .integer(value)
    case .real(let value): .number(value)
    }
  }
}

/// A rule that picks modules: `target_modules` and `exclude_modules`.
public enum ModuleRule: Sendable, Hashable {
  /// Full paths or suffixes after a dot.
  case names([String])
  /// A Python regular expression for the full path, or a shorthand such as "all-linear".
  case pattern(String)

  /// PEFT's shorthand for every linear layer but the output head, in any case.
  public static let allLinear = "all-linear"

  /// True for the shorthand.
  public var isAllLinear: Bool {
    if case .pattern(let pattern) = self { pattern.lowercased() == Self.allLinear } else { false }
  }
}

extension ModuleRule: ConfigValue {
  static var expectation: String { "a list of strings or a string" }
  init?(json: JSONValue) {
    if let pattern = json.stringValue {
      self = .pattern(pattern)
    } else if let names = [String](json: json) {
      self = .names(names)
    } else {
      return nil
    }
  }
  var json: JSONValue {
    switch self {
    case .names(let names): names.json
    case .pattern(let pattern): .string(pattern)
    }
  }
}

/// One value or a list of them: `layers_to_transform`, `layers_pattern`.
public enum OneOrMany<Element: Sendable & Hashable>: Sendable, Hashable {
  case one(Element)
  case many([Element])

  /// The values as a list.
  public var values: [Element] {
    switch self {
    case .one(let value): [value]
    case .many(let values): values
    }
  }
}

extension OneOrMany: ConfigValue where Element: ConfigValue {
  static var expectation: String { "\(Element.expectation) or a list of them" }
  init?(json: JSONValue) {
    if let value = Element(json: json) {
      self = .one(value)
    } else if let values = [Element](json: json) {
      self = .many(values)
    } else {
      return nil
    }
  }
  var json: JSONValue {
    switch self {
    case .one(let value): value.json
    case .many(let values): values.json
    }
  }
}

/// A value for each pattern, in the order of the file: `rank_pattern`, `alpha_pattern`. The first pattern that matches a
/// module counts.
public struct PatternMap<Value: Sendable & Hashable>: Sendable, Hashable {
  /// A pattern and its value.
  public struct Entry: Sendable, Hashable {
    public var pattern: String
    public var value: Value

    public init(_ pattern: String, _ value: Value) {
      self.pattern = pattern
      self.value = value
    }
  }

  public var entries: [Entry]

  public init(_ entries: [Entry] = []) { self.entries = entries }
}

extension PatternMap: ConfigValue where Value: ConfigValue {
  static var expectation: String { "an object (each value \(Value.expectation))" }
  /// Null counts as empty: early files have it.
  init?(json: JSONValue) {
    if json == .null {
      self.init()
      return
    }
    guard let members = json.members else { return nil }
    var entries: [Entry] = []
    for member in members {
      guard let value = Value(json: member.value) else { return nil }
      entries.append(Entry(member.key, value))
    }
    self.init(entries)
  }
  var json: JSONValue { .object(entries.map { JSONValue.Member($0.pattern, $0.value.json) }) }
}
