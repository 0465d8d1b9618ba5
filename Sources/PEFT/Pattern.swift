internal import CPCRE2

/// A compiled Python regular expression. Matching is bounded, so a hostile pattern ends in an error and not in a hang.
///
/// Not Sendable: make one where it is used.
final class Pattern {
  let source: String
  private let code: OpaquePointer
  private let match: OpaquePointer
  private let context: OpaquePointer

  /// Backtracking steps before a match is given up.
  static let stepLimit: UInt32 = 1_000_000

  /// Throws `.patternInvalid`, `.patternUnsupported`.
  init(_ source: String) throws(AdapterError) {
    let translated = Array(try PythonPattern(source).translated.utf8)
    var errorCode: Int32 = 0
    var errorOffset = 0
    let options = UInt32(PCRE2_UTF) | UInt32(PCRE2_UCP)
    let code = pcre2_compile_8(translated, translated.count, options, &errorCode, &errorOffset, nil)
    guard let code else {
      var buffer = [UInt8](repeating: 0, count: 256)
      let length = pcre2_get_error_message_8(errorCode, &buffer, buffer.count)
      throw .patternInvalid(
        pattern: source, offset: errorOffset,
        reason: String(decoding: buffer.prefix(max(0, Int(length))), as: UTF8.self))
    }
    guard let match = pcre2_match_data_create_from_pattern_8(code, nil), let context = pcre2_match_context_create_8(nil)
    else { preconditionFailure("out of memory") }
    pcre2_set_match_limit_8(context, Self.stepLimit)
    pcre2_set_heap_limit_8(context, 20_000)
    self.source = source
    self.code = code
    self.match = match
    self.context = context
  }

  deinit {
    pcre2_match_data_free_8(match)
    pcre2_match_context_free_8(context)
    pcre2_code_free_8(code)
  }

  /// Python's `re.fullmatch(pattern, subject) is not None`. Throws `.patternRunaway`.
  func matchesWhole(_ subject: String) throws(AdapterError) -> Bool {
    try run(subject, options: UInt32(PCRE2_ANCHORED) | UInt32(PCRE2_ENDANCHORED)) != nil
  }

  /// Python's `re.match(pattern, subject) is not None`. Throws `.patternRunaway`.
  func matchesStart(_ subject: String) throws(AdapterError) -> Bool {
    try run(subject, options: UInt32(PCRE2_ANCHORED)) != nil
  }

  /// The named group of `re.match(pattern, subject)`, or nil. Throws `.patternRunaway`.
  func group(_ name: String, inStartOf subject: String) throws(AdapterError) -> String? {
    // The group is read after the call that owned the subject's bytes: the match keeps a copy of them.
    let options = UInt32(PCRE2_ANCHORED) | UInt32(PCRE2_COPY_MATCHED_SUBJECT)
    guard try run(subject, options: options) != nil else { return nil }
    var start: UnsafeMutablePointer<UInt8>?
    var length = 0
    guard pcre2_substring_get_byname_8(match, name, &start, &length) == 0, let start else { return nil }
    defer { pcre2_substring_free_8(start) }
    return String(decoding: UnsafeBufferPointer(start: start, count: length), as: UTF8.self)
  }

  private func run(_ subject: String, options: UInt32) throws(AdapterError) -> Int32? {
    let bytes = Array(subject.utf8)
    let result = pcre2_match_8(code, bytes, bytes.count, 0, options, match, context)
    if result >= 0 { return result }
    if result == PCRE2_ERROR_NOMATCH { return nil }
    throw .patternRunaway(pattern: source, subject: subject)
  }
}
