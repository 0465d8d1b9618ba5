/// Rewrites a regular expression of Python's `re` for PCRE2, so that it means the same.
///
/// The two agree on most syntax. What differs is translated (`\Z`, `{,n}`, `\u00e9`, a `[` inside a class, …); what only
/// one of them has is refused by name, rather than matched differently.
/// Source: the Python Language Reference's `re` module, checked against Python 3.11 in the tests.
struct PythonPattern {
  /// The pattern for PCRE2, to be compiled with UTF and Unicode properties.
  private(set) var translated = ""

  private let pattern: String
  private let scalars: [Unicode.Scalar]
  private var position = 0
  private var openGroups = 0

  init(_ pattern: String) throws(AdapterError) {
    self.pattern = pattern
    scalars = Array(pattern.unicodeScalars)
    while let scalar = peek() { try translate(scalar) }
    if openGroups > 0 { throw invalid("missing ), unterminated subpattern") }
  }

  private func peek(_ ahead: Int = 0) -> Unicode.Scalar? {
    position + ahead < scalars.count ? scalars[position + ahead] : nil
  }

  private func invalid(_ reason: String) -> AdapterError {
    .patternInvalid(pattern: pattern, offset: position, reason: reason)
  }

  private mutating func emit(_ scalar: Unicode.Scalar) {
    translated.unicodeScalars.append(scalar)
    position += 1
  }

  private mutating func translate(_ scalar: Unicode.Scalar) throws(AdapterError) {
    switch scalar {
    case "\\": try translateEscape(inClass: false)
    case "[": try translateClass()
    case "(": try translateGroup()
    case ")":
      guard openGroups > 0 else { throw invalid("unbalanced parenthesis") }
      openGroups -= 1
      emit(scalar)
    case "{": translateBrace()
    case "*", "+", "?":
      emit(scalar)
      try checkQuantifierEnd()
    default: emit(scalar)
    }
  }

  /// After a quantifier Python allows one `?` or `+`; a further quantifier is an error there, not in PCRE2.
  private mutating func checkQuantifierEnd() throws(AdapterError) {
    if let next = peek(), next == "?" || next == "+" { emit(next) }
    if let next = peek(), next == "*" || next == "+" || next == "?" { throw invalid("multiple repeat") }
  }

  /// `{m}`, `{m,}`, `{,n}` and `{m,n}` repeat; any other brace is itself.
  private mutating func translateBrace() {
    var end = position + 1
    while end < scalars.count, scalars[end] != "}", scalars[end] == "," || isDigit(scalars[end]) { end += 1 }
    let body = String(String.UnicodeScalarView(scalars[position + 1..<min(end, scalars.count)]))
    let isRepeat =
      end < scalars.count && scalars[end] == "}" && !body.isEmpty && body.filter { $0 == "," }.count <= 1
    guard isRepeat, position > 0 else {
      translated += "\\{"
      position += 1
      return
    }
    translated += "{" + (body.hasPrefix(",") ? "0" : "") + body + "}"
    // {,} means any number, which PCRE2 writes {0,}: the zero above makes it so.
    position = end + 1
    if let next = peek(), next == "?" || next == "+" { emit(next) }
  }

  private func isDigit(_ scalar: Unicode.Scalar) -> Bool { ("0"..."9").contains(scalar) }

  private func isASCIILetter(_ scalar: Unicode.Scalar) -> Bool {
    ("a"..."z").contains(scalar) || ("A"..."Z").contains(scalar)
  }

  private mutating func translateEscape(inClass: Bool) throws(AdapterError) {
    guard let escaped = peek(1) else { throw invalid("bad escape (end of pattern)") }
    switch escaped {
    case "d", "D", "s", "S", "w", "W", "n", "r", "t", "f", "v", "a":
      // PCRE2's \v is any vertical space, Python's is one character.
      translated += escaped == "v" ? "\\x{b}" : "\\\(escaped)"
      position += 2
    case "b":
      translated += "\\b"
      position += 2
    case "A", "B", "Z", "z":
      guard !inClass else { throw invalid("bad escape \\\(escaped)") }
      guard escaped != "z" else { throw AdapterError.patternUnsupported(pattern: pattern, construct: "\\z") }
      translated += escaped == "Z" ? "\\z" : "\\\(escaped)"
      position += 2
    case "x": try translateCodePoint(digits: 2)
    case "u": try translateCodePoint(digits: 4)
    case "U": try translateCodePoint(digits: 8)
    case "N": throw .patternUnsupported(pattern: pattern, construct: "\\N{…} (a character by name)")
    case "0": translateOctal(limit: 3)
    case "1"..."9":
      if let second = peek(2), let third = peek(3), ("0"..."3").contains(escaped), isOctal(second), isOctal(third) {
        translateOctal(limit: 3)
      } else if inClass {
        throw invalid("bad escape \\\(escaped)")
      } else {
        var digits = 1
        if let second = peek(2), isDigit(second) { digits = 2 }
        let number = scalars[position + 1..<position + 1 + digits]
        translated += "(?:\\g{" + String(String.UnicodeScalarView(number)) + "})"
        position += 1 + digits
      }
    default:
      if isASCIILetter(escaped) { throw invalid("bad escape \\\(escaped)") }
      translated += "\\"
      translated.unicodeScalars.append(escaped)
      position += 2
    }
  }

  private func isOctal(_ scalar: Unicode.Scalar) -> Bool { ("0"..."7").contains(scalar) }

  private mutating func translateOctal(limit: Int) {
    position += 1
    var value: UInt32 = 0
    var count = 0
    while count < limit, let digit = peek(), isOctal(digit) {
      value = value * 8 + digit.value - 48
      position += 1
      count += 1
    }
    translated += "\\x{\(String(value, radix: 16))}"
  }

  private mutating func translateCodePoint(digits: Int) throws(AdapterError) {
    let start = position + 2
    let end = start + digits
    guard end <= scalars.count,
      let value = UInt32(String(String.UnicodeScalarView(scalars[start..<end])), radix: 16),
      Unicode.Scalar(value) != nil
    else { throw invalid("incomplete escape \\\(scalars[position + 1])") }
    translated += "\\x{\(String(value, radix: 16))}"
    position = end
  }

  private mutating func translateClass() throws(AdapterError) {
    let start = position
    emit("[")
    if peek() == "^" { emit("^") }
    var first = true
    while true {
      guard let scalar = peek() else {
        position = start
        throw invalid("unterminated character set")
      }
      switch scalar {
      case "]" where !first:
        emit(scalar)
        return
      case "\\": try translateEscape(inClass: true)
      case "[", "]":
        // A bracket inside a class is itself; PCRE2 would read [:name:] as a POSIX class.
        translated += "\\"
        emit(scalar)
      default: emit(scalar)
      }
      first = false
    }
  }

  private mutating func translateGroup() throws(AdapterError) {
    guard peek(1) == "?" else {
      guard peek(1) != "*" else { throw invalid("nothing to repeat") }
      openGroups += 1
      emit("(")
      return
    }
    guard let kind = peek(2) else { throw invalid("unexpected end of pattern") }
    switch kind {
    case ":", "=", "!", ">":
      openGroups += 1
      copy(3)
    case "#":
      while let scalar = peek(), scalar != ")" { position += 1 }
      guard peek() == ")" else { throw invalid("missing ), unterminated comment") }
      position += 1
    case "<":
      guard let next = peek(3), next == "=" || next == "!" else { throw invalid("unknown extension ?<") }
      openGroups += 1
      copy(4)
    case "P": try translateNamed()
    case "(":
      // A conditional: (?(1)yes|no) or (?(name)yes|no).
      guard let close = scalars[position...].firstIndex(of: ")") else { throw invalid("missing )") }
      openGroups += 1
      copy(close + 1 - position)
    case "-", "a"..."z", "A"..."Z": try translateFlags()
    default: throw invalid("unknown extension ?\(kind)")
    }
  }

  private mutating func copy(_ count: Int) {
    for _ in 0..<count { if let scalar = peek() { emit(scalar) } }
  }

  private mutating func translateNamed() throws(AdapterError) {
    switch peek(3) {
    case "<":
      openGroups += 1
      copy(4)
    case "=":
      guard let close = scalars[position...].firstIndex(of: ")") else { throw invalid("missing ), unterminated name") }
      let name = String(String.UnicodeScalarView(scalars[position + 4..<close]))
      translated += "(?P=\(name))"
      position = close + 1
    default: throw invalid("unknown extension ?P")
    }
  }

  private mutating func translateFlags() throws(AdapterError) {
    let start = position
    var end = position + 2
    while end < scalars.count, scalars[end] == "-" || isASCIILetter(scalars[end]) { end += 1 }
    let flags = scalars[position + 2..<end]
    for flag in flags {
      switch flag {
      case "i", "m", "s", "x", "-", "u": continue
      case "a": throw .patternUnsupported(pattern: pattern, construct: "the flag (?a)")
      case "L": throw invalid("bad inline flags: cannot use 'L' flag with a str pattern")
      default: throw invalid("unknown flag \(flag)")
      }
    }
    let kept = String(String.UnicodeScalarView(flags.filter { $0 != "u" }))
    guard end < scalars.count else { throw invalid("missing -, : or )") }
    switch scalars[end] {
    case ")":
      guard start == 0 else { throw invalid("global flags not at the start of the expression") }
      if kept.contains("-") { throw invalid("missing :") }
      if kept.contains("x") {
        throw .patternUnsupported(pattern: pattern, construct: "the flag (?x)")
      }
      translated += kept.isEmpty ? "" : "(?\(kept))"
    case ":":
      let parts = flags.split(separator: "-", omittingEmptySubsequences: false)
      if parts.count > 1, parts[1].isEmpty { throw invalid("missing flag") }
      if parts.count > 2 { throw invalid("unknown flag -") }
      if parts.count > 1, parts[1].contains(where: parts[0].contains) {
        throw invalid("bad inline flags: flag turned on and off")
      }
      if kept.contains("x") {
        throw .patternUnsupported(pattern: pattern, construct: "the flag (?x)")
      }
      openGroups += 1
      translated += "(?\(kept):"
    default: throw invalid("unknown flag \(scalars[end])")
    }
    position = end + 1
  }
}
