internal import Glibc

/// A name as a file spells it: two are one only if they have the same code points.
///
/// Swift's strings are equal where Unicode calls them canonically equivalent: `é` is `e` with U+0301 after it. No file format has that
/// rule, so names that come from files are compared, sorted, and kept as keys under this type; Python's strings do the same. As a
/// property wrapper, `@ExactName var name: String`, it gives the rule to the `Hashable` of the type that has the property.
@propertyWrapper
public struct ExactName: Sendable, Hashable, Comparable {
  public let wrappedValue: String

  public init(wrappedValue: String) { self.wrappedValue = wrappedValue }

  public init(_ text: String) { wrappedValue = text }

  /// The name as plain text, for messages and files.
  public var text: String { wrappedValue }

  public static func == (left: ExactName, right: ExactName) -> Bool {
    let (a, b) = (left.text.utf8Span.span, right.text.utf8Span.span)
    guard a.count == b.count else { return false }
    // Soundness: both spans hold as many bytes.
    return a.isEmpty
      || a.withUnsafeBytes { x in b.withUnsafeBytes { y in memcmp(x.baseAddress!, y.baseAddress!, x.count) } } == 0
  }

  /// The order of code points, which is that of UTF-8's bytes, and of Python's `sorted`.
  public static func < (left: ExactName, right: ExactName) -> Bool {
    let (a, b) = (left.text.utf8Span.span, right.text.utf8Span.span)
    let count = min(a.count, b.count)
    // Soundness: both spans hold `count` bytes or more.
    let order = a.withUnsafeBytes { x in
      b.withUnsafeBytes { y in count == 0 ? 0 : memcmp(x.baseAddress!, y.baseAddress!, count) }
    }
    return order == 0 ? a.count < b.count : order < 0
  }

  /// Of the bytes: names that only Unicode holds equal would otherwise share a hash, thousands of them in a hostile file.
  public func hash(into hasher: inout Hasher) {
    // Soundness: the hasher reads just the text's bytes.
    let isContiguous: Void? = text.utf8.withContiguousStorageIfAvailable { hasher.combine(bytes: .init($0)) }
    if isContiguous == nil { for byte in text.utf8 { hasher.combine(byte) } }
    hasher.combine(UInt8.max)
  }
}

extension ExactName: ExpressibleByStringLiteral, CustomStringConvertible {
  public init(stringLiteral text: String) { wrappedValue = text }

  public var description: String { text }
}

extension StringProtocol {
  /// True if both texts have the same code points.
  package func isExactly(_ other: some StringProtocol) -> Bool {
    utf8.count == other.utf8.count && utf8.elementsEqual(other.utf8)
  }

  /// True if the first code points are those of `prefix`.
  package func startsExactly(_ prefix: some StringProtocol) -> Bool { utf8.starts(with: prefix.utf8) }

  /// True if the last code points are those of `suffix`.
  package func endsExactly(_ suffix: some StringProtocol) -> Bool {
    utf8.count >= suffix.utf8.count && utf8.suffix(suffix.utf8.count).elementsEqual(suffix.utf8)
  }

  /// True if `name` is this path, or its last parts. For many names: `NameEndings`.
  package func endsInParts(_ name: some StringProtocol) -> Bool {
    guard endsExactly(name) else { return false }
    return utf8.count == name.utf8.count || utf8.dropLast(name.utf8.count).last == UInt8(ascii: ".")
  }
}

extension String {
  /// True if the code points of `text` stand in it.
  package func holds(_ text: String) -> Bool {
    let (bytes, wanted) = (utf8Span.span, text.utf8Span.span)
    guard let first = wanted.indices.first.map({ wanted[$0] }) else { return true }
    guard bytes.count >= wanted.count else { return false }
    for start in 0...bytes.count - wanted.count where bytes[start] == first {
      if wanted.indices.allSatisfy({ bytes[start + $0] == wanted[$0] }) { return true }
    }
    return false
  }

  /// What stands between the dots of a name. A dot counts whatever mark follows it.
  package func parts(keepingEmpty: Bool = false) -> [Substring] { Substring(self).parts(keepingEmpty: keepingEmpty) }
}

extension Substring {
  /// What stands between the dots of a name. A dot counts whatever mark follows it.
  package func parts(keepingEmpty: Bool = false) -> [Substring] {
    utf8.split(separator: UInt8(ascii: "."), omittingEmptySubsequences: !keepingEmpty).map { Substring($0) }
  }
}

extension Sequence where Element: StringProtocol {
  /// True if one of the texts has the code points of `text`.
  package func containsExactly(_ text: some StringProtocol) -> Bool { contains { $0.isExactly(text) } }
}

extension Sequence where Element == String {
  /// Sorted by code points.
  package func inExactOrder() -> [String] { sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) } }
}

// Plain text as a key, so that callers need no conversion.

extension Dictionary where Key == ExactName {
  public init(_ pairs: some Sequence<(String, Value)>, uniquingKeysWith combine: (Value, Value) -> Value) {
    self.init(pairs.lazy.map { (ExactName($0.0), $0.1) }, uniquingKeysWith: combine)
  }

  public subscript(_ name: String) -> Value? {
    get { self[ExactName(name)] }
    set { self[ExactName(name)] = newValue }
  }

  public subscript(_ name: String, default value: @autoclosure () -> Value) -> Value {
    get { self[ExactName(name)] ?? value() }
    _modify { yield &self[ExactName(name), default: value()] }
  }

  @discardableResult
  public mutating func updateValue(_ value: Value, forKey name: String) -> Value? {
    updateValue(value, forKey: ExactName(name))
  }
}

extension Set where Element == ExactName {
  public init(exactly names: some Sequence<String>) { self.init(names.lazy.map { ExactName($0) }) }

  public func contains(_ name: String) -> Bool { contains(ExactName(name)) }

  @discardableResult
  public mutating func insert(_ name: String) -> (inserted: Bool, memberAfterInsert: ExactName) {
    insert(ExactName(name))
  }
}
