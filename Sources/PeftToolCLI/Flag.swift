internal import PEFT
internal import TensorFiles

/// What a word may be: shells complete it, and another word is refused before the command begins.
enum Word: Sendable, Equatable {
  case text, size, file, directory, part
  case integer(ClosedRange<Int>?)
  case number(ClosedRange<Double>?)
  case choice([String])

  /// The value names of the table say what they stand for: N is a whole number, X and P are numbers, SIZE is bytes.
  init(named name: String?) {
    switch name {
    case "N": self = .integer(nil)
    case "X", "P": self = .number(nil)
    case "SIZE": self = .size
    case "FILE", "PATH": self = .file
    case "DIR", "OUT": self = .directory
    default: self = .text
    }
  }

  /// What was expected, if the word is not that.
  func refusal(of word: String) -> String? {
    switch self {
    case .text, .file, .directory: nil
    case .integer(let range):
      Int(word).map { range?.contains($0) ?? true } == true
        ? nil
        : "a whole number"
          + (range.map { Self.bounds("\($0.lowerBound)", $0.upperBound >= 1 << 30 ? nil : "\($0.upperBound)") } ?? "")
    case .number(let range):
      Double(word).map { $0.isFinite && range?.contains($0) ?? true } == true
        ? nil : "a number" + (range.map { Self.bounds(numberText($0.lowerBound), numberText($0.upperBound)) } ?? "")
    case .size: parseBytes(word) == nil ? "a size such as 5GB" : nil
    case .part:
      MergePart(word) == nil
        ? "a part such as 3/8, counted from 1/8 to 8/8, of at most \(MergePart.greatestCount)" : nil
    case .choice(let words):
      words.contains(word) ? nil : "one of \(words.joined(separator: ", "))"
    }
  }
}

extension Word {
  private static func bounds(_ lower: String, _ upper: String?) -> String {
    " from \(lower)" + (upper.map { " to \($0)" } ?? "")
  }
}

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
  /// True if the value may be a repository's name in the place of a path; if it repeats, with a weight.
  let isModel: Bool
  let takes: Word
  /// Another option that may not be given with it.
  let excludes: String?
  /// Another option that it means nothing without.
  let needs: String?
  /// The remedy of an error that giving it is, or, for `--offline`, that leaving it out is.
  let remedy: Remedy.Kind?

  init(
    _ name: String, letter: Character? = nil, value: String? = nil, _ summary: String, detail: String = "",
    default defaultText: String? = nil, repeats: Bool = false, isModel: Bool = false,
    takes: Word? = nil, excludes: String? = nil, needs: String? = nil, remedy: Remedy.Kind? = nil
  ) {
    self.name = name
    self.letter = letter
    self.value = value
    self.summary = summary
    self.detail = detail
    self.defaultText = defaultText
    self.repeats = repeats
    self.isModel = isModel
    self.takes = takes ?? (isModel ? .file : Word(named: value))
    self.excludes = excludes
    self.needs = needs
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
  /// True if an adapter's weight may stand after it.
  var isWeighted = false
  /// True if `-` stands for standard input.
  var mayBeInput = false
  /// The words that it may be; nil for a path.
  var choice: [String]?

  var takes: Word { choice.map { .choice($0) } ?? (Word(named: name) == .directory ? .directory : .file) }

  /// The name in help: "ADAPTER..." if it repeats.
  var spelling: String { repeats ? "\(name)..." : isOptional ? "[\(name)]" : name }
}

/// A command of the tool.
struct Command: Sendable {
  let name: String
  /// One line.
  let summary: String
  let operands: [Operand]
  private let makeFlags: @Sendable () -> [Flag]
  /// Paragraphs for the man page and the command's help.
  let detail: String
  let run: @Sendable (Invocation, Console) async throws -> Int32
  /// Options of which one must be given, and what there is for who wants neither.
  let needsOne: [String]
  let otherwise: String
  /// True if several ranks share the work.
  let isShared: Bool

  /// - Parameter flags: made when they are asked for, so that no command begins with those of all others.
  init(
    name: String, summary: String, operands: [Operand], flags: @autoclosure @escaping @Sendable () -> [Flag],
    detail: String, run: @escaping @Sendable (Invocation, Console) async throws -> Int32, needsOne: [String] = [],
    otherwise: String = "", isShared: Bool = false
  ) {
    self.name = name
    self.summary = summary
    self.operands = operands
    makeFlags = flags
    self.detail = detail
    self.run = run
    self.needsOne = needsOne
    self.otherwise = otherwise
    self.isShared = isShared
  }

  /// Its own options.
  var flags: [Flag] { makeFlags() }
}

/// What was typed, checked against the table.
struct Invocation: Sendable {
  var operands: [String]
  var values: [String: [String]] = [:]

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
  /// Reads words by GNU's conventions: `--flag value`, `--flag=value`, `-f value`, `-fvalue`, joined switches, options and
  /// operands in any order, unambiguous abbreviations, `--` before operands only.
  ///
  /// Throws `UsageError`.
  func parse(_ words: [String]) throws(UsageError) -> Invocation {
    var operands: [String] = []
    var values: [String: [String]] = [:]
    var position = 0
    let allFlags = allFlags
    func take(_ flag: Flag, _ joined: String?) throws(UsageError) {
      guard let valueName = flag.value else {
        if let joined { throw .valueNotTaken(flag: flag.name, found: joined) }
        values[flag.name] = ["true"]
        return
      }
      if joined == nil {
        guard position + 1 < words.count else { throw .valueMissing(flag: flag.name, value: valueName) }
        position += 1
      }
      let value = joined ?? words[position]
      if let expected = flag.takes.refusal(of: value) {
        throw .badValue(flag: flag.name, found: value, expected: expected)
      }
      values[flag.name, default: []].append(value)
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
            let other = allFlags.compactMap(\.letter).filter { $0.lowercased() == letter.lowercased() }
            throw .unknownFlag(command: name, found: "-\(letter)", nearest: other.map { "-\($0)" })
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
    if values["help"] == nil && values["version"] == nil { try check(operands, values) }
    return Invocation(operands: operands, values: values)
  }

  /// What can be seen from the words alone.
  private func check(_ words: [String], _ values: [String: [String]]) throws(UsageError) {
    guard fits(words.count) else {
      throw .operandCount(command: name, expected: operands.map(\.spelling), found: words.count)
    }
    for (index, word) in words.enumerated() {
      let operand = operand(at: index, of: words.count)
      if let expected = operand.takes.refusal(of: word) {
        throw .badOperand(command: name, operand: operand.name, found: word, expected: expected)
      }
    }
    let flags = flags
    for flag in flags where values[flag.name] != nil {
      if let other = flags.first(where: { $0.name == flag.excludes }), values[other.name] != nil {
        throw .conflict([flag, other].map { .init(flag: $0.name, summary: $0.summary) })
      }
      if let needed = flag.needs, values[needed] == nil { throw .needsOther(flag: flag.name, needed: needed) }
    }
    if !needsOne.isEmpty, needsOne.allSatisfy({ values[$0] == nil }) {
      let choice = flags.filter { needsOne.contains($0.name) }.map {
        UsageError.Alternative(flag: $0.name, summary: $0.summary)
      }
      throw .oneNeeded(command: name, choice, otherwise: otherwise)
    }
  }

  private func fits(_ count: Int) -> Bool {
    if operands.contains(where: \.repeats) { return count >= operands.count }
    return count == operands.count || (operands.last?.isOptional == true && count == operands.count - 1)
  }

  /// The command's own flags and the common ones.
  var allFlags: [Flag] { flags + CommandTable.commonFlags }

  private func flag(named name: String) throws(UsageError) -> Flag {
    let allFlags = allFlags
    if let flag = allFlags.first(where: { $0.name == name }) { return flag }
    let begun = allFlags.filter { $0.name.hasPrefix(name) }
    if begun.count == 1 && !name.isEmpty { return begun[0] }
    throw .unknownFlag(
      command: self.name, found: "--\(name)",
      nearest: begun.count > 1 && !name.isEmpty
        ? begun.map { "--\($0.name)" } : nearest(name, allFlags.map(\.name)).map { "--\($0)" })
  }
}
