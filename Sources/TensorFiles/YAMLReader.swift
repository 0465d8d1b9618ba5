/// Why a text is not YAML that is read here.
package struct YAMLFailure: Error, Equatable {
  package let line: Int
  package let reason: String
}

/// The part of YAML that settings are written in: mappings and lists by indentation or in brackets, plain and quoted scalars, comments.
///
/// Not read, and refused with their line: anchors, tags, block texts (`|`, `>`), several documents, tabs as indentation, keys that stand twice,
/// scalars over several lines. Numbers are read as YAML 1.2 does: `5e-5` is one.
package struct YAMLReader {
  private struct Line {
    let number: Int
    let indent: Int
    let text: Substring
  }

  /// Bytes that a file of settings may have.
  package static let fileLimit = 1 << 20
  private static let levelLimit = 64
  private var lines: [Line] = []
  private var position = 0

  /// The value of a text; an empty one is null.
  package static func value(of text: String) throws(YAMLFailure) -> JSONValue {
    var reader = try YAMLReader(text)
    guard let first = reader.lines.first else { return .null }
    let value = try reader.block(indent: first.indent, level: 0)
    if let line = reader.current {
      throw YAMLFailure(line: line.number, reason: "it is indented unlike what is before it")
    }
    return value
  }

  private init(_ text: String) throws(YAMLFailure) {
    for (index, raw) in text.split(omittingEmptySubsequences: false, whereSeparator: \.isNewline).enumerated() {
      let indent = raw.prefix { $0 == " " }.count
      let content = Self.withoutComment(raw.dropFirst(indent))
      if content.isEmpty || content == "---" && lines.isEmpty && indent == 0 { continue }
      if content.first == "\t" { throw YAMLFailure(line: index + 1, reason: "a tab indents it; YAML wants spaces") }
      if indent == 0 && (content == "---" || content == "...") {
        throw YAMLFailure(line: index + 1, reason: "a second document begins; one is read")
      }
      lines.append(Line(number: index + 1, indent: indent, text: content))
    }
  }

  private var current: Line? { position < lines.count ? lines[position] : nil }

  /// A line without the comment at its end and the spaces before that.
  private static func withoutComment(_ line: Substring) -> Substring {
    var quote: Character?
    var last: Character = " "
    var end = line.startIndex
    for index in line.indices {
      let character = line[index]
      if quote == nil && character == "#" && last.isWhitespace { break }
      if let open = quote {
        if character == open && !(open == "\"" && last == "\\") { quote = nil }
      } else if character == "\"" || character == "'", last.isWhitespace || "[{,:".contains(last) {
        quote = character
      }
      last = character
      if !character.isWhitespace { end = line.index(after: index) }
    }
    return line[..<end]
  }

  private mutating func block(indent: Int, level: Int) throws(YAMLFailure) -> JSONValue {
    guard let line = current else { return .null }
    guard level < Self.levelLimit else { throw YAMLFailure(line: line.number, reason: "it is nested too deeply") }
    if line.text == "-" || line.text.hasPrefix("- ") { return try list(indent: indent, level: level) }
    if Self.key(of: line.text) != nil { return try mapping(indent: indent, level: level) }
    position += 1
    var inline = YAMLInline(line.text, line: line.number)
    return try inline.whole()
  }

  private mutating func list(indent: Int, level: Int) throws(YAMLFailure) -> JSONValue {
    var elements: [JSONValue] = []
    while let line = current, line.indent == indent, line.text == "-" || line.text.hasPrefix("- ") {
      let rest = line.text.dropFirst().drop { $0 == " " }
      if rest.isEmpty {
        position += 1
        elements.append(try nested(below: indent, level: level))
      } else {
        // What follows the dash is a block of its own that begins in the dash's line.
        lines[position] = Line(number: line.number, indent: indent + line.text.count - rest.count, text: rest)
        elements.append(try block(indent: lines[position].indent, level: level + 1))
      }
    }
    return .array(elements)
  }

  private mutating func mapping(indent: Int, level: Int) throws(YAMLFailure) -> JSONValue {
    var members: [JSONValue.Member] = []
    var names: Set<ExactName> = []
    while let line = current, line.indent == indent {
      guard let (key, rest) = Self.key(of: line.text) else {
        throw YAMLFailure(line: line.number, reason: "'\(line.text.prefix(40))' is no 'key: value'")
      }
      var inline = YAMLInline(key, line: line.number)
      let name = try inline.keyText()
      guard names.insert(ExactName(name)).inserted else {
        throw YAMLFailure(line: line.number, reason: "the key '\(name)' stands twice")
      }
      position += 1
      if rest.isEmpty {
        // A list may stand at its key's own indentation.
        if let next = current, next.indent == indent, next.text == "-" || next.text.hasPrefix("- ") {
          members.append(.init(name, try list(indent: indent, level: level + 1)))
        } else {
          members.append(.init(name, try nested(below: indent, level: level)))
        }
      } else {
        var inline = YAMLInline(rest, line: line.number)
        members.append(.init(name, try inline.whole()))
        if let next = current, next.indent > indent {
          throw YAMLFailure(line: next.number, reason: "it is indented, but what is before it has a value already")
        }
      }
    }
    if let line = current, line.indent > indent {
      throw YAMLFailure(line: line.number, reason: "it is indented unlike what is before it")
    }
    return .object(members)
  }

  private mutating func nested(below indent: Int, level: Int) throws(YAMLFailure) -> JSONValue {
    guard let next = current, next.indent > indent else { return .null }
    return try block(indent: next.indent, level: level + 1)
  }

  /// The key of a line and what follows its colon; nil for a line that is no member of a mapping.
  private static func key(of text: Substring) -> (key: Substring, rest: Substring)? {
    var quote: Character?
    guard let first = text.first, first != "[", first != "{" else { return nil }
    for index in text.indices {
      let character = text[index]
      if let open = quote {
        if character == open { quote = nil }
      } else if index == text.startIndex && (character == "\"" || character == "'") {
        quote = character
      } else if character == ":" {
        let rest = text[text.index(after: index)...]
        guard rest.isEmpty || rest.first == " " else { continue }
        return (text[..<index], rest.drop { $0 == " " })
      }
    }
    return nil
  }
}

/// Scalars, and lists and mappings in brackets.
private struct YAMLInline {
  private var rest: Substring
  private let line: Int

  init(_ text: Substring, line: Int) {
    rest = text
    self.line = line
  }

  private func failure(_ reason: String) -> YAMLFailure { YAMLFailure(line: line, reason: reason) }

  /// The value that the whole text is.
  mutating func whole() throws(YAMLFailure) -> JSONValue {
    let value = try value(inBrackets: false, level: 0)
    skipSpaces()
    guard rest.isEmpty else { throw failure("'\(rest.prefix(20))' follows a value that has ended") }
    return value
  }

  mutating func keyText() throws(YAMLFailure) -> String {
    if rest.first == "\"" || rest.first == "'" {
      let text = try quoted()
      guard rest.isEmpty else { throw failure("'\(rest.prefix(20))' follows a key that has ended") }
      return text
    }
    if let first = rest.first, "&*!?|>%@`".contains(first) { throw failure("a key cannot begin with '\(first)'") }
    return String(rest)
  }

  private mutating func skipSpaces() { rest = rest.drop { $0 == " " || $0 == "\t" } }

  private mutating func value(inBrackets: Bool, level: Int) throws(YAMLFailure) -> JSONValue {
    skipSpaces()
    guard level < 64 else { throw failure("it is nested too deeply") }
    guard let first = rest.first else { throw failure("a value is missing") }
    switch first {
    case "[": return try list(level)
    case "{": return try mapping(level)
    case "\"", "'": return .string(try quoted())
    case "&", "*", "!": throw failure("anchors and tags ('\(first)') are not read")
    case "|", ">": throw failure("texts over several lines ('\(first)') are not read")
    case "%", "@", "`": throw failure("a value cannot begin with '\(first)'")
    default: break
    }
    // In brackets a word with a colon is refused, by what comes after it: it may be meant for a mapping.
    let text = inBrackets ? rest.prefix { !",]}:".contains($0) } : rest
    rest = rest[text.endIndex...]
    let trimmed = text.reversed().drop { $0 == " " || $0 == "\t" }.reversed()
    let word = String(trimmed)
    if !inBrackets && (word.contains(": ") || word.hasSuffix(":")) {
      throw failure("'\(word.prefix(40))' has a second colon; put quotes around it")
    }
    guard !word.isEmpty else { throw failure("a value is missing") }
    return Self.scalar(word)
  }

  private mutating func list(_ level: Int) throws(YAMLFailure) -> JSONValue {
    rest.removeFirst()
    var elements: [JSONValue] = []
    while true {
      skipSpaces()
      if rest.first == "]" { break }
      elements.append(try value(inBrackets: true, level: level + 1))
      skipSpaces()
      if rest.first == "," {
        rest.removeFirst()
      } else if rest.first != "]" {
        throw failure("a list is not closed by ']' in its line")
      }
    }
    rest.removeFirst()
    return .array(elements)
  }

  private mutating func mapping(_ level: Int) throws(YAMLFailure) -> JSONValue {
    rest.removeFirst()
    var members: [JSONValue.Member] = []
    var names: Set<ExactName> = []
    while true {
      skipSpaces()
      if rest.first == "}" { break }
      let key: String
      if rest.first == "\"" || rest.first == "'" {
        key = try quoted()
      } else {
        let text = rest.prefix { !":,}]".contains($0) }
        key = String(text.reversed().drop { $0 == " " }.reversed())
        rest = rest[text.endIndex...]
      }
      skipSpaces()
      guard rest.first == ":" else { throw failure("a mapping in braces lacks a ':' after '\(key)'") }
      rest.removeFirst()
      guard names.insert(ExactName(key)).inserted else { throw failure("the key '\(key)' stands twice") }
      members.append(.init(key, try value(inBrackets: true, level: level + 1)))
      skipSpaces()
      if rest.first == "," {
        rest.removeFirst()
      } else if rest.first != "}" {
        throw failure("a mapping is not closed by '}' in its line")
      }
    }
    rest.removeFirst()
    return .object(members)
  }

  private mutating func quoted() throws(YAMLFailure) -> String {
    let quote = rest.removeFirst()
    var text = ""
    while let character = rest.popFirst() {
      if character == quote {
        guard quote == "'", rest.first == "'" else { return text }
        text.append(rest.removeFirst())
      } else if character == "\\" && quote == "\"" {
        guard let next = rest.popFirst() else { break }
        switch next {
        case "n": text.append("\n")
        case "t": text.append("\t")
        case "\\", "\"", "/": text.append(next)
        default: throw failure("the escape '\\\(next)' is not read")
        }
      } else {
        text.append(character)
      }
    }
    throw failure("a quote is not closed in its line")
  }

  /// What a word without quotes is, by YAML 1.2's core schema.
  private static func scalar(_ word: String) -> JSONValue {
    switch word {
    case "null", "Null", "NULL", "~": return .null
    case "true", "True", "TRUE": return .bool(true)
    case "false", "False", "FALSE": return .bool(false)
    default: break
    }
    if let first = word.first, first.isASCII, first.isNumber || "+-.".contains(first),
      word.utf8.contains(where: { (0x30...0x39).contains($0) }),
      word.allSatisfy({ $0.isASCII && ($0.isNumber || "+-.eE".contains($0)) })
    {
      if let integer = Int(word) { return .integer(integer) }
      if let number = Double(word.hasSuffix(".") ? word + "0" : word.hasPrefix(".") ? "0" + word : word),
        number.isFinite
      {
        return .number(number)
      }
    }
    return .string(word)
  }
}
