internal import LanguageModels
internal import PEFT
internal import TensorFiles

/// What a model goes on from: a text, or with `--chat` messages and what belongs to them.
struct Prompt {
  let messages: [JSONValue]
  /// The text, where it is one.
  let text: String
  /// Variables of the chat template, `tools` and `documents` among them.
  let arguments: [JSONValue.Member]

  init(_ text: String) {
    (self.text, arguments) = (text, [])
    messages = [ChatTemplate.message(role: "user", text)]
  }

  /// A conversation so far.
  init(messages: [JSONValue]) { (self.messages, text, arguments) = (messages, "", []) }

  /// One prompt a line. Throws `ModelError.configValue` with the line that is none, or that has a key which nothing takes.
  static func all(in path: String, for chat: ChatRequest?) throws -> [Prompt] {
    let text: String
    do { text = try FileSystem.text(path) } catch { throw AdapterError.file(error) }
    var prompts: [Prompt] = []
    for (number, line) in text.split(separator: "\n", omittingEmptySubsequences: false).enumerated()
    where !line.allSatisfy(\.isWhitespace) {
      func failure(_ expected: String, _ found: String) -> ModelError {
        .configValue(path: path, key: "line \(number + 1)", expected: expected, found: printable(found, limit: 60))
      }
      let kinds = "a string, or an object with \"prompt\"" + (chat == nil ? "" : " or \"messages\"")
      guard let json = JSONValue(parsing: String(line)), let prompt = Prompt(json, isChat: chat != nil) else {
        throw failure(
          kinds + (chat == nil && line.contains("\"messages\"") ? " (\"messages\" need --chat)" : ""), String(line))
      }
      for argument in prompt.arguments {
        guard let chat else { throw failure("no other key than \"prompt\" without --chat", argument.key) }
        guard chat.takes(argument) else {
          throw failure(
            "\"prompt\" or \"messages\", \"tools\" and \"documents\" as lists of objects, and variables of the chat template",
            "\(argument.key): \(argument.value.compactText)")
        }
      }
      prompts.append(prompt)
    }
    return prompts
  }

  /// nil for what is no prompt.
  private init?(_ json: JSONValue, isChat: Bool) {
    let given = json["prompt"] ?? json["messages"] ?? json
    if let text = given.stringValue {
      (self.text, messages) = (text, [ChatTemplate.message(role: "user", text)])
    } else if isChat, let elements = given.elements, elements.allSatisfy({ $0.members != nil }) {
      (text, messages) = ("", elements)
    } else {
      return nil
    }
    let key = json["prompt"] == nil ? "messages" : "prompt"
    arguments = (json.members ?? []).filter { $0.key != key }
  }
}

/// How prompts are put into the model's chat template.
struct ChatRequest {
  private let template: ChatTemplate
  /// What is said before the messages.
  var system: String?
  private let arguments: [JSONValue.Member]
  private let continuesFinalMessage: Bool

  /// Throws `UsageError.badValue` for an argument that the template does not take.
  init(_ invocation: Invocation, directory: String) throws {
    template = try ChatTemplate(directory: directory)
    system = invocation.value("system")
    continuesFinalMessage = invocation.has("continue-final-message")
    var arguments: [JSONValue.Member] = []
    for word in invocation.all("chat-argument") {
      let parts = word.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false).map { String($0) }
      guard parts.count == 2 else {
        throw UsageError.badValue(flag: "chat-argument", found: word, expected: "NAME=VALUE")
      }
      let argument = JSONValue.Member(parts[0], JSONValue(parsing: parts[1]) ?? .string(parts[1]))
      guard Self.takes(argument, template) else {
        throw UsageError.badValue(
          flag: "chat-argument", found: word,
          expected: "a variable of this model's chat template, or a list of tools or documents")
      }
      arguments.append(argument)
    }
    self.arguments = arguments
  }

  /// True for lists of tools and documents, and for variables that the template speaks of.
  func takes(_ argument: JSONValue.Member) -> Bool { Self.takes(argument, template) }

  private static func takes(_ argument: JSONValue.Member, _ template: ChatTemplate) -> Bool {
    guard argument.key == "tools" || argument.key == "documents" else { return template.takes(argument: argument.key) }
    return argument.value == .null || argument.value.elements?.allSatisfy { $0.members != nil } == true
  }

  /// The text of a prompt in the template's words.
  func render(_ prompt: Prompt) throws -> String {
    var conversation = ChatTemplate.Conversation(prompt.messages)
    if let system { conversation.messages.insert(ChatTemplate.message(role: "system", system), at: 0) }
    conversation.continuesFinalMessage = continuesFinalMessage
    for argument in arguments + prompt.arguments {
      switch argument.key {
      case "tools": conversation.tools = argument.value.elements
      case "documents": conversation.documents = argument.value.elements
      default: conversation.arguments.append(argument)
      }
    }
    return try template.render(conversation)
  }
}
