/// The tokens between `{{` and `}}`, or `{%` and `%}`.
extension JinjaLexer {
  private static let signs = ["//", "**", "==", "!=", ">=", "<="] + "+-/*%~[](){}><=.:|,;".map { String($0) }

  mutating func expressions(isBlock: Bool) throws(JinjaFailure) {
    var open: [Unicode.Scalar] = []
    while position < source.count {
      if open.isEmpty, takeEnd(isBlock ? "%}" : "}}", trimsLine: isBlock, knowsPlus: isBlock) {
        add(isBlock ? .blockEnd : .outputEnd)
        return
      }
      let scalar = peek()
      if scalar.isPythonSpace {
        skipSpace()
      } else if ("0"..."9").contains(scalar) {
        add(try number())
      } else if scalar.isPythonWord {
        let start = position
        while position < source.count, source[position].isPythonWord { position += 1 }
        add(.name(JinjaText(Array(source[start..<position]))))
      } else if scalar == "'" || scalar == "\"" {
        add(.text(JinjaText(try literal(scalar))))
      } else {
        guard let sign = Self.signs.first(where: { starts($0) }) else {
          throw failure("'\(String(Character(scalar)))' in an expression")
        }
        switch scalar {
        case "(": open.append(")")
        case "[": open.append("]")
        case "{": open.append("}")
        case ")", "]", "}":
          guard open.popLast() == scalar else { throw failure("'\(sign)' closes what is not open") }
        default: break
        }
        position += sign.unicodeScalars.count
        add(.sign(sign))
      }
    }
    throw failure("a tag has no end")
  }

  /// Digits with single underscores between them, from an offset on: how many characters.
  private func digits(at offset: Int, _ isDigit: (Unicode.Scalar) -> Bool = { ("0"..."9").contains($0) }) -> Int {
    var length = 0
    while isDigit(peek(offset + length))
      || (length > 0 && peek(offset + length) == "_" && isDigit(peek(offset + length + 1)))
    {
      length += 1
    }
    return length
  }

  private mutating func number() throws(JinjaFailure) -> Token {
    let start = position
    let isBehindDot = start > 0 && source[start - 1] == "."
    let whole = digits(at: 0)
    var length = whole
    var isWhole = true
    if !isBehindDot {
      if peek(length) == ".", case let more = digits(at: length + 1), more > 0 {
        length += 1 + more
        isWhole = false
      }
      if peek(length) == "e" || peek(length) == "E" {
        let sign = peek(length + 1) == "+" || peek(length + 1) == "-" ? 1 : 0
        let more = digits(at: length + 1 + sign)
        if more > 0 {
          length += 1 + sign + more
          isWhole = false
        }
      }
    }
    var radix = 10
    if isWhole, peek() == "0" {
      radix = ["b": 2, "B": 2, "o": 8, "O": 8, "x": 16, "X": 16][peek(1)] ?? 10
      let offset = radix == 10 ? 0 : peek(2) == "_" ? 3 : 2
      let more =
        radix == 10 ? 0 : digits(at: offset) { Character($0).hexDigitValue.map { $0 < radix } == true && $0.isASCII }
      if more > 0 { length = offset + more } else { radix = 10 }
      if radix == 10 {
        // Zeros only; digits that follow are a token of their own.
        length = digits(at: 0) { $0 == "0" }
      }
    }
    let word = String(source[start..<start + length].filter { $0 != "_" })
    position += length
    guard isWhole else { return .number(Double(word) ?? 0) }
    guard let value = Int(radix == 10 ? word : String(word.dropFirst(2)), radix: radix) else {
      throw failure("the number \(word) has more than 64 bits")
    }
    return .integer(value)
  }

  /// A text in quotes, its escapes replaced as Python replaces them.
  private mutating func literal(_ quote: Unicode.Scalar) throws(JinjaFailure) -> [Unicode.Scalar] {
    var text: [Unicode.Scalar] = []
    position += 1
    while position < source.count, peek() != quote {
      let scalar = peek()
      position += 1
      guard scalar == "\\" else {
        text.append(scalar)
        continue
      }
      let escaped = peek()
      position += 1
      switch escaped {
      case "\n": break
      case "\\", "'", "\"": text.append(escaped)
      case "a": text.append("\u{7}")
      case "b": text.append("\u{8}")
      case "f": text.append("\u{C}")
      case "n": text.append("\n")
      case "r": text.append("\r")
      case "t": text.append("\t")
      case "v": text.append("\u{B}")
      case "x": text.append(try code(digits: 2))
      case "u": text.append(try code(digits: 4))
      case "U": text.append(try code(digits: 8))
      case "N": throw failure("a character by its name")
      case "0"..."7":
        var value = escaped.value - 48
        for _ in 0..<2 where ("0"..."7").contains(peek()) {
          value = value * 8 + peek().value - 48
          position += 1
        }
        text.append(Unicode.Scalar(value) ?? "?")
      default: text += ["\\", escaped]
      }
    }
    guard position < source.count else { throw failure("a text has no closing quote") }
    position += 1
    return text
  }

  private mutating func code(digits: Int) throws(JinjaFailure) -> Unicode.Scalar {
    let word = String(source[position..<min(position + digits, source.count)])
    guard word.unicodeScalars.count == digits, word.allSatisfy(\.isHexDigit), let value = UInt32(word, radix: 16),
      let scalar = Unicode.Scalar(value)
    else { throw failure("'\(word)' is no character's code") }
    position += digits
    return scalar
  }
}
