internal import CPCRE2
internal import TensorFiles

/// A compiled Python regular expression. Matching is bounded, so a hostile pattern ends in an error and not in a hang.
///
/// Not Sendable: make one where it is used.
final class Pattern {
  let source: String
  private let code: OpaquePointer
  private let budget: PatternBudget

  /// - Parameter budget: what all patterns of a configuration spend from.
  /// Throws `.patternInvalid`, `.patternUnsupported`, `.patternRunaway` if the budget is spent.
  init(_ source: String, _ budget: PatternBudget = PatternBudget()) throws(AdapterError) {
    guard budget.spend(PatternBudget.stepsToCompile + source.utf8.count) else {
      throw .patternRunaway(pattern: source, subject: "")
    }
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
    self.source = source
    self.budget = budget
    self.code = code
  }

  deinit { pcre2_code_free_8(code) }

  /// Python's `re.fullmatch(pattern, subject) is not None`. Throws `.patternRunaway`.
  func matchesWhole(_ subject: String) throws(AdapterError) -> Bool {
    try run(subject, options: UInt32(PCRE2_ANCHORED) | UInt32(PCRE2_ENDANCHORED), budget.match)
  }

  /// Python's `re.match(pattern, subject) is not None`. Throws `.patternRunaway`.
  func matchesStart(_ subject: String) throws(AdapterError) -> Bool {
    try run(subject, options: UInt32(PCRE2_ANCHORED), budget.match)
  }

  /// Python's `re.search(pattern, subject) is not None`. Throws `.patternRunaway`.
  func matchesSomewhere(_ subject: String) throws(AdapterError) -> Bool { try run(subject, options: 0, budget.match) }

  /// The named group of `re.match(pattern, subject)`, or nil. Throws `.patternRunaway`.
  func group(_ name: String, inStartOf subject: String) throws(AdapterError) -> String? {
    // The group is read after the call that owned the subject's bytes: the match keeps a copy of them.
    let options = UInt32(PCRE2_ANCHORED) | UInt32(PCRE2_COPY_MATCHED_SUBJECT)
    guard let match = pcre2_match_data_create_from_pattern_8(code, nil) else { preconditionFailure("out of memory") }
    defer { pcre2_match_data_free_8(match) }
    guard try run(subject, options: options, match) else { return nil }
    var start: UnsafeMutablePointer<UInt8>?
    var length = 0
    guard pcre2_substring_get_byname_8(match, name, &start, &length) == 0, let start else { return nil }
    defer { pcre2_substring_free_8(start) }
    return String(decoding: UnsafeBufferPointer(start: start, count: length), as: UTF8.self)
  }

  private func run(_ subject: String, options: UInt32, _ match: OpaquePointer) throws(AdapterError) -> Bool {
    let bytes = Array(subject.utf8)
    // How many steps a match took is not told: those that it may take are doubled until they are enough.
    var limit = PatternBudget.leastSteps
    while budget.spend(limit) {
      pcre2_set_match_limit_8(budget.context, UInt32(limit))
      let result = pcre2_match_8(code, bytes, bytes.count, 0, options, match, budget.context)
      if result >= 0 { return true }
      if result == PCRE2_ERROR_NOMATCH { return false }
      guard result == PCRE2_ERROR_MATCHLIMIT, limit < PatternBudget.mostSteps else { break }
      limit = min(2 * limit, PatternBudget.mostSteps)
    }
    throw .patternRunaway(pattern: source, subject: subject)
  }
}

/// Backtracking steps that the patterns of a configuration may take together, so that many slow ones end as one does.
///
/// Not Sendable: belongs to those who share it.
final class PatternBudget {
  /// Steps that one match may take.
  static let mostSteps = 1_000_000
  /// What any match may take. It is charged a quarter: names of modules take few steps.
  static let leastSteps = 256
  /// What a pattern costs before any match, in time and in memory; to it come its bytes.
  static let stepsToCompile = 1000

  private var left = 100_000_000

  /// What all patterns match with, one after the other.
  fileprivate let match: OpaquePointer
  fileprivate let context: OpaquePointer

  init() {
    guard let match = pcre2_match_data_create_8(1, nil), let context = pcre2_match_context_create_8(nil)
    else { preconditionFailure("out of memory") }
    pcre2_set_heap_limit_8(context, 20_000)
    self.match = match
    self.context = context
  }

  deinit {
    pcre2_match_data_free_8(match)
    pcre2_match_context_free_8(context)
  }

  /// False if so many steps are no longer there.
  func spend(_ steps: Int) -> Bool {
    left -= steps == Self.leastSteps ? steps / 4 : steps
    return left >= 0
  }
}

/// The patterns of a configuration that are looked up for each module: each is compiled once.
public final class PatternCache {
  private let budget = PatternBudget()
  private var compiled: [ExactName: Pattern] = [:]

  /// The compiled form. Throws as `Pattern.init`.
  func pattern(_ source: String) throws(AdapterError) -> Pattern {
    if let found = compiled[source] { return found }
    let made = try Pattern(source, budget)
    compiled[source] = made
    return made
  }
}
