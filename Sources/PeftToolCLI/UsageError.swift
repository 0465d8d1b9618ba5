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
  case operandCount(command: String, expected: [String], found: Int)
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
    case .operandCount(let command, let expected, let found):
      "\(command): expected \(expected.contains { $0.hasSuffix("...") } ? "at least " : "")\(expected.count) operand\(expected.count == 1 ? "" : "s") "
        + "(\(expected.joined(separator: " "))), found \(found)."
    }
  }

  private func suggestion(_ nearest: [String]) -> String {
    nearest.isEmpty ? "" : " Did you mean \(nearest.map { "'\($0)'" }.joined(separator: " or "))?"
  }
}

/// Names close to what was typed.
func nearest(_ name: String, _ names: [String]) -> [String] { nearestNames(to: name, in: names) }
