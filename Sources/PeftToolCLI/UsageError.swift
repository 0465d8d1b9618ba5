internal import PEFT

/// A command line that cannot be carried out as typed.
enum UsageError: Error, Equatable {
  case noCommand
  case unknownCommand(found: String, nearest: [String])
  case unknownFlag(command: String, found: String, nearest: [String])
  case valueMissing(flag: String, value: String)
  case valueNotTaken(flag: String, found: String)
  case badValue(flag: String, found: String, expected: String)
  case badWeight(adapter: String, found: String)
  case badOperand(command: String, operand: String, found: String, expected: String)
  case noSuchPath(path: String, operand: String)
  case noSuchModel(name: String, operand: String, reason: String)
  case badInput(expected: String)
  case conflict([Alternative])
  case oneNeeded(command: String, [Alternative], otherwise: String = "")
  case needsOther(flag: String, needed: String)
  case withoutMPI(count: Int)
  case needsOneProgram(command: String)
  case notForRanks(flag: String)
  case unknownOrder(found: String, nearest: [String])
  case orderNeeds(order: String, what: String)
  case conversationTooLong(tokens: Int, limit: Int)
  case operandCount(command: String, expected: [String], found: Int)

  /// One of several options of which a command takes one.
  struct Alternative: Equatable {
    let flag: String
    let summary: String
  }
}

extension UsageError: CustomStringConvertible {
  var description: String {
    switch self {
    case .noCommand: "no command given. 'peft-tool --help' lists them."
    case .unknownCommand(let found, let nearest):
      "unknown command '\(found)'." + suggestion(nearest) + " 'peft-tool --help' lists them."
    case .unknownFlag(let command, let found, let nearest):
      "\(command): unknown option '\(found)'." + suggestion(nearest) + " 'peft-tool \(command) --help' lists them."
    case .valueMissing(let flag, let value): "option '--\(flag)' needs a value: --\(flag) \(value)."
    case .valueNotTaken(let flag, let found): "option '--\(flag)' takes no value, but '\(found)' was given."
    case .badValue(let flag, let found, let expected): "option '--\(flag)': '\(found)' is not \(expected)."
    case .badWeight(let adapter, let found):
      "\(adapter): the weight '\(found)' is no finite number. Give one such as \(adapter):0.5."
    case .badOperand(let command, let operand, let found, let expected):
      "\(command): \(operand): '\(found)' is not \(expected)."
    case .noSuchPath(let path, let operand): "\(path): no such file or directory (\(operand))."
    case .noSuchModel(let name, let operand, let reason):
      "\(name): no such file or directory (\(operand)). As a repository: \(reason)"
    case .badInput(let expected): "standard input: expected \(expected)."
    case .conflict(let alternatives):
      "\(alternatives.map { "--\($0.flag)" }.joined(separator: " and ")) cannot be given together. Give one: "
        + choice(alternatives) + "."
    case .oneNeeded(let command, let alternatives, let otherwise):
      "\(command): give one of: \(choice(alternatives)).\(otherwise.isEmpty ? "" : " ")\(otherwise)"
    case .needsOther(let flag, let needed): "--\(flag) means nothing without --\(needed). Give both, or neither."
    case .withoutMPI(let count):
      "mpirun started \(count) of this program, which was built without MPI. Build it with 'swift build --traits MPI', or run "
        + "one without mpirun."
    case .needsOneProgram(let command):
      "\(command) is run by one program; of several that mpirun starts only merge and train share the work. Leave out mpirun."
    case .notForRanks(let flag):
      "--\(flag) is for programs that are started one by one; under mpirun each rank does its part. Leave it out."
    case .unknownOrder(let found, let nearest):
      "unknown command '\(found)'." + suggestion(nearest)
        + " /help lists them; a message that begins with / takes a second one."
    case .orderNeeds(let order, let what): "\(order) needs \(what)."
    case .conversationTooLong(let tokens, let limit):
      "the conversation has \(tokens) tokens, and the model's context is \(limit). /reset begins a new one."
    case .operandCount(let command, let expected, let found):
      "\(command): expected \(expected.contains { $0.hasSuffix("...") } ? "at least " : "")\(expected.count) operand\(expected.count == 1 ? "" : "s") "
        + "(\(expected.joined(separator: " "))), found \(found)."
    }
  }

  private func choice(_ alternatives: [Alternative]) -> String {
    alternatives.map { "--\($0.flag) (\($0.summary))" }.joined(separator: ", or ")
  }

  private func suggestion(_ nearest: [String]) -> String {
    nearest.isEmpty ? "" : " Did you mean \(nearest.map { "'\($0)'" }.joined(separator: " or "))?"
  }
}

/// Names close to what was typed.
func nearest(_ name: String, _ names: [String]) -> [String] { nearestNames(to: name, in: names) }
