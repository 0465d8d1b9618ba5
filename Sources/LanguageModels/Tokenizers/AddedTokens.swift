internal import TensorFiles

/// Tokens that are found in the text before it is split, longest first.
struct AddedTokens {
  struct Token {
    let id: Int
    let content: [UInt8]
    /// What decoding gives: the content, normalised if the token is looked for in normalised text.
    let decoded: [UInt8]
    let isSpecial: Bool
    let isNormalised: Bool
    let takesSpaceLeft: Bool
    let takesSpaceRight: Bool
    let isWholeWord: Bool
  }

  /// Tokens by the first byte of what is looked for, longest first.
  private struct Finder {
    var byFirst: [UInt8: [(content: [UInt8], token: Token)]] = [:]

    mutating func add(_ content: [UInt8], _ token: Token) {
      guard let first = content.first else { return }
      byFirst[first, default: []].append((content, token))
      byFirst[first]?.sort { $0.content.count > $1.content.count }
    }
  }

  let byID: [Int: Token]
  private var plain = Finder()
  private var normalised = Finder()

  /// Throws `.configValue` for an entry without id and content.
  init(_ json: JSONValue?, normalizer: Normalizer?, path: String) throws(ModelError) {
    var byID: [Int: Token] = [:]
    for entry in json?.elements ?? [] {
      guard let id = entry["id"]?.integerValue, (0..<1 << 30).contains(id), let content = entry["content"]?.stringValue
      else { throw .configValue(path: path, key: "added_tokens", expected: "tokens", found: entry.compactText) }
      func flag(_ key: String) -> Bool { entry[key]?.boolValue ?? false }
      let bytes = Array(content.utf8)
      let decoded = flag("normalized") ? normalizer?(bytes) ?? bytes : bytes
      let token = Token(
        id: id, content: bytes, decoded: decoded, isSpecial: flag("special"), isNormalised: flag("normalized"),
        takesSpaceLeft: flag("lstrip"), takesSpaceRight: flag("rstrip"), isWholeWord: flag("single_word"))
      byID[id] = token
      if token.isNormalised {
        normalised.add(token.decoded, token)
      } else {
        plain.add(token.content, token)
      }
    }
    self.byID = byID
  }

  enum Piece {
    case text([UInt8])
    case token(Int)
  }

  /// A text divided at added tokens; what lies between is normalised.
  func divide(_ text: [UInt8], _ normalizer: Normalizer?) -> [Piece] {
    Self.divide(text, plain).flatMap { piece -> [Piece] in
      guard case .text(let part) = piece else { return [piece] }
      let changed = normalizer?(part) ?? part
      return Self.divide(changed, normalised)
    }
  }

  private static func divide(_ text: [UInt8], _ finder: Finder) -> [Piece] {
    guard !finder.byFirst.isEmpty else { return text.isEmpty ? [] : [.text(text)] }
    var pieces: [Piece] = []
    var (start, index) = (0, 0)
    while index < text.count {
      guard let candidates = finder.byFirst[text[index]],
        let found = candidates.first(where: { text[index...].starts(with: $0.content) })
      else {
        index += 1
        continue
      }
      var (left, right) = (index, index + found.content.count)
      if found.token.isWholeWord, isWord(before: left, text) || isWord(at: right, text) {
        index += 1
        continue
      }
      if found.token.takesSpaceLeft {
        while left > start, isSpace(text, endingAt: left) > 0 { left -= isSpace(text, endingAt: left) }
      }
      if found.token.takesSpaceRight {
        while right < text.count, isSpace(text, at: right) > 0 { right += isSpace(text, at: right) }
      }
      if left > start { pieces.append(.text(Array(text[start..<left]))) }
      pieces.append(.token(found.token.id))
      (start, index) = (right, right)
    }
    if start < text.count { pieces.append(.text(Array(text[start...]))) }
    return pieces
  }

  private static func scalar(_ text: [UInt8], at index: Int) -> (scalar: Unicode.Scalar, length: Int)? {
    guard index < text.count else { return nil }
    var end = index + 1
    while end < text.count, text[end] & 0xC0 == 0x80 { end += 1 }
    return String(decoding: text[index..<end], as: UTF8.self).unicodeScalars.first.map { ($0, end - index) }
  }

  private static func scalar(_ text: [UInt8], endingAt index: Int) -> (scalar: Unicode.Scalar, length: Int)? {
    guard index > 0 else { return nil }
    var start = index - 1
    while start > 0, text[start] & 0xC0 == 0x80 { start -= 1 }
    return String(decoding: text[start..<index], as: UTF8.self).unicodeScalars.first.map { ($0, index - start) }
  }

  /// Bytes of the white space at an index; 0 if there is none.
  private static func isSpace(_ text: [UInt8], at index: Int) -> Int {
    scalar(text, at: index).map { $0.scalar.properties.isWhitespace ? $0.length : 0 } ?? 0
  }

  private static func isSpace(_ text: [UInt8], endingAt index: Int) -> Int {
    scalar(text, endingAt: index).map { $0.scalar.properties.isWhitespace ? $0.length : 0 } ?? 0
  }

  private static func isWordScalar(_ scalar: Unicode.Scalar) -> Bool {
    scalar.properties.isAlphabetic || scalar.properties.numericType != nil || scalar == "_"
      || scalar.properties.generalCategory == .nonspacingMark
  }

  private static func isWord(before index: Int, _ text: [UInt8]) -> Bool {
    scalar(text, endingAt: index).map { isWordScalar($0.scalar) } ?? false
  }

  private static func isWord(at index: Int, _ text: [UInt8]) -> Bool {
    scalar(text, at: index).map { isWordScalar($0.scalar) } ?? false
  }
}
