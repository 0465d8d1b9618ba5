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

  let byID: [Int: Token]
  private let tokens: [Token]
  /// Places in `tokens` by what is looked for.
  private let plain: PrefixTable
  private let normalised: PrefixTable

  /// Throws `.configValue` for an entry without id and content.
  init(_ json: JSONValue?, normalizer: Normalizer?, path: String) throws(ModelError) {
    let entries = json?.elements ?? []
    // One for all of them, as if they were one text.
    let budget = TokenBudget(
      byteCount: entries.reduce(0) { $0 + ($1["content"]?.stringValue?.utf8.count ?? 0) }, path: path)
    var byID: [Int: Token] = [:]
    var tokens: [Token] = []
    for entry in entries {
      guard let id = entry["id"]?.integerValue, (0..<1 << 30).contains(id), let content = entry["content"]?.stringValue
      else { throw .configValue(path: path, key: "added_tokens", expected: "tokens", found: entry.compactText) }
      func flag(_ key: String) -> Bool { entry[key]?.boolValue ?? false }
      let bytes = Array(content.utf8)
      let decoded = flag("normalized") ? try normalizer?(bytes, budget) ?? bytes : bytes
      let token = Token(
        id: id, content: bytes, decoded: decoded, isSpecial: flag("special"), isNormalised: flag("normalized"),
        takesSpaceLeft: flag("lstrip"), takesSpaceRight: flag("rstrip"), isWholeWord: flag("single_word"))
      byID[id] = token
      tokens.append(token)
    }
    self.byID = byID
    self.tokens = tokens
    // Of tokens that look alike the first counts.
    let places = tokens.indices.reversed()
    plain = PrefixTable(places.filter { !tokens[$0].isNormalised }.map { (tokens[$0].content, $0) })
    normalised = PrefixTable(places.filter { tokens[$0].isNormalised }.map { (tokens[$0].decoded, $0) })
  }

  enum Piece {
    case text([UInt8])
    case token(Int)
  }

  /// A text divided at added tokens; what lies between is normalised. Throws `.tokenizerTooCostly`.
  func divide(_ text: [UInt8], _ normalizer: Normalizer?, _ budget: TokenBudget) throws(ModelError) -> [Piece] {
    var pieces: [Piece] = []
    for piece in try divide(text, plain, budget) {
      guard case .text(let part) = piece else {
        pieces.append(piece)
        continue
      }
      pieces += try divide(try normalizer?(part, budget) ?? part, normalised, budget)
    }
    return pieces
  }

  private func divide(_ text: [UInt8], _ table: PrefixTable, _ budget: TokenBudget) throws(ModelError) -> [Piece] {
    guard !table.isEmpty else { return text.isEmpty ? [] : [.text(text)] }
    var pieces: [Piece] = []
    var (start, index) = (0, 0)
    while index < text.count {
      // The longest that begins here.
      var found: (token: Token, end: Int)?
      try table.matches(in: text, at: index, budget) { place, end in found = (tokens[place], end) }
      guard let found else {
        index += 1
        continue
      }
      var (left, right) = (index, found.end)
      if found.token.isWholeWord, Self.isWord(before: left, text) || Self.isWord(at: right, text) {
        index += 1
        continue
      }
      if found.token.takesSpaceLeft {
        while left > start, Self.isSpace(text, endingAt: left) > 0 { left -= Self.isSpace(text, endingAt: left) }
      }
      if found.token.takesSpaceRight {
        while right < text.count, Self.isSpace(text, at: right) > 0 { right += Self.isSpace(text, at: right) }
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
