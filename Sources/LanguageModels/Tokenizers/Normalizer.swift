internal import CUTF8Proc
internal import Glibc
internal import TensorFiles

/// What happens to a text before it is split. Source: huggingface/tokenizers, `normalizers`.
indirect enum Normalizer {
  case sequence([Normalizer])
  case unicode(composed: Bool, compatible: Bool)
  case lowercase
  case stripAccents
  case strip(left: Bool, right: Bool)
  case prepend([UInt8])
  case replace(TextPattern, [UInt8])
  case precompiled(CharacterMap)

  /// Throws `.tokenizerComponent` for a type or pattern that is not known.
  init?(_ json: JSONValue?, path: String) throws(ModelError) {
    guard let json, json != .null else { return nil }
    let type = json["type"]?.stringValue ?? ""
    func unknown() -> ModelError { .tokenizerComponent(path: path, part: "normalizer", found: type) }
    switch type {
    case "Sequence":
      var parts: [Normalizer] = []
      for part in json["normalizers"]?.elements ?? [] {
        if let made = try Normalizer(part, path: path) { parts.append(made) }
      }
      self = .sequence(parts)
    case "NFC": self = .unicode(composed: true, compatible: false)
    case "NFD": self = .unicode(composed: false, compatible: false)
    case "NFKC": self = .unicode(composed: true, compatible: true)
    case "NFKD": self = .unicode(composed: false, compatible: true)
    case "Lowercase": self = .lowercase
    case "StripAccents": self = .stripAccents
    case "Strip":
      self = .strip(
        left: json["strip_left"]?.boolValue ?? true, right: json["strip_right"]?.boolValue ?? true)
    case "Prepend": self = .prepend(Array((json["prepend"]?.stringValue ?? "").utf8))
    case "Replace":
      guard let pattern = TextPattern(tokenizer: json["pattern"]) else { throw unknown() }
      self = .replace(pattern, Array((json["content"]?.stringValue ?? "").utf8))
    case "Precompiled":
      guard let map = CharacterMap(base64: json["precompiled_charsmap"]?.stringValue ?? "") else { throw unknown() }
      self = .precompiled(map)
    default: throw unknown()
    }
  }

  /// Throws `.tokenizerTooCostly`.
  func callAsFunction(_ text: [UInt8], _ budget: TokenBudget) throws(ModelError) -> [UInt8] {
    try budget.spend(text.count + 1)
    switch self {
    case .sequence(let parts):
      var text = text
      for part in parts { text = try part(text, budget) }
      return text
    case .precompiled(let map): return try map.normalise(text, budget)
    case .unicode(let composed, let compatible):
      return Self.normalised(text, composed: composed, compatible: compatible)
    case .lowercase: return Array(String(decoding: text, as: UTF8.self).lowercased().utf8)
    case .stripAccents:
      let scalars = String(decoding: text, as: UTF8.self).unicodeScalars.filter {
        $0.properties.generalCategory != .nonspacingMark
      }
      return Array(String(String.UnicodeScalarView(scalars)).utf8)
    case .strip(let left, let right):
      var scalars = Array(String(decoding: text, as: UTF8.self).unicodeScalars)
      if left { scalars = Array(scalars.drop { $0.properties.isWhitespace }) }
      if right { while scalars.last?.properties.isWhitespace ?? false { scalars.removeLast() } }
      return Array(String(String.UnicodeScalarView(scalars)).utf8)
    case .prepend(let prefix):
      try budget.spend(prefix.count)
      return text.isEmpty ? text : prefix + text
    case .replace(let pattern, let content):
      return try Self.replaced(text, pattern, content, budget)
    }
  }

  /// A text with matches replaced. Throws `.tokenizerTooCostly`.
  static func replaced(
    _ text: [UInt8], _ pattern: TextPattern, _ content: [UInt8], _ budget: TokenBudget
  ) throws(ModelError) -> [UInt8] {
    var result: [UInt8] = []
    var end = 0
    for range in try pattern.matches(in: text, budget) {
      try budget.spend(content.count)
      result += text[end..<range.lowerBound] + content
      end = range.upperBound
    }
    return result + text[end...]
  }

  private static func normalised(_ text: [UInt8], composed: Bool, compatible: Bool) -> [UInt8] {
    guard text.contains(where: { $0 >= 0x80 }) else { return text }
    var options = UTF8PROC_STABLE.rawValue | (composed ? UTF8PROC_COMPOSE.rawValue : UTF8PROC_DECOMPOSE.rawValue)
    if compatible { options |= UTF8PROC_COMPAT.rawValue }
    var output: UnsafeMutablePointer<UInt8>?
    let length = utf8proc_map(text, text.count, &output, utf8proc_option_t(options))
    guard length >= 0, let output else { return text }
    defer { free(output) }
    return Array(UnsafeBufferPointer(start: output, count: length))
  }
}

extension TextPattern {
  /// A pattern of a tokenizer file: `{"String": …}` or `{"Regex": …}`.
  convenience init?(tokenizer json: JSONValue?) {
    if let literal = json?["String"]?.stringValue {
      self.init(literal: literal)
    } else if let pattern = json?["Regex"]?.stringValue {
      self.init(pattern)
    } else {
      return nil
    }
  }
}
