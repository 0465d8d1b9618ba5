extension JSONValue {
  /// The text that Python's `json.dumps(value, indent=2, sort_keys=…)` writes, without a final newline.
  ///
  /// Non-ASCII characters become `\u` escapes and floats are written as Python's `repr` writes them.
  public func pythonText(sortedKeys: Bool) -> String {
    var text = ""
    write(to: &text, indent: 0, sorted: sortedKeys)
    return text
  }

  /// The value on one line, keys in their order, no spaces: for safetensors headers and `--json` lines.
  public var compactText: String {
    var text = ""
    write(to: &text, indent: nil, sorted: false)
    return text
  }

  private func write(to text: inout String, indent: Int?, sorted: Bool) {
    switch self {
    case .null: text += "null"
    case .bool(let value): text += value ? "true" : "false"
    case .integer(let value): text += String(value)
    case .number(let value): text += pythonRepresentation(value)
    case .string(let value): writeQuoted(value, to: &text, ascii: indent != nil)
    case .array(let elements):
      writeContainer("[", "]", elements, to: &text, indent: indent) { element, text, inner in
        element.write(to: &text, indent: inner, sorted: sorted)
      }
    case .object(let members):
      // Python orders str keys by code point, as Unicode scalars compare.
      let ordered =
        sorted ? members.sorted { ExactName($0.key) < ExactName($1.key) } : members
      writeContainer("{", "}", ordered, to: &text, indent: indent) { member, text, inner in
        writeQuoted(member.key, to: &text, ascii: indent != nil)
        text += inner == nil ? ":" : ": "
        member.value.write(to: &text, indent: inner, sorted: sorted)
      }
    }
  }

  private func writeContainer<Item>(
    _ open: String, _ close: String, _ items: [Item], to text: inout String, indent: Int?,
    item: (Item, inout String, Int?) -> Void
  ) {
    text += open
    guard !items.isEmpty else {
      text += close
      return
    }
    let inner = indent.map { $0 + 1 }
    for (index, element) in items.enumerated() {
      if index > 0 { text += "," }
      if let inner { text += "\n" + String(repeating: "  ", count: inner) }
      item(element, &text, inner)
    }
    if let indent { text += "\n" + String(repeating: "  ", count: indent) }
    text += close
  }

  private func writeQuoted(_ string: String, to text: inout String, ascii: Bool) {
    text += "\""
    for scalar in string.unicodeScalars {
      switch scalar {
      case "\"": text += "\\\""
      case "\\": text += "\\\\"
      case "\n": text += "\\n"
      case "\r": text += "\\r"
      case "\t": text += "\\t"
      case "\u{8}": text += "\\b"
      case "\u{c}": text += "\\f"
      default:
        if scalar.value < 0x20 || (ascii && scalar.value > 0x7E) {
          for unit in String(scalar).utf16 {
            let digits = String(unit, radix: 16)
            text += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
          }
        } else {
          text.unicodeScalars.append(scalar)
        }
      }
    }
    text += "\""
  }
}

/// Python's `repr` of a float: the shortest digits that read back the same, exponent form below 1e-4 and from 1e16.
package func pythonRepresentation(_ value: Double) -> String {
  guard value.isFinite else { return value.isNaN ? "NaN" : value < 0 ? "-Infinity" : "Infinity" }
  let sign = value.sign == .minus ? "-" : ""
  guard value != 0 else { return sign + "0.0" }
  // Swift's description has the same shortest digits; only the form differs.
  let parts = value.magnitude.description.split(separator: "e")
  let mantissa = parts[0].split(separator: ".", omittingEmptySubsequences: false)
  let whole = mantissa[0]
  let fraction = mantissa.count > 1 ? mantissa[1] : ""
  let exponent = parts.count > 1 ? Int(parts[1]) ?? 0 : 0
  let all = whole + fraction
  let leading = all.prefix { $0 == "0" }.count
  var digits = String(all.dropFirst(leading))
  while digits.count > 1 && digits.last == "0" { digits.removeLast() }
  // value = 0.digits x 10^point
  let point = whole.count - leading + exponent
  if point > 16 || point < -3 {
    let power = point - 1
    let tail = digits.dropFirst()
    let magnitude = abs(power) < 10 ? "0\(abs(power))" : "\(abs(power))"
    return sign + digits.prefix(1) + (tail.isEmpty ? "" : ".\(tail)") + "e" + (power < 0 ? "-" : "+") + magnitude
  }
  if point <= 0 { return sign + "0." + String(repeating: "0", count: -point) + digits }
  if digits.count <= point { return sign + digits + String(repeating: "0", count: point - digits.count) + ".0" }
  return sign + digits.prefix(point) + "." + digits.dropFirst(point)
}
