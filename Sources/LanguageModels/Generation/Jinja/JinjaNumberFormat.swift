internal import Glibc

/// A number or text as a format asks for it: sign, width, digits. Source: Python's format specification.
struct JinjaNumberFormat {
  var fill: Unicode.Scalar = " "
  /// `<`, `>`, `^` or `=`; nil for what the value's type has.
  var align: Unicode.Scalar?
  /// `+`, ` ` or `-` where one is asked for.
  var sign: Unicode.Scalar?
  var isAlternate = false
  var width = 0
  var grouping: Unicode.Scalar?
  var precision: Int?
  var type: Unicode.Scalar?

  /// The largest width and precision.
  static let limit = 1 << 20

  /// Digits after the point.
  static func fixed(_ value: Double, _ digits: Int) -> String { printed("%.*f", digits, value) }

  private static func printed(_ format: String, _ digits: Int, _ value: Double) -> String {
    let digits = min(max(digits, 0), 1000)
    var buffer = [CChar](repeating: 0, count: digits + 512)
    let length = withVaList([Int32(digits), value]) { vsnprintf(&buffer, buffer.count, format, $0) }
    return String(decoding: buffer.prefix(max(0, Int(length))).map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  /// The digits of a number without its sign. Throws for a type that the number does not have.
  func digits(_ value: JinjaValue) throws(JinjaFailure) -> (text: String, isNegative: Bool) {
    if case .integer(let number)? = value.number {
      switch type {
      case nil, "d", "i", "u", "n": return ("\(number.magnitude)", number < 0)
      case "x": return ((isAlternate ? "0x" : "") + String(number.magnitude, radix: 16), number < 0)
      case "X": return ((isAlternate ? "0X" : "") + String(number.magnitude, radix: 16, uppercase: true), number < 0)
      case "o": return ((isAlternate ? "0o" : "") + String(number.magnitude, radix: 8), number < 0)
      case "b": return ((isAlternate ? "0b" : "") + String(number.magnitude, radix: 2), number < 0)
      default: break
      }
    }
    let number: Double
    switch value.number {
    case .integer(let whole)?: number = Double(whole)
    case .number(let found)?: number = found
    default: throw JinjaFailure("a number's format for \(value.typeName)")
    }
    let size = number.magnitude
    let isNegative = number.sign == .minus && !number.isNaN
    guard number.isFinite else {
      let text = number.isNaN ? "nan" : "inf"
      return (type == "F" || type == "E" || type == "G" ? text.uppercased() : text, isNegative)
    }
    switch type {
    case nil where precision == nil: return (JinjaMachine.float(size), isNegative)
    case nil:
      var text = Self.printed("%.*g", max(1, precision ?? 1), size)
      if !text.contains(".") && !text.contains("e") { text += ".0" }
      return (text, isNegative)
    case "f", "F": return (Self.printed("%.*f", precision ?? 6, size), isNegative)
    case "e": return (Self.printed("%.*e", precision ?? 6, size), isNegative)
    case "E": return (Self.printed("%.*E", precision ?? 6, size), isNegative)
    case "g", "n": return (Self.printed("%.*g", max(1, precision ?? 6), size), isNegative)
    case "G": return (Self.printed("%.*G", max(1, precision ?? 6), size), isNegative)
    case "%": return (Self.printed("%.*f", precision ?? 6, size * 100) + "%", isNegative)
    case let type?: throw JinjaFailure("the format '\(String(Character(type)))' for a number")
    }
  }

  func number(_ value: JinjaValue) throws(JinjaFailure) -> [Unicode.Scalar] {
    var (text, isNegative) = try digits(value)
    if let grouping {
      let whole = text.prefix { $0.isHexDigit }
      let size = type == "x" || type == "X" || type == "o" || type == "b" ? 4 : 3
      var grouped = ""
      for (index, digit) in whole.enumerated() {
        if index > 0, (whole.count - index) % size == 0 { grouped.unicodeScalars.append(grouping) }
        grouped.append(digit)
      }
      text = grouped + text.dropFirst(whole.count)
    }
    let mark = isNegative ? "-" : sign.map { $0 == "-" ? "" : String(Character($0)) } ?? ""
    let prefix = ["0x", "0X", "0o", "0b"].first { isAlternate && text.hasPrefix($0) } ?? ""
    let digits = [Unicode.Scalar](String(text.dropFirst(prefix.count)))
    let front = [Unicode.Scalar](mark + prefix)
    if align == "=" {
      let space = max(0, width - front.count - digits.count)
      return front + Array(repeating: fill, count: space) + digits
    }
    return aligned(front + digits, default: ">")
  }

  func text(_ scalars: [Unicode.Scalar]) -> [Unicode.Scalar] {
    aligned(precision.map { Array(scalars.prefix($0)) } ?? scalars, default: "<")
  }

  private func aligned(_ scalars: [Unicode.Scalar], default other: Unicode.Scalar) -> [Unicode.Scalar] {
    let space = width - scalars.count
    guard space > 0 else { return scalars }
    let left = align ?? other == "<" ? 0 : align == "^" ? space / 2 : space
    return Array(repeating: fill, count: left) + scalars + Array(repeating: fill, count: space - left)
  }
}
