internal import CPCRE2

/// A regular expression over UTF-8, as tokenizer files have them: Unicode classes, steps bounded.
final class TextPattern {
  private let code: OpaquePointer
  private let match: OpaquePointer
  private let context: OpaquePointer

  /// Nil if the pattern cannot be compiled.
  init?(_ source: String) {
    let bytes = Array(source.utf8)
    var (errorCode, errorOffset): (Int32, Int) = (0, 0)
    guard
      let code = pcre2_compile_8(
        bytes, bytes.count, UInt32(PCRE2_UTF) | UInt32(PCRE2_UCP), &errorCode, &errorOffset, nil)
    else { return nil }
    _ = pcre2_jit_compile_8(code, UInt32(PCRE2_JIT_COMPLETE))
    guard let match = pcre2_match_data_create_from_pattern_8(code, nil), let context = pcre2_match_context_create_8(nil)
    else {
      pcre2_code_free_8(code)
      return nil
    }
    pcre2_set_match_limit_8(context, 10_000_000)
    self.code = code
    self.match = match
    self.context = context
  }

  /// The pattern that matches a text literally.
  convenience init?(literal: String) {
    self.init(literal.unicodeScalars.map { "\\x{\(String($0.value, radix: 16))}" }.joined())
  }

  deinit {
    pcre2_match_data_free_8(match)
    pcre2_match_context_free_8(context)
    pcre2_code_free_8(code)
  }

  /// All matches in valid UTF-8, from left to right, empty ones left out.
  func matches(in text: [UInt8]) -> [Range<Int>] {
    var found: [Range<Int>] = []
    var start = 0
    while start < text.count {
      guard pcre2_match_8(code, text, text.count, start, UInt32(PCRE2_NO_UTF_CHECK), match, context) > 0 else { break }
      // Soundness: a match fills the first pair.
      let pair = pcre2_get_ovector_pointer_8(match)!
      let range = Int(pair[0])..<max(Int(pair[0]), Int(pair[1]))
      if range.isEmpty {
        start = range.lowerBound + 1
        while start < text.count, text[start] & 0xC0 == 0x80 { start += 1 }
      } else {
        found.append(range)
        start = range.upperBound
      }
    }
    return found
  }
}
