/// A value of a GGUF file's metadata, with the type that it is stored in: readers tell `u32` and `i32` apart.
public enum GGUFValue: Sendable, Equatable {
  case u8(UInt8)
  case i8(Int8)
  case u16(UInt16)
  case i16(Int16)
  case u32(UInt32)
  case i32(Int32)
  case f32(Float)
  case bool(Bool)
  case string(String)
  /// The elements have the kind, also where there is none.
  case array(Kind, [GGUFValue])
  case u64(UInt64)
  case i64(Int64)
  case f64(Double)

  /// The type of a value, by the format's number for it.
  public enum Kind: UInt32, Sendable, CaseIterable {
    case u8, i8, u16, i16, u32, i32, f32, bool, string, array, u64, i64, f64

    /// Bytes that a value takes at least.
    var leastBytes: Int {
      switch self {
      case .u8, .i8, .bool: 1
      case .u16, .i16: 2
      case .u32, .i32, .f32: 4
      case .string, .u64, .i64, .f64: 8
      case .array: 12
      }
    }
  }

  /// The type.
  public var kind: Kind {
    switch self {
    case .u8: .u8
    case .i8: .i8
    case .u16: .u16
    case .i16: .i16
    case .u32: .u32
    case .i32: .i32
    case .f32: .f32
    case .bool: .bool
    case .string: .string
    case .array: .array
    case .u64: .u64
    case .i64: .i64
    case .f64: .f64
    }
  }

  /// The text; nil for anything else.
  public var stringValue: String? {
    if case .string(let text) = self { text } else { nil }
  }

  /// The elements; nil for anything else.
  public var elements: [GGUFValue]? {
    if case .array(_, let elements) = self { elements } else { nil }
  }

  /// A whole number of any width; nil for anything else, and for one that `Int` does not hold.
  public var integerValue: Int? {
    switch self {
    case .u8(let value): Int(value)
    case .i8(let value): Int(value)
    case .u16(let value): Int(value)
    case .i16(let value): Int(value)
    case .u32(let value): Int(value)
    case .i32(let value): Int(value)
    case .u64(let value): Int(exactly: value)
    case .i64(let value): Int(value)
    default: nil
    }
  }

  /// A number of any type; nil for anything else.
  public var numberValue: Double? {
    switch self {
    case .f32(let value): Double(value)
    case .f64(let value): value
    default: integerValue.map(Double.init)
    }
  }

  /// The value's bytes, without its type.
  func append(to bytes: inout [UInt8]) {
    switch self {
    case .u8(let value): bytes.append(value)
    case .i8(let value): bytes.append(UInt8(bitPattern: value))
    case .bool(let value): bytes.append(value ? 1 : 0)
    case .u16(let value): bytes.appendLittleEndian(value)
    case .i16(let value): bytes.appendLittleEndian(value)
    case .u32(let value): bytes.appendLittleEndian(value)
    case .i32(let value): bytes.appendLittleEndian(value)
    case .f32(let value): bytes.appendLittleEndian(value.bitPattern)
    case .u64(let value): bytes.appendLittleEndian(value)
    case .i64(let value): bytes.appendLittleEndian(value)
    case .f64(let value): bytes.appendLittleEndian(value.bitPattern)
    case .string(let text): bytes.appendText(text)
    case .array(let kind, let elements):
      bytes.appendLittleEndian(kind.rawValue)
      bytes.appendLittleEndian(UInt64(elements.count))
      for element in elements { element.append(to: &bytes) }
    }
  }
}

extension [UInt8] {
  mutating func appendLittleEndian(_ value: some FixedWidthInteger) {
    for index in 0..<value.bitWidth / 8 { append(UInt8(truncatingIfNeeded: value >> (index * 8))) }
  }

  /// A length and UTF-8, as GGUF has texts.
  mutating func appendText(_ text: String) {
    let utf8 = Array(text.utf8)
    appendLittleEndian(UInt64(utf8.count))
    append(contentsOf: utf8)
  }
}
