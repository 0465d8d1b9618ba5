/// SentencePiece's compiled rules for characters: a double array of the texts to be replaced, and what takes their place.
///
/// Source: sentencepiece `normalizer.cc`, `third_party/darts_clone`; huggingface/spm_precompiled, whose order of tries this follows: a
/// grapheme of fewer than six bytes as a whole, then its characters, each by the shortest rule that begins it.
struct CharacterMap {
  private let units: [UInt32]
  /// Replacements, each ended by a zero byte.
  private let texts: [UInt8]

  /// Nil if the text is no such map.
  init?(base64 text: String) {
    guard let bytes = Self.decode(text), bytes.count >= 4 else { return nil }
    func word(_ place: Int) -> UInt32 {
      (0..<4).reduce(0) { $0 | UInt32(bytes[place + $1]) << (8 * $1) }
    }
    let size = Int(word(0))
    guard size > 0, size % 4 == 0, size <= bytes.count - 4 else { return nil }
    units = (0..<size / 4).map { word(4 + 4 * $0) }
    texts = Array(bytes[(4 + size)...])
  }

  private static func decode(_ text: String) -> [UInt8]? {
    let alphabet = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)
    var values = [UInt8](repeating: 255, count: 256)
    for (index, letter) in alphabet.enumerated() { values[Int(letter)] = UInt8(index) }
    var (bytes, bits, count): ([UInt8], UInt32, Int) = ([], 0, 0)
    for letter in text.utf8 where letter != UInt8(ascii: "=") {
      guard values[Int(letter)] < 64 else { return nil }
      (bits, count) = (bits << 6 | UInt32(values[Int(letter)]), count + 6)
      if count >= 8 {
        count -= 8
        bytes.append(UInt8(truncatingIfNeeded: bits >> count))
      }
    }
    return bytes
  }

  /// What the shortest rule that begins `piece` gives; nil if there is none.
  private func replacement(_ piece: ArraySlice<UInt8>) -> ArraySlice<UInt8>? {
    func offset(_ unit: UInt32) -> Int { Int((unit >> 10) << ((unit & 1 << 9) >> 6)) }
    var position = offset(units[0])
    for byte in piece {
      guard byte != 0 else { return nil }
      position ^= Int(byte)
      guard units.indices.contains(position) else { return nil }
      let unit = units[position]
      guard unit & (1 << 31 | 0xFF) == UInt32(byte) else { return nil }
      position ^= offset(unit)
      guard unit >> 8 & 1 == 1 else { continue }
      guard units.indices.contains(position) else { return nil }
      let start = Int(units[position] & 0x7FFF_FFFF)
      guard start < texts.count else { return nil }
      return texts[start...].prefix { $0 != 0 }
    }
    return nil
  }

  /// Throws `.tokenizerTooCostly`.
  func normalise(_ text: [UInt8], _ budget: TokenBudget) throws(ModelError) -> [UInt8] {
    var result: [UInt8] = []
    for grapheme in String(decoding: text, as: UTF8.self) {
      let bytes = Array(String(grapheme).utf8)
      if bytes.count < 6, let whole = replacement(bytes[...]) {
        try budget.spend(whole.count)
        result += whole
        continue
      }
      for range in characterBounds(bytes) {
        let piece = replacement(bytes[range]) ?? bytes[range]
        try budget.spend(piece.count)
        result += piece
      }
    }
    // A rule may begin in the middle of a character.
    return String(validating: result, as: UTF8.self) == nil ? repaired(result) : result
  }
}
