internal import TensorFiles

/// How tokens become text again. Source: huggingface/tokenizers, `decoders`.
indirect enum TokenDecoder {
  case sequence([TokenDecoder])
  case byteLevel
  case metaspace(replacement: [UInt8], addsPrefix: Bool)
  case replace(TextPattern, [UInt8])
  case byteFallback
  case fuse
  case strip(content: [UInt8], start: Int, stop: Int)

  /// Throws `.tokenizerComponent` for a type that is not known.
  init?(_ json: JSONValue?, path: String) throws(ModelError) {
    guard let json, json != .null else { return nil }
    let type = json["type"]?.stringValue ?? ""
    switch type {
    case "Sequence":
      var parts: [TokenDecoder] = []
      for part in json["decoders"]?.elements ?? [] {
        if let made = try TokenDecoder(part, path: path) { parts.append(made) }
      }
      self = .sequence(parts)
    case "ByteLevel": self = .byteLevel
    case "Metaspace":
      let scheme =
        json["prepend_scheme"]?.stringValue ?? (json["add_prefix_space"]?.boolValue == false ? "never" : "always")
      guard let replacement = PreTokenizer.metaspace(json) else {
        throw .tokenizerComponent(path: path, part: "decoder", found: json.compactText)
      }
      self = .metaspace(replacement: replacement, addsPrefix: scheme != "never")
    case "Replace":
      guard let pattern = TextPattern(tokenizer: json["pattern"]) else {
        throw .tokenizerComponent(path: path, part: "decoder", found: json.compactText)
      }
      self = .replace(pattern, Array((json["content"]?.stringValue ?? "").utf8))
    case "ByteFallback": self = .byteFallback
    case "Fuse": self = .fuse
    case "Strip":
      self = .strip(
        content: Array((json["content"]?.stringValue ?? " ").utf8), start: json["start"]?.integerValue ?? 0,
        stop: json["stop"]?.integerValue ?? 0)
    default: throw .tokenizerComponent(path: path, part: "decoder", found: type)
    }
  }

  /// Tokens as they become pieces of text; joined they are the text. Throws `.tokenizerTooCostly`.
  func callAsFunction(_ tokens: [[UInt8]], _ budget: TokenBudget) throws(ModelError) -> [[UInt8]] {
    try budget.spend(tokens.reduce(1) { $0 + $1.count + 1 })
    switch self {
    case .sequence(let parts):
      var tokens = tokens
      for part in parts { tokens = try part(tokens, budget) }
      return tokens
    case .byteLevel: return [repaired(tokens.flatMap(ByteLetters.decode))]
    case .metaspace(let replacement, let addsPrefix):
      return tokens.enumerated().map { index, token in
        var result: [UInt8] = []
        var position = 0
        while position < token.count {
          if token[position...].starts(with: replacement) {
            if !(index == 0 && position == 0 && addsPrefix) { result.append(0x20) }
            position += replacement.count
          } else {
            result.append(token[position])
            position += 1
          }
        }
        return result
      }
    case .replace(let pattern, let content):
      var replaced: [[UInt8]] = []
      for token in tokens { replaced.append(try Normalizer.replaced(token, pattern, content, budget)) }
      return replaced
    case .byteFallback: return Self.joiningBytes(tokens)
    case .fuse: return [tokens.flatMap { $0 }]
    case .strip(let content, let start, let stop):
      return tokens.map { token in
        var token = token[...]
        var left = start
        while left > 0, token.starts(with: content), !content.isEmpty {
          (token, left) = (token.dropFirst(content.count), left - 1)
        }
        var right = stop
        while right > 0, !content.isEmpty, token.count >= content.count,
          token.suffix(content.count).elementsEqual(content)
        {
          (token, right) = (token.dropLast(content.count), right - 1)
        }
        return Array(token)
      }
    }
  }

  /// Runs of byte tokens as the text that they spell; each as a replacement character if they spell none.
  private static func joiningBytes(_ tokens: [[UInt8]]) -> [[UInt8]] {
    var result: [[UInt8]] = []
    var run: [UInt8] = []
    func flush() {
      guard !run.isEmpty else { return }
      if String(validating: run, as: UTF8.self) != nil {
        result.append(run)
      } else {
        result += run.map { _ in Array("\u{FFFD}".utf8) }
      }
      run = []
    }
    for token in tokens {
      if let byte = byteValue(token) {
        run.append(byte)
      } else {
        flush()
        result.append(token)
      }
    }
    flush()
    return result
  }

  private static func byteValue(_ token: [UInt8]) -> UInt8? {
    guard token.count == 6, token.starts(with: Array("<0x".utf8)), token[5] == UInt8(ascii: ">") else { return nil }
    return UInt8(String(decoding: token[3..<5], as: UTF8.self), radix: 16)
  }
}

/// Valid UTF-8: what is not becomes replacement characters.
func repaired(_ bytes: [UInt8]) -> [UInt8] { Array(String(decoding: bytes, as: UTF8.self).utf8) }
