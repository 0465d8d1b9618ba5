internal import CPCRE2

/// A regular expression over UTF-8, as tokenizer files have them, with Unicode classes.
final class TextPattern {
  private let code: OpaquePointer
  private let match: OpaquePointer
  private let context: OpaquePointer

  /// Steps that a match may take from one place of the text without being charged for them: more than sensible patterns take.
  private static let freeSteps: UInt32 = 64
  /// What a byte of the text costs, for those steps.
  private static let byteCost = 8

  /// Nil if the pattern cannot be compiled.
  ///
  /// It is interpreted, not compiled to machine code, whose steps the library does not count.
  init?(_ source: String) {
    let bytes = Array(source.utf8)
    var (errorCode, errorOffset): (Int32, Int) = (0, 0)
    let options = UInt32(PCRE2_UTF) | UInt32(PCRE2_UCP) | UInt32(PCRE2_USE_OFFSET_LIMIT)
    guard let code = pcre2_compile_8(bytes, bytes.count, options, &errorCode, &errorOffset, nil) else { return nil }
    guard let match = pcre2_match_data_create_from_pattern_8(code, nil), let context = pcre2_match_context_create_8(nil)
    else {
      pcre2_code_free_8(code)
      return nil
    }
    pcre2_set_heap_limit_8(context, 64 << 10)
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

  /// All matches in valid UTF-8, from left to right, empty ones left out. Throws `.tokenizerTooCostly`.
  func matches(in text: [UInt8], _ budget: TokenBudget) throws(ModelError) -> [Range<Int>] {
    try budget.spend(text.count, times: Self.byteCost)
    var found: [Range<Int>] = []
    var start = 0
    while start < text.count, let range = try next(in: text, from: start, budget) {
      if range.isEmpty {
        start = after(range.lowerBound, text)
      } else {
        found.append(range)
        start = range.upperBound
      }
    }
    return found
  }

  /// The first match from a place on.
  private func next(
    in text: [UInt8], from start: Int, _ budget: TokenBudget
  ) throws(ModelError) -> Range<Int>? {
    var start = start
    while start < text.count {
      switch run(text, start, limit: Self.freeSteps, isOnlyThere: false) {
      case .match(let range): return range
      case .none: return nil
      case .tooManySteps: break
      }
      // From some place on it takes more: each place for itself, until that one is passed.
      var limit = Self.freeSteps
      while limit == Self.freeSteps, start < text.count {
        var outcome = Outcome.tooManySteps
        while true {
          try budget.spend(Int(limit))
          outcome = run(text, start, limit: limit, isOnlyThere: true)
          guard case .tooManySteps = outcome else { break }
          limit = limit > .max / 2 ? .max : limit * 2
        }
        if case .match(let range) = outcome { return range }
        start = after(start, text)
      }
    }
    return nil
  }

  /// The beginning of the next character.
  private func after(_ index: Int, _ text: [UInt8]) -> Int {
    var index = index + 1
    while index < text.count, text[index] & 0xC0 == 0x80 { index += 1 }
    return index
  }

  private enum Outcome {
    case match(Range<Int>)
    case none
    case tooManySteps
  }

  /// - Parameter isOnlyThere: true for a match that begins at `start`, false for one from there on.
  private func run(_ text: [UInt8], _ start: Int, limit: UInt32, isOnlyThere: Bool) -> Outcome {
    guard start <= text.count else { return .none }
    pcre2_set_match_limit_8(context, limit)
    // PCRE2_UNSET is a macro of ~0 that Swift does not see.
    pcre2_set_offset_limit_8(context, isOnlyThere ? start : Int(bitPattern: UInt.max))
    let result = pcre2_match_8(code, text, text.count, start, UInt32(PCRE2_NO_UTF_CHECK), match, context)
    if result == PCRE2_ERROR_NOMATCH { return .none }
    guard result > 0 else { return .tooManySteps }
    // Soundness: a match fills the first pair.
    let pair = pcre2_get_ovector_pointer_8(match)!
    return .match(Int(pair[0])..<max(Int(pair[0]), Int(pair[1])))
  }
}
