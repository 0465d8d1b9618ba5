internal import PEFT
internal import TensorFiles

/// An option of a command: the one place that its name, value, texts and default stand in.
struct Flag: Sendable {
  let name: String
  let letter: Character?
  /// The value's name in help; nil for a switch.
  let value: String?
  /// One line.
  let summary: String
  /// A paragraph for the man page.
  let detail: String
  let defaultText: String?
  /// True if it may be given several times.
  let repeats: Bool
  /// True if the value may be a repository's name in the place of a path.
  let isModel: Bool
  /// The remedy of an error that giving it is, or, for `--offline`, that leaving it out is.
  let remedy: Remedy.Kind?

  init(
    _ name: String, letter: Character? = nil, value: String? = nil, _ summary: String, detail: String = "",
    default defaultText: String? = nil, repeats: Bool = false, isModel: Bool = false,
    remedy: Remedy.Kind? = nil
  ) {
    self.name = name
    self.letter = letter
    self.value = value
    self.summary = summary
    self.detail = detail
    self.defaultText = defaultText
    self.repeats = repeats
    self.isModel = isModel
    self.remedy = remedy
  }
}

/// A word that a command takes in a fixed place.
struct Operand: Sendable {
  let name: String
  let summary: String
  /// True if several may stand in this place; at most one operand of a command repeats.
  var repeats = false
  /// True if it may be left out; only the last operand.
  var isOptional = false
  /// True if it may be a repository's name in the place of a path.
  var isModel = false

  /// The name in help: "ADAPTER..." if it repeats.
  var spelling: String { repeats ? "\(name)..." : isOptional ? "[\(name)]" : name }
}

/// A command of the tool.
struct Command: Sendable {
  let name: String
  /// One line.
  let summary: String
  let operands: [Operand]
  let flags: [Flag]
  /// Paragraphs for the man page and the command's help.
  let detail: String
  let run: @Sendable (Invocation, Console) async throws -> Int32
}

/// What was typed, checked against the table.
struct Invocation: Sendable {
  fileprivate(set) var operands: [String]
  fileprivate(set) var values: [String: [String]] = [:]

  /// True if a switch was given.
  func has(_ flag: String) -> Bool { values[flag] != nil }

  /// The last value of an option.
  func value(_ flag: String) -> String? { values[flag]?.last }

  /// All values of an option.
  func all(_ flag: String) -> [String] { values[flag] ?? [] }

  /// An option as a whole number. Throws `UsageError.badValue`.
  func integer(_ flag: String) throws(UsageError) -> Int? {
    guard let text = value(flag) else { return nil }
    guard let number = Int(text) else { throw .badValue(flag: flag, found: text, expected: "a whole number") }
    return number
  }

  /// An option as a number. Throws `UsageError.badValue`.
  func number(_ flag: String) throws(UsageError) -> Double? {
    guard let text = value(flag) else { return nil }
    guard let number = Double(text), number.isFinite else {
      throw .badValue(flag: flag, found: text, expected: "a number")
    }
    return number
  }
}

extension Command {
  /// The invocation with repositories' names replaced by the directories that hold them.
  ///
  /// A word that leads somewhere is a path. Throws what `Hub.directory(of:)` throws.
  func locatingModels(_ invocation: Invocation, report: @escaping (HubProgress) -> Void) throws(AdapterError)
    -> Invocation
  {
    var invocation = invocation
    let hub = Hub(isOffline: invocation.has("offline"))
    for (index, word) in invocation.operands.enumerated()
    where operand(at: index, of: invocation.operands.count).isModel {
      invocation.operands[index] = try Self.located(word, hub, report)
    }
    for flag in flags where flag.isModel {
      var located: [String] = []
      for word in invocation.all(flag.name) { located.append(try Self.located(word, hub, report)) }
      if !located.isEmpty { invocation.values[flag.name] = located }
    }
    return invocation
  }

  private static func located(_ word: String, _ hub: Hub, _ report: @escaping (HubProgress) -> Void)
    throws(AdapterError)
    -> String
  {
    guard FileSystem.kind(word) == nil else { return word }
    if let repository = Repository(word) { return try hub.directory(of: repository, report: report) }
    // An adapter's weight in a merge.
    if let colon = word.lastIndex(of: ":"), Double(word[word.index(after: colon)...]) != nil,
      FileSystem.kind(String(word[..<colon])) == nil, let repository = Repository(String(word[..<colon]))
    {
      return try hub.directory(of: repository, report: report) + word[colon...]
    }
    return word
  }

  /// The operand that a word stands for: a repeating one takes what the others leave.
  private func operand(at index: Int, of count: Int) -> Operand {
    guard let repeating = operands.firstIndex(where: \.repeats) else { return operands[min(index, operands.count - 1)] }
    let after = operands.count - 1 - repeating
    if index < repeating { return operands[index] }
    return index >= count - after ? operands[operands.count - (count - index)] : operands[repeating]
  }

  /// Reads words by GNU's conventions: `--flag value`, `--flag=value`, `-f value`, `-fvalue`, joined switches, options and
  /// operands in any order, unambiguous abbreviations, `--` before operands only.
  ///
  /// Throws `UsageError`.
  func parse(_ words: [String]) throws(UsageError) -> Invocation {
    var operands: [String] = []
    var values: [String: [String]] = [:]
    var position = 0
    func take(_ flag: Flag, _ joined: String?) throws(UsageError) {
      guard let valueName = flag.value else {
        if let joined { throw .valueNotTaken(flag: flag.name, found: joined) }
        values[flag.name] = ["true"]
        return
      }
      if let joined {
        values[flag.name, default: []].append(joined)
      } else {
        guard position + 1 < words.count else { throw .valueMissing(flag: flag.name, value: valueName) }
        position += 1
        values[flag.name, default: []].append(words[position])
      }
    }
    while position < words.count {
      let word = words[position]
      if word == "--" {
        operands += words[(position + 1)...]
        break
      } else if word.hasPrefix("--") {
        let parts = word.dropFirst(2).split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
        try take(try flag(named: String(parts[0])), parts.count > 1 ? String(parts[1]) : nil)
      } else if word.hasPrefix("-") && word.count > 1 {
        var letters = word.dropFirst()
        while let letter = letters.first {
          letters = letters.dropFirst()
          guard let flag = allFlags.first(where: { $0.letter == letter }) else {
            throw .unknownFlag(command: name, found: "-\(letter)", nearest: [])
          }
          if flag.value != nil && !letters.isEmpty {
            try take(flag, String(letters))
            letters = ""
          } else {
            try take(flag, nil)
          }
        }
      } else {
        operands.append(word)
      }
      position += 1
    }
    if values["help"] == nil && values["version"] == nil && !fits(operands.count) {
      throw .operandCount(
        command: name, expected: self.operands.map(\.spelling), found: operands.count)
    }
    return Invocation(operands: operands, values: values)
  }

  private func fits(_ count: Int) -> Bool {
    if operands.contains(where: \.repeats) { return count >= operands.count }
    return count == operands.count || (operands.last?.isOptional == true && count == operands.count - 1)
  }

  /// The command's own flags and the common ones.
  var allFlags: [Flag] { flags + CommandTable.commonFlags }

  private func flag(named name: String) throws(UsageError) -> Flag {
    if let flag = allFlags.first(where: { $0.name == name }) { return flag }
    let begun = allFlags.filter { $0.name.hasPrefix(name) }
    if begun.count == 1 && !name.isEmpty { return begun[0] }
    throw .unknownFlag(
      command: self.name, found: "--\(name)",
      nearest: begun.count > 1 && !name.isEmpty
        ? begun.map { "--\($0.name)" } : nearest(name, allFlags.map(\.name)).map { "--\($0)" })
  }
}
