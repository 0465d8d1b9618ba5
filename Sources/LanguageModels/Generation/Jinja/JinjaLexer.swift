/// Divides a template into texts and the tokens of its tags.
///
/// Source: jinja2 `lexer.py`, with `trim_blocks` and `lstrip_blocks` as transformers sets them.
struct JinjaLexer {
  enum Token: Equatable {
    case data(JinjaText)
    case outputBegin
    case outputEnd
    case blockBegin
    case blockEnd
    case name(JinjaText)
    case text(JinjaText)
    case integer(Int)
    case number(Double)
    case sign(String)
    case end
  }

  /// The tokens of a template, each with its line.
  typealias Tokens = [(token: Token, line: Int)]

  let source: [Unicode.Scalar]
  var position = 0
  private var tokens: Tokens = []
  private var (line, counted) = (1, 0)
  private var startsLine = true

  static func tokens(of source: String) throws(JinjaFailure) -> Tokens {
    var lexer = JinjaLexer(source)
    try lexer.run()
    return lexer.tokens
  }

  /// Lines end in a line feed, and the last line's end goes.
  private init(_ text: String) {
    var source: [Unicode.Scalar] = []
    var previous: Unicode.Scalar = " "
    for scalar in text.unicodeScalars {
      if scalar != "\n" || previous != "\r" { source.append(scalar == "\r" ? "\n" : scalar) }
      previous = scalar
    }
    if source.last == "\n" { source.removeLast() }
    self.source = source
  }

  mutating func add(_ token: Token) {
    while counted < min(position, source.count) {
      if source[counted] == "\n" { line += 1 }
      counted += 1
    }
    tokens.append((token, line))
  }

  func failure(_ reason: String) -> JinjaFailure {
    JinjaFailure("line \(1 + source[..<min(position, source.count)].count { $0 == "\n" }): \(reason)")
  }

  /// The character so many places on; a zero behind the end.
  func peek(_ offset: Int = 0) -> Unicode.Scalar {
    position + offset < source.count ? source[position + offset] : "\0"
  }

  func starts(_ text: String, at offset: Int = 0) -> Bool {
    source[min(position + offset, source.count)...].starts(with: text.unicodeScalars)
  }

  private mutating func run() throws(JinjaFailure) {
    while position < source.count {
      let start = position
      while position < source.count, !(peek() == "{" && ["{", "%", "#"].contains(peek(1))) { position += 1 }
      guard position < source.count else {
        position = start
        let rest = source[start...]
        add(.data(JinjaText(Array(rest))))
        return
      }
      let tag = position
      let kind = peek(1)
      let rawStart = kind == "%" ? endOfRawBegin() : nil
      add(text: start..<tag, sign: peek(2), isOutput: kind == "{")
      if let rawStart {
        position = rawStart
        startsLine = source[rawStart - 1] == "\n"
        try raw()
        continue
      }
      position += peek(2) == "-" || peek(2) == "+" ? 3 : 2
      if kind == "#" {
        try comment()
      } else {
        startsLine = false
        add(kind == "{" ? .outputBegin : .blockBegin)
        try expressions(isBlock: kind == "%")
      }
    }
  }

  /// The text before a tag, without what the tag's sign or its place at the start of a line takes away.
  private mutating func add(text range: Range<Int>, sign: Unicode.Scalar, isOutput: Bool) {
    var end = range.upperBound
    if sign == "-" {
      while end > range.lowerBound, source[end - 1].isPythonSpace { end -= 1 }
    } else if sign != "+", !isOutput {
      var left = end
      while left > range.lowerBound, source[left - 1] != "\n", source[left - 1].isPythonSpace { left -= 1 }
      if left > range.lowerBound ? source[left - 1] == "\n" : startsLine { end = left }
    }
    if end > range.lowerBound { add(.data(JinjaText(Array(source[range.lowerBound..<end])))) }
  }

  /// Passes the end of a tag, if it is here: its sign, its characters, and the space that they take away.
  mutating func takeEnd(_ end: String, trimsLine: Bool, knowsPlus: Bool) -> Bool {
    let sign = peek()
    if sign == "-", starts(end, at: 1) {
      position += 3
      skipSpace()
    } else if knowsPlus, sign == "+", starts(end, at: 1) {
      position += 3
    } else if starts(end) {
      position += 2
      if trimsLine, peek() == "\n" { position += 1 }
    } else {
      return false
    }
    startsLine = source[position - 1] == "\n"
    return true
  }

  mutating func skipSpace() {
    while position < source.count, source[position].isPythonSpace { position += 1 }
  }

  private mutating func comment() throws(JinjaFailure) {
    let start = position
    while position < source.count {
      if takeEnd("#}", trimsLine: true, knowsPlus: true) { return }
      position += 1
    }
    position = start
    throw failure("a comment has no end")
  }

  /// Where the text of `{% raw %}` begins, if that is what stands here.
  private func endOfRawBegin() -> Int? {
    var copy = self
    copy.position += copy.peek(2) == "-" || copy.peek(2) == "+" ? 3 : 2
    copy.skipSpace()
    guard copy.starts("raw") else { return nil }
    copy.position += 3
    copy.skipSpace()
    return copy.takeEnd("%}", trimsLine: false, knowsPlus: false) ? copy.position : nil
  }

  private mutating func raw() throws(JinjaFailure) {
    let start = position
    while position < source.count {
      guard starts("{%") else {
        position += 1
        continue
      }
      let (tag, sign) = (position, peek(2))
      position += sign == "-" || sign == "+" ? 3 : 2
      skipSpace()
      if starts("endraw") {
        position += 6
        skipSpace()
        let textStartsLine = startsLine
        if takeEnd("%}", trimsLine: true, knowsPlus: true) {
          let (end, endStartsLine) = (position, startsLine)
          (position, startsLine) = (tag, textStartsLine)
          add(text: start..<tag, sign: sign, isOutput: false)
          (position, startsLine) = (end, endStartsLine)
          return
        }
      }
      position = tag + 1
    }
    position = start
    throw failure("raw has no endraw")
  }
}
