internal import PEFT
internal import TensorFiles
internal import Training

/// What a run is told: a settings file, and the command line, which wins.
struct TrainingSettings {
  private(set) var arguments = TrainingArguments()
  private(set) var maxLength: Int?
  private(set) var truncates = false
  private(set) var packs = false
  private(set) var learnsAll = false
  /// A checkpoint's path, or `last`.
  private(set) var resumed: String?
  /// What is said of names that were read as others.
  private(set) var notes: [String] = []
  private var held: String?
  private let file: ArgumentsFile?

  /// Throws what `ArgumentsFile` throws, `TrainingError.argumentValue`, `UsageError.badValue`.
  init(_ invocation: Invocation) throws {
    file = try invocation.value("arguments").map { try ArgumentsFile(path: $0) }
    if let file {
      (arguments, notes) = (file.arguments, file.notes)
      for option in file.options { try take(option) }
    }
    for setting in TrainingArguments.settings {
      guard let word = invocation.value(setting.name.replacing("_", with: "-")) else { continue }
      try arguments.set(setting.name, Self.value(word))
    }
    if invocation.has("gradient-checkpointing") { try arguments.set("activation_checkpointing", .bool(true)) }
    if let share = invocation.value("warmup-ratio") {
      guard let number = Double(share), (0..<1).contains(number) else {
        throw UsageError.badValue(flag: "warmup-ratio", found: share, expected: "a share from 0 and below 1")
      }
      try arguments.set("warmup_steps", .number(number))
    }
    if let length = try invocation.integer("max-length") { try take(.init("max_length", .integer(length))) }
    truncates = truncates || invocation.has("truncate")
    packs = packs || invocation.has("packing")
    learnsAll = learnsAll || invocation.has("all-turns")
    held = invocation.value("eval-data") ?? held
    resumed = invocation.value("resume-from-checkpoint") ?? resumed
  }

  /// A word of the command line as JSON, if it is a number, a truth value, an object or a list.
  private static func value(_ word: String) -> JSONValue { JSONValue(parsing: word) ?? .string(word) }

  private mutating func take(_ option: JSONValue.Member) throws(TrainingError) {
    func wrong(_ expected: String) -> TrainingError {
      .argumentValue(name: option.key, found: option.value.compactText, expected: expected)
    }
    func flag() throws(TrainingError) -> Bool {
      guard let flag = option.value.boolValue else { throw wrong("true or false") }
      return flag
    }
    switch option.key {
    case "max_length":
      guard let length = option.value.integerValue, length > 1 else { throw wrong("a whole number from 2") }
      maxLength = length
    case "truncate": truncates = try flag()
    case "packing": packs = try flag()
    case "all_turns": learnsAll = try flag()
    case "eval_data":
      guard let path = option.value.stringValue else { throw wrong("a path") }
      held = path
    default:
      if let path = option.value.stringValue { resumed = path } else { resumed = try flag() ? "last" : nil }
    }
  }

  /// Where the records of evaluation are: as given, or what a directory of records sets aside.
  func evaluationData(_ data: String) -> String? { held ?? TrainingData.heldRecords(in: data) }

  /// Throws where the file's settings of the adapter are others than its configuration's.
  func check(_ config: PeftConfig) throws(TrainingError) { try file?.check(config) }
}
