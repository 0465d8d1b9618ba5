internal import TensorFiles

/// How a text is split into words. Source: huggingface/tokenizers, `pre_tokenizers`.
indirect enum PreTokenizer {
  /// What becomes of what a pattern finds.
  enum Behaviour: String {
    case removed = "Removed"
    case isolated = "Isolated"
    case mergedWithPrevious = "MergedWithPrevious"
    case mergedWithNext = "MergedWithNext"
    case contiguous = "Contiguous"
  }

  case sequence([PreTokenizer])
  case byteLevel(addsPrefixSpace: Bool, pattern: TextPattern?)
  case split(TextPattern, Behaviour, inverted: Bool)
  case metaspace(replacement: [UInt8], scheme: String, splits: Bool)

  /// What `Metaspace` writes for a space, one character; nil if a file says something else.
  static func metaspace(_ json: JSONValue) -> [UInt8]? {
    let text = json["replacement"]?.stringValue ?? "▁"
    return text.unicodeScalars.count == 1 ? Array(text.utf8) : nil
  }

  /// GPT-2's words.
  private static let words = #"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"#
  private static let punctuation = #"[\p{P}\x21-\x2F\x3A-\x40\x5B-\x60\x7B-\x7E]"#

  /// Throws `.tokenizerComponent` for a type, pattern or behaviour that is not known.
  init?(_ json: JSONValue?, path: String) throws(ModelError) {
    guard let json, json != .null else { return nil }
    let type = json["type"]?.stringValue ?? ""
    func unknown(_ found: String) -> ModelError {
      .tokenizerComponent(path: path, part: "pre-tokenizer", found: found)
    }
    func pattern(_ source: String) throws(ModelError) -> TextPattern {
      guard let made = TextPattern(source) else { throw unknown("\(type) with \(source)") }
      return made
    }
    func behaviour() throws(ModelError) -> Behaviour {
      let name = json["behavior"]?.stringValue ?? "Isolated"
      guard let made = Behaviour(rawValue: name) else { throw unknown("\(type) with \(name)") }
      return made
    }
    switch type {
    case "Sequence":
      var parts: [PreTokenizer] = []
      for part in json["pretokenizers"]?.elements ?? [] {
        if let made = try PreTokenizer(part, path: path) { parts.append(made) }
      }
      self = .sequence(parts)
    case "ByteLevel":
      let usesPattern = json["use_regex"]?.boolValue ?? true
      self = .byteLevel(
        addsPrefixSpace: json["add_prefix_space"]?.boolValue ?? true,
        pattern: usesPattern ? try pattern(Self.words) : nil)
    case "Split":
      guard let made = TextPattern(tokenizer: json["pattern"]) else {
        throw unknown("Split with \(json["pattern"]?.compactText ?? "no pattern")")
      }
      self = .split(made, try behaviour(), inverted: json["invert"]?.boolValue ?? false)
    case "Digits":
      let single = json["individual_digits"]?.boolValue ?? false
      self = .split(try pattern(single ? #"\p{N}"# : #"\p{N}+"#), .isolated, inverted: false)
    case "Punctuation": self = .split(try pattern(Self.punctuation), try behaviour(), inverted: false)
    case "Whitespace": self = .split(try pattern(#"\w+|[^\w\s]+"#), .removed, inverted: true)
    case "WhitespaceSplit": self = .split(try pattern(#"\s"#), .removed, inverted: false)
    case "BertPreTokenizer":
      self = .sequence([
        .split(try pattern(#"\s"#), .removed, inverted: false),
        .split(try pattern(Self.punctuation), .isolated, inverted: false),
      ])
    case "CharDelimiterSplit":
      guard let made = TextPattern(literal: json["delimiter"]?.stringValue ?? "") else { throw unknown(type) }
      self = .split(made, .removed, inverted: false)
    case "Metaspace":
      let adds = json["add_prefix_space"]?.boolValue
      let scheme = json["prepend_scheme"]?.stringValue ?? (adds == false ? "never" : "always")
      guard let replacement = Self.metaspace(json) else {
        throw unknown("Metaspace with \(json["replacement"]?.compactText ?? "")")
      }
      self = .metaspace(replacement: replacement, scheme: scheme, splits: json["split"]?.boolValue ?? true)
    default: throw unknown(type)
    }
  }

  /// What a piece of text costs beside its bytes.
  private static let pieceCost = 32

  /// The words of pieces of text. `isFirst` tells whether a piece begins the whole input. Throws `.tokenizerTooCostly`.
  func callAsFunction(
    _ pieces: [(text: [UInt8], isFirst: Bool)], _ budget: TokenBudget
  ) throws(ModelError) -> [(text: [UInt8], isFirst: Bool)] {
    if case .sequence(let parts) = self {
      var pieces = pieces
      for part in parts { pieces = try part(pieces, budget) }
      return pieces
    }
    var words: [(text: [UInt8], isFirst: Bool)] = []
    for piece in pieces { words += try split(piece.text, piece.isFirst, budget) }
    return words
  }

  private func split(
    _ text: [UInt8], _ isFirst: Bool, _ budget: TokenBudget
  ) throws(ModelError) -> [(text: [UInt8], isFirst: Bool)] {
    try budget.spend(text.count + Self.pieceCost)
    func numbered(_ words: [[UInt8]]) throws(ModelError) -> [(text: [UInt8], isFirst: Bool)] {
      try budget.spend(words.count, times: Self.pieceCost)
      return words.enumerated().map { ($1, isFirst && $0 == 0) }
    }
    switch self {
    case .sequence: return [(text, isFirst)]
    case .byteLevel(let addsPrefixSpace, let pattern):
      var text = text
      if addsPrefixSpace, let first = text.first, first != 0x20 { text.insert(0x20, at: 0) }
      var words = [text]
      if let pattern { words = Self.pieces(text, try pattern.matches(in: text, budget), .isolated, inverted: false) }
      // A byte becomes two at most.
      try budget.spend(text.count, times: 2)
      return try numbered(words.map(ByteLetters.encode))
    case .split(let pattern, let behaviour, let inverted):
      return try numbered(Self.pieces(text, pattern.matches(in: text, budget), behaviour, inverted: inverted))
    case .metaspace(let replacement, let scheme, let splits):
      var changed: [UInt8] = []
      try budget.spend(text.count, times: replacement.count)
      for byte in text { if byte == 0x20 { changed += replacement } else { changed.append(byte) } }
      if (scheme == "always" || (scheme == "first" && isFirst)) && !changed.starts(with: replacement) {
        changed = replacement + changed
      }
      guard splits else { return [(changed, isFirst)] }
      var marks: [Range<Int>] = []
      var index = 0
      while index + replacement.count <= changed.count {
        if changed[index..<index + replacement.count].elementsEqual(replacement) {
          marks.append(index..<index + replacement.count)
          index += replacement.count
        } else {
          index += 1
        }
      }
      return try numbered(Self.pieces(changed, marks, .mergedWithNext, inverted: false))
    }
  }

  /// A text cut at matches. Source: `NormalizedString::split`.
  private static func pieces(
    _ text: [UInt8], _ matches: [Range<Int>], _ behaviour: Behaviour, inverted: Bool
  ) -> [[UInt8]] {
    var parts: [(range: Range<Int>, isMatch: Bool)] = []
    var end = 0
    for match in matches {
      if end < match.lowerBound { parts.append((end..<match.lowerBound, inverted)) }
      parts.append((match, !inverted))
      end = match.upperBound
    }
    if end < text.count { parts.append((end..<text.count, inverted)) }
    var result: [(range: Range<Int>, isMatch: Bool)] = []
    switch behaviour {
    case .removed: result = parts.filter { !$0.isMatch }
    case .isolated: result = parts
    case .contiguous:
      for part in parts {
        if let last = result.last, last.isMatch == part.isMatch {
          result[result.count - 1].range = last.range.lowerBound..<part.range.upperBound
        } else {
          result.append(part)
        }
      }
    case .mergedWithPrevious:
      var previousWasMatch = false
      for part in parts {
        if part.isMatch && !previousWasMatch, let last = result.last {
          result[result.count - 1].range = last.range.lowerBound..<part.range.upperBound
        } else {
          result.append(part)
        }
        previousWasMatch = part.isMatch
      }
    case .mergedWithNext:
      var previousWasMatch = false
      for part in parts.reversed() {
        if part.isMatch && !previousWasMatch, let last = result.last {
          result[result.count - 1].range = part.range.lowerBound..<last.range.upperBound
        } else {
          result.append(part)
        }
        previousWasMatch = part.isMatch
      }
      result.reverse()
    }
    return result.filter { !$0.range.isEmpty }.map { Array(text[$0.range]) }
  }
}

/// GPT-2's letters for bytes: each byte has a printable character. Source: huggingface/tokenizers, `bytes_char`.
enum ByteLetters {
  private static let scalars: [UInt32] = {
    let printable = Array(0x21...0x7E) + Array(0xA1...0xAC) + Array(0xAE...0xFF)
    var table = [UInt32](repeating: 0, count: 256)
    var next: UInt32 = 256
    for byte in 0..<256 {
      if printable.contains(byte) {
        table[byte] = UInt32(byte)
      } else {
        table[byte] = next
        next += 1
      }
    }
    return table
  }()

  private static let letters: [[UInt8]] = scalars.map { Array(String(UnicodeScalar($0)!).utf8) }
  private static let bytes = Dictionary(uniqueKeysWithValues: scalars.enumerated().map { ($1, UInt8($0)) })

  /// The letters of bytes, as UTF-8.
  static func encode(_ text: [UInt8]) -> [UInt8] { text.flatMap { letters[Int($0)] } }

  /// The bytes of a token's letters; the token's own bytes if one of its characters is no such letter.
  static func decode(_ token: [UInt8]) -> [UInt8] {
    var result: [UInt8] = []
    for scalar in String(decoding: token, as: UTF8.self).unicodeScalars {
      guard let byte = bytes[scalar.value] else { return token }
      result.append(byte)
    }
    return result
  }
}
