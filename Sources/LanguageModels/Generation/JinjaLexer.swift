/// Divides a template into texts and the tokens of its blocks.
enum JinjaLexer {
  enum Piece {
    case text(String)
    /// The tokens between `{{` and `}}`.
    case output([Token])
    /// The tokens between `{%` and `%}`.
    case block([Token])
  }

  enum Token: Equatable {
    case name(String)
    case string(String)
    case integer(Int)
    case number(Double)
    case sign(String)
  }

  static func lex(_ source: String) throws(JinjaFailure) -> [Piece] {
    var pieces: [Piece] = []
    let text = Array(source.unicodeScalars)
    var (index, start) = (0, 0)
    var trimsNext = false
    func string(_ range: Range<Int>) -> String { String(String.UnicodeScalarView(text[range])) }
    func add(upTo end: Int, trimsEnd: Bool, isBlock: Bool) {
      var (first, last) = (start, end)
      if trimsNext { while first < last, text[first].properties.isWhitespace { first += 1 } }
      if trimsEnd {
        while last > first, text[last - 1].properties.isWhitespace { last -= 1 }
      } else if isBlock {
        // Spaces before a block that begins its line go.
        var left = last
        while left > first, text[left - 1] == " " || text[left - 1] == "\t" { left -= 1 }
        if (left == first && first == start && (start == 0 || text[start - 1] == "\n"))
          || (left > first && text[left - 1] == "\n")
        {
          last = left
        }
      }
      if last > first { pieces.append(.text(string(first..<last))) }
    }
    while index + 1 < text.count {
      guard text[index] == "{", text[index + 1] == "{" || text[index + 1] == "%" || text[index + 1] == "#" else {
        index += 1
        continue
      }
      let kind = text[index + 1]
      let close: Unicode.Scalar = kind == "{" ? "}" : kind
      var inner = index + 2
      let trimsEnd = inner < text.count && text[inner] == "-"
      add(upTo: index, trimsEnd: trimsEnd, isBlock: kind != "{" && !(inner < text.count && text[inner] == "+"))
      if trimsEnd || (inner < text.count && text[inner] == "+") { inner += 1 }
      var end = inner
      var quote: Unicode.Scalar?
      while end + 1 < text.count {
        if let open = quote {
          if text[end] == "\\" { end += 1 } else if text[end] == open { quote = nil }
        } else if kind != "#", text[end] == "'" || text[end] == "\"" {
          quote = text[end]
        } else if text[end] == close, text[end + 1] == "}" {
          break
        }
        end += 1
      }
      guard end + 1 < text.count else { throw JinjaFailure(reason: "a block has no end") }
      var last = end
      trimsNext = last > inner && text[last - 1] == "-"
      if trimsNext { last -= 1 }
      if kind != "#" {
        let tokens = try tokens(Array(text[inner..<last]))
        pieces.append(kind == "{" ? .output(tokens) : .block(tokens))
      }
      index = end + 2
      // The line's end after a block goes.
      if kind != "{", !trimsNext, index < text.count, text[index] == "\n" { index += 1 }
      start = index
    }
    add(upTo: text.count, trimsEnd: false, isBlock: false)
    return pieces
  }

  private static func tokens(_ text: [Unicode.Scalar]) throws(JinjaFailure) -> [Token] {
    var tokens: [Token] = []
    var index = 0
    func isWord(_ scalar: Unicode.Scalar) -> Bool { scalar.properties.isAlphabetic || scalar == "_" }
    func isDigit(_ scalar: Unicode.Scalar) -> Bool { ("0"..."9").contains(scalar) }
    while index < text.count {
      let scalar = text[index]
      if scalar.properties.isWhitespace {
        index += 1
      } else if isWord(scalar) {
        let first = index
        while index < text.count, isWord(text[index]) || isDigit(text[index]) { index += 1 }
        tokens.append(.name(String(String.UnicodeScalarView(text[first..<index]))))
      } else if isDigit(scalar) {
        let first = index
        while index < text.count, isDigit(text[index]) || text[index] == "." { index += 1 }
        let word = String(String.UnicodeScalarView(text[first..<index]))
        if let value = Int(word) {
          tokens.append(.integer(value))
        } else if let value = Double(word) {
          tokens.append(.number(value))
        } else {
          throw JinjaFailure(reason: "'\(word)' is no number")
        }
      } else if scalar == "'" || scalar == "\"" {
        var value = String.UnicodeScalarView()
        index += 1
        while index < text.count, text[index] != scalar {
          if text[index] == "\\", index + 1 < text.count {
            index += 1
            switch text[index] {
            case "n": value.append("\n")
            case "t": value.append("\t")
            case "r": value.append("\r")
            default: value.append(text[index])
            }
          } else {
            value.append(text[index])
          }
          index += 1
        }
        index += 1
        tokens.append(.string(String(value)))
      } else {
        let pair = index + 1 < text.count ? String(String.UnicodeScalarView(text[index...index + 1])) : ""
        if ["==", "!=", "<=", ">=", "//", "**"].contains(pair) {
          tokens.append(.sign(pair))
          index += 2
        } else if "+-*/%~|.,:()[]{}<>=".unicodeScalars.contains(scalar) {
          tokens.append(.sign(String(Character(scalar))))
          index += 1
        } else {
          throw JinjaFailure(reason: "'\(Character(scalar))' in an expression")
        }
      }
    }
    return tokens
  }
}
