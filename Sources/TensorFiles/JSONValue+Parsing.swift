internal import CJansson

/// Where and why a text is not JSON.
struct JSONFailure: Error {
  enum Reason { case notUTF8, duplicateKey, numberOutOfRange, syntax }
  let reason: Reason
  let line: Int
  let column: Int
  let byteOffset: Int
  let message: String

  /// The text after "near" in Jansson's message, without its quotes: the offending token.
  var near: String {
    guard let start = message.firstRange(of: " near '")?.upperBound else { return "" }
    return String(message[start...].dropLast())
  }
}

/// A parsed document owned by Jansson. Not Sendable; lives within one function.
struct JSONDocument: ~Copyable {
  let root: OpaquePointerToJSON

  /// Refuses duplicate keys, numbers beyond 64 bits, more than 2048 levels, and anything after the document.
  ///
  /// - Parameter readsLongIntegers: true to read all integers as floating numbers where one is beyond 64 bits.
  init(parsing bytes: RawSpan, readsLongIntegers: Bool = false) throws(JSONFailure) {
    try Self.checkSize(bytes)
    var error = json_error_t()
    let flags = Int(JSON_REJECT_DUPLICATES) | Int(JSON_DECODE_ANY) | Int(JSON_ALLOW_NUL)
    // Soundness: Jansson reads `count` bytes at most and keeps no pointer to them.
    func load(_ flags: Int) -> OpaquePointerToJSON? {
      bytes.withUnsafeBytes { buffer in
        json_loadb(buffer.baseAddress?.assumingMemoryBound(to: CChar.self), buffer.count, flags, &error)
      }
    }
    var parsed = load(flags)
    if parsed == nil, readsLongIntegers, json_error_code(&error) == json_error_numeric_overflow {
      parsed = load(flags | Int(JSON_DECODE_INT_AS_REAL))
    }
    guard let parsed else {
      let text = withUnsafeBytes(of: error.text) { raw in
        String(decoding: raw.prefix(while: { $0 != 0 }), as: UTF8.self)
      }
      let reason: JSONFailure.Reason =
        switch json_error_code(&error) {
        case json_error_invalid_utf8: .notUTF8
        case json_error_duplicate_key: .duplicateKey
        case json_error_numeric_overflow: .numberOutOfRange
        default: .syntax
        }
      throw JSONFailure(
        reason: reason, line: Int(error.line), column: Int(error.column), byteOffset: Int(error.position),
        message: text)
    }
    root = parsed
  }

  deinit { json_decref(root) }

  /// Values that a document may have: enough for four hundred thousand tensors. Each takes up to a hundred bytes of
  /// memory, whatever little it takes in the file.
  private static let valueLimit = 4_000_000

  private static func checkSize(_ bytes: RawSpan) throws(JSONFailure) {
    guard bytes.byteCount > valueLimit else { return }
    // Counts inside strings too: an upper bound is enough.
    let separators = bytes.withUnsafeBytes { buffer in
      buffer.reduce(0) { $0 + ($1 == UInt8(ascii: ",") || $1 == UInt8(ascii: "[") || $1 == UInt8(ascii: "{") ? 1 : 0) }
    }
    guard separators > valueLimit else { return }
    throw JSONFailure(
      reason: .syntax, line: 1, column: 1, byteOffset: 0,
      message: "it has \(separators) values or more, over the limit of \(valueLimit)")
  }

  var value: JSONValue { JSONValue(root) }
}

typealias OpaquePointerToJSON = UnsafeMutablePointer<json_t>

/// The members of a Jansson object in the order of the text.
struct JSONMembers: Sequence, IteratorProtocol {
  private let object: OpaquePointerToJSON
  private var position: UnsafeMutableRawPointer?

  init(_ object: OpaquePointerToJSON) {
    self.object = object
    position = json_object_iter(object)
  }

  mutating func next() -> (key: String, value: OpaquePointerToJSON)? {
    guard let current = position, let value = json_object_iter_value(current) else { return nil }
    let key = UnsafeRawBufferPointer(
      start: json_object_iter_key(current), count: json_object_iter_key_len(current))
    position = json_object_iter_next(object, current)
    return (String(decoding: key, as: UTF8.self), value)
  }
}

extension JSONValue {
  init(_ json: OpaquePointerToJSON) {
    switch json.pointee.type {
    case JSON_OBJECT:
      self = .object(JSONMembers(json).map { Member($0.key, JSONValue($0.value)) })
    case JSON_ARRAY:
      self = .array(
        (0..<json_array_size(json)).compactMap { index in json_array_get(json, index).map { JSONValue($0) } })
    case JSON_STRING:
      let bytes = UnsafeRawBufferPointer(start: json_string_value(json), count: json_string_length(json))
      self = .string(String(decoding: bytes, as: UTF8.self))
    case JSON_INTEGER: self = .integer(Int(json_integer_value(json)))
    case JSON_REAL: self = .number(json_real_value(json))
    case JSON_TRUE: self = .bool(true)
    case JSON_FALSE: self = .bool(false)
    default: self = .null
    }
  }

  /// Bytes that a JSON file may have.
  public static let fileLimit = 100_000_000

  /// Reads a JSON file. Throws `.system`, `.notAFile`, `.jsonTooLarge`, or `.jsonInvalid` with the place, for anything Python's `json` would refuse and
  /// for duplicate keys and numbers beyond 64 bits.
  ///
  /// - Parameter readsLongIntegers: true to read all integers as floating numbers where one is beyond 64 bits.
  public init(contentsOf path: String, readsLongIntegers: Bool = false) throws(TensorFileError) {
    let file = try OpenFile.open(reading: path)
    let count = try file.byteCount()
    guard count <= Self.fileLimit else {
      throw .jsonTooLarge(path: path, byteCount: count, limit: Self.fileLimit)
    }
    let bytes = try file.bytes(0..<count)
    do throws(JSONFailure) {
      self = try JSONDocument(parsing: bytes.span.bytes, readsLongIntegers: readsLongIntegers).value
    } catch {
      throw .jsonInvalid(path: path, line: error.line, column: error.column, reason: error.message)
    }
  }

  /// Parses text; nil if it is not JSON.
  public init?(parsing text: String) {
    guard let document = try? JSONDocument(parsing: Array(text.utf8).span.bytes) else { return nil }
    self = document.value
  }
}
