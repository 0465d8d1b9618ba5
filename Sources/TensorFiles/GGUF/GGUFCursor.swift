/// Reads a GGUF header from its beginning to its end; every length is checked against the bytes that are left.
struct GGUFCursor {
  let file: OpenFile
  let path: String
  let fileBytes: Int
  private(set) var position = 0
  private var buffer: [UInt8] = []
  private var bufferStart = 0
  private var values = 0

  init(path: String) throws(TensorFileError) {
    file = try OpenFile.open(reading: path)
    self.path = path
    fileBytes = try file.byteCount()
  }

  func malformed(_ reason: String, at byteOffset: Int) -> TensorFileError {
    .ggufMalformed(path: path, byteOffset: byteOffset, reason: reason)
  }

  /// The next bytes.
  mutating func bytes(_ count: Int, _ what: String) throws(TensorFileError) -> ArraySlice<UInt8> {
    guard count <= fileBytes - position else { throw malformed("the file ends within \(what)", at: position) }
    guard count <= GGUFFile.headerLimit - position else {
      throw malformed("the header is longer than \(GGUFFile.headerLimit) bytes", at: position)
    }
    if position < bufferStart || position + count > bufferStart + buffer.count {
      let end = position + min(max(count, 1 << 16), fileBytes - position)
      try file.read(position..<end, into: &buffer)
      bufferStart = position
    }
    let start = position - bufferStart
    position += count
    return buffer[start..<start + count]
  }

  /// A little-endian number.
  mutating func integer<Value: FixedWidthInteger>(_ what: String) throws(TensorFileError) -> Value {
    let bytes = try bytes(Value.bitWidth / 8, what)
    var value: Value = 0
    for byte in bytes.reversed() { value = value << 8 | Value(truncatingIfNeeded: byte) }
    return value
  }

  /// A number of things of which each takes at least so many of the bytes that are left.
  mutating func count(_ what: String, leastBytes: Int) throws(TensorFileError) -> Int {
    let start = position
    let claimed: UInt64 = try integer(what)
    guard claimed <= UInt64((fileBytes - position) / leastBytes) else {
      throw malformed("\(what) is \(claimed), more than the file has room for", at: start)
    }
    return Int(claimed)
  }

  mutating func text(_ what: String) throws(TensorFileError) -> String {
    let start = position
    let length = try count("the length of \(what)", leastBytes: 1)
    guard let text = String(validating: try bytes(length, what), as: UTF8.self) else {
      throw malformed("\(what) is not UTF-8", at: start)
    }
    return text
  }

  mutating func kind() throws(TensorFileError) -> GGUFValue.Kind {
    let start = position
    let number: UInt32 = try integer("a value's type")
    guard let kind = GGUFValue.Kind(rawValue: number) else {
      throw malformed("value type \(number), which is not known", at: start)
    }
    return kind
  }

  mutating func value(_ kind: GGUFValue.Kind, depth: Int) throws(TensorFileError) -> GGUFValue {
    let start = position
    values += 1
    guard values <= GGUFFile.valueLimit else {
      throw malformed("more than \(GGUFFile.valueLimit) values of metadata", at: start)
    }
    let what = "a value"
    switch kind {
    case .u8: return .u8(try integer(what))
    case .i8: return .i8(try integer(what))
    case .u16: return .u16(try integer(what))
    case .i16: return .i16(try integer(what))
    case .u32: return .u32(try integer(what))
    case .i32: return .i32(try integer(what))
    case .f32: return .f32(Float(bitPattern: try integer(what)))
    case .u64: return .u64(try integer(what))
    case .i64: return .i64(try integer(what))
    case .f64: return .f64(Double(bitPattern: try integer(what)))
    case .bool:
      let byte: UInt8 = try integer(what)
      guard byte <= 1 else { throw malformed("a truth value of \(byte)", at: start) }
      return .bool(byte == 1)
    case .string: return .string(try text("a text"))
    case .array:
      guard depth < 4 else { throw malformed("arrays of more than four levels", at: start) }
      let inner = try self.kind()
      let count = try count("the length of an array", leastBytes: inner.leastBytes)
      guard count <= GGUFFile.valueLimit - values else {
        throw malformed("more than \(GGUFFile.valueLimit) values of metadata", at: start)
      }
      var elements: [GGUFValue] = []
      for _ in 0..<count { elements.append(try value(inner, depth: depth + 1)) }
      return .array(inner, elements)
    }
  }
}
