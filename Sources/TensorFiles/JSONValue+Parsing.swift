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
  init(parsing bytes: RawSpan) throws(JSONFailure) {
    var error = json_error_t()
    let flags = json_flag(JSON_REJECT_DUPLICATES) | json_flag(JSON_DECODE_ANY) | json_flag(JSON_ALLOW_NUL)
    // Soundness: Jansson reads `count` bytes at most and keeps no pointer to them.
    let parsed = bytes.withUnsafeBytes { buffer in
      json_loadb(buffer.baseAddress?.assumingMemoryBound(to: CChar.self), buffer.count, flags, &error)
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

  var value: JSONValue { JSONValue(root) }
}

typealias OpaquePointerToJSON = UnsafeMutablePointer<json_t>

private func json_flag(_ flag: Int32) -> Int { Int(flag) }

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

  /// Reads a JSON file. Throws `.system`, or `.jsonInvalid` with the place, for anything Python's `json` would refuse and
  /// for duplicate keys and numbers beyond 64 bits.
  public init(contentsOf path: String) throws(TensorFileError) {
    let file = try File.open(reading: path)
    let bytes = try file.bytes(0..<file.byteCount())
    do throws(JSONFailure) {
      self = try JSONDocument(parsing: bytes.span.bytes).value
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
