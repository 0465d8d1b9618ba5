/// A JSON document. Objects keep the order of their keys; whole numbers stay apart from fractional ones, so that what is
/// read is what is written back.
public enum JSONValue: Sendable {
  case null
  case bool(Bool)
  case integer(Int)
  case number(Double)
  case string(String)
  case array([JSONValue])
  case object([Member])

  /// A key and its value.
  public struct Member: Sendable, Equatable {
    @ExactName public var key: String
    public var value: JSONValue

    public init(_ key: String, _ value: JSONValue) {
      _key = ExactName(key)
      self.value = value
    }
  }

  /// The value of a key; nil on absence and on anything but an object. Setting nil removes the key; a new key goes to
  /// the end. Setting traps on anything but an object.
  public subscript(_ key: String) -> JSONValue? {
    get { members?.first { $0.key.isExactly(key) }?.value }
    set {
      guard case .object(var members) = self else { preconditionFailure("not a JSON object") }
      let index = members.firstIndex { $0.key.isExactly(key) }
      switch (index, newValue) {
      case (let index?, let value?): members[index].value = value
      case (let index?, nil): members.remove(at: index)
      case (nil, let value?): members.append(Member(key, value))
      case (nil, nil): break
      }
      self = .object(members)
    }
  }

  /// The members of an object; nil for anything else.
  public var members: [Member]? {
    if case .object(let members) = self { members } else { nil }
  }

  /// The elements of an array; nil for anything else.
  public var elements: [JSONValue]? {
    if case .array(let elements) = self { elements } else { nil }
  }

  /// The string; nil for anything else.
  public var stringValue: String? {
    if case .string(let string) = self { string } else { nil }
  }

  /// The whole number; nil for anything else.
  public var integerValue: Int? {
    if case .integer(let integer) = self { integer } else { nil }
  }

  /// The truth value; nil for anything else.
  public var boolValue: Bool? {
    if case .bool(let bool) = self { bool } else { nil }
  }

  /// True for null, false, zero, and the empty string, array and object: Python's idea of false.
  public var isEmptyOrFalse: Bool {
    switch self {
    case .null, .bool(false), .integer(0), .number(0): true
    case .string(let string): string.isEmpty
    case .array(let elements): elements.isEmpty
    case .object(let members): members.isEmpty
    default: false
    }
  }
}

extension JSONValue: Equatable {
  /// Texts and keys are equal where their code points are.
  public static func == (left: JSONValue, right: JSONValue) -> Bool {
    switch (left, right) {
    case (.null, .null): true
    case (.bool(let a), .bool(let b)): a == b
    case (.integer(let a), .integer(let b)): a == b
    case (.number(let a), .number(let b)): a == b
    case (.string(let a), .string(let b)): a.isExactly(b)
    case (.array(let a), .array(let b)): a == b
    case (.object(let a), .object(let b)): a == b
    default: false
    }
  }
}
