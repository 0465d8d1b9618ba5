internal import TensorFiles

/// A record of Alpaca's form: what is asked, what it is asked of, and the answer.
struct Alpaca {
  private let instruction: String
  private let input: String
  private let system: String?
  let output: String

  init?(_ json: JSONValue) {
    guard let instruction = json["instruction"]?.stringValue, let output = json["output"]?.stringValue else {
      return nil
    }
    self.instruction = instruction
    self.output = output
    input = json["input"]?.stringValue ?? ""
    system = json["system"]?.stringValue
  }

  /// As a conversation, where the model has a template for such.
  var messages: [JSONValue] {
    let asked = input.isEmpty ? instruction : "\(instruction)\n\(input)"
    return (system.map { [ShareGPT.message("system", $0)] } ?? [])
      + [ShareGPT.message("user", asked), ShareGPT.message("assistant", output)]
  }

  /// As one text, in the words of Stanford's project.
  var prompt: String {
    let head =
      input.isEmpty
      ? "Below is an instruction that describes a task. Write a response that appropriately completes the request."
      : "Below is an instruction that describes a task, paired with an input that provides further context. "
        + "Write a response that appropriately completes the request."
    let middle = input.isEmpty ? "" : "### Input:\n\(input)\n\n"
    return "\(system ?? head)\n\n### Instruction:\n\(instruction)\n\n\(middle)### Response:\n"
  }
}

/// Conversations of ShareGPT's form.
enum ShareGPT {
  private static let roles = [
    "human": "user", "user": "user", "gpt": "assistant", "chatgpt": "assistant", "assistant": "assistant",
    "model": "assistant",
    "system": "system", "tool": "tool", "observation": "tool",
  ]

  static func message(_ role: String, _ content: String) -> JSONValue {
    .object([.init("role", .string(role)), .init("content", .string(content))])
  }

  /// As messages; turns that are messages already stay what they are.
  static func messages(
    _ turns: [JSONValue], system: JSONValue?, _ place: TrainingFiles.Place
  ) throws(TrainingError) -> [JSONValue] {
    var messages: [JSONValue] = system?.stringValue.map { [message("system", $0)] } ?? []
    for (index, turn) in turns.enumerated() {
      if turn["role"] != nil {
        messages.append(turn)
        continue
      }
      guard let from = turn["from"]?.stringValue, let role = roles[from], let value = turn["value"]?.stringValue else {
        throw place.error(
          "turn \(index + 1) has no value as a text, or its 'from' is none of \(roles.keys.sorted().joined(separator: ", "))"
        )
      }
      messages.append(message(role, value))
    }
    return messages
  }
}
