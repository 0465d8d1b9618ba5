public import TensorFiles

/// The chat template of a model: messages become the text that the model was trained on.
///
/// Source: transformers `tokenization_utils_base.py`, `apply_chat_template`, and `utils/chat_template_utils.py`.
public struct ChatTemplate {
  private struct Source {
    let path: String
    let text: String
    let template: JinjaTemplate

    init(_ path: String, _ text: String) throws(ModelError) {
      (self.path, self.text) = (path, text)
      do throws(JinjaFailure) { template = try JinjaTemplate(text) } catch {
        throw .templateNotUnderstood(path: path, reason: error.reason)
      }
    }
  }

  private let plain: Source
  /// The template for conversations with tools, where a model has one of its own.
  private let forTools: Source?
  private let settings: JSONValue

  /// What a template is rendered with.
  public struct Conversation: Sendable {
    public var messages: [JSONValue]
    /// Descriptions of functions that the model may call, as JSON schemas.
    public var tools: [JSONValue]?
    /// Texts to answer from.
    public var documents: [JSONValue]?
    /// Further variables of the template, such as `enable_thinking`. They win over the names of special tokens.
    public var arguments: [JSONValue.Member] = []
    /// True if the text ends within the last message, which the model goes on with, in the place of a new answer.
    public var continuesFinalMessage = false

    /// True to end with the beginning of an answer, where the last message is not gone on with.
    public var beginsAnswer = true

    public init(_ messages: [JSONValue]) { self.messages = messages }
  }

  /// Reads chat_template.jinja, or `chat_template` of tokenizer_config.json.
  ///
  /// Of several named ones `default` is taken, and `tool_use` where there are tools.
  /// Throws `.templateNotUnderstood` if there is none, or if it uses what is not known here.
  public init(directory: String) throws(ModelError) {
    func path(_ name: String) throws(ModelError) -> String? {
      try asModelError { () throws(TensorFileError) in try ModelFiles.path(name, in: directory) }
    }
    let (file, toolFile) = (try path("chat_template.jinja"), try path("additional_chat_templates/tool_use.jinja"))
    let config = try path("tokenizer_config.json")
    let configPath = config ?? FileSystem.join(directory, "tokenizer_config.json")
    settings = try asModelError { () throws(TensorFileError) in
      if let config { try JSONValue(contentsOf: config, readsLongIntegers: true) } else { .null }
    }
    let named = settings["chat_template"]?.elements ?? []
    func text(_ path: String?, _ name: String) throws(ModelError) -> (path: String, text: String)? {
      if let path {
        return try asModelError { () throws(TensorFileError) in
          (path, try FileSystem.text(path, limit: JinjaTemplate.sourceLimit))
        }
      }
      let found = named.first { $0["name"]?.stringValue == name }?["template"]?.stringValue
      return found.map { (configPath, $0) }
    }
    let only = settings["chat_template"]?.stringValue.map { (path: configPath, text: $0) }
    guard let found = try text(file, "default") ?? only else {
      throw .templateNotUnderstood(path: file ?? configPath, reason: "there is none. Give the prompt as text.")
    }
    plain = try Source(found.path, found.text)
    let tools = try text(toolFile, "tool_use")
    forTools = if let tools { try Source(tools.path, tools.text) } else { nil }
  }

  /// True if the template speaks of a variable of that name.
  public func takes(argument name: String) -> Bool {
    !["messages", "add_generation_prompt"].contains(name)
      && (plain.template.names.contains(name) || forTools?.template.names.contains(name) == true)
  }

  /// A message as templates take it.
  public static func message(role: String, _ content: String) -> JSONValue {
    .object([.init("role", .string(role)), .init("content", .string(content))])
  }

  /// The text of messages, with the beginning of the assistant's answer. Throws `.templateNotUnderstood`.
  public func render(_ messages: [JSONValue]) throws(ModelError) -> String { try render(Conversation(messages)) }

  /// The text of a conversation. Throws `.templateNotUnderstood`, also where no last message can be gone on with.
  public func render(_ conversation: Conversation) throws(ModelError) -> String { try render(conversation, at: nil) }

  /// Whether the template marks what a model is to learn of a conversation, with `{% generation %}`.
  package func marksAnswers(_ conversation: Conversation) -> Bool { source(conversation).template.marksGeneration }

  private func source(_ conversation: Conversation) -> Source {
    conversation.tools == nil ? plain : forTools ?? plain
  }

  /// - Parameter seconds: the time that the template is told, in seconds since 1970; nil for the present.
  package func render(_ conversation: Conversation, at seconds: Int?) throws(ModelError) -> String {
    try renderMarked(conversation, at: seconds).text
  }

  /// The text of a conversation, and where in it what the template marks lies, in Unicode scalars.
  ///
  /// Throws as `render`.
  package func renderMarked(
    _ conversation: Conversation, at seconds: Int? = nil
  ) throws(ModelError) -> (text: String, generated: [Range<Int>]) {
    let source = source(conversation)
    do throws(JinjaFailure) {
      var messages: [JSONValue] = []
      for message in conversation.messages { messages.append(try Self.prepared(message)) }
      guard !messages.isEmpty else { throw JinjaFailure("there are no messages") }
      let continued = conversation.continuesFinalMessage ? try ContinuedMessage(&messages, source.text) : nil
      var variables: [JSONValue.Member] = []
      for key in ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"] {
        let text = settings[key]?.stringValue ?? settings[key]?["content"]?.stringValue
        if let text { variables.append(.init(key, .string(text))) }
      }
      variables += conversation.arguments
      variables += [
        .init("messages", .array(messages)), .init("tools", conversation.tools.map { .array($0) } ?? .null),
        .init("documents", conversation.documents.map { .array($0) } ?? .null),
        .init("add_generation_prompt", .bool(continued == nil && conversation.beginsAnswer)),
      ]
      let rendered = try source.template.renderMarked(variables, at: seconds)
      return (try continued?.cut(rendered.text) ?? rendered.text, rendered.generated)
    } catch {
      throw .templateNotUnderstood(path: source.path, reason: error.reason)
    }
  }

  /// A message without what is null, its reasoning under each name that templates know it by.
  private static func prepared(_ message: JSONValue) throws(JinjaFailure) -> JSONValue {
    guard let members = message.members else { throw JinjaFailure("a message that is no object") }
    var kept = members.filter { $0.value != .null }
    let reasoning = ["reasoning_content", "thinking", "reasoning"].lazy.compactMap { name in
      kept.first { $0.key == name }?.value
    }.first
    guard let reasoning else { return .object(kept) }
    if !kept.contains(where: { $0.key == "thinking" }) { kept.insert(.init("thinking", reasoning), at: 0) }
    if let place = kept.firstIndex(where: { $0.key == "reasoning_content" }) {
      kept[place].value = reasoning
    } else {
      kept.append(.init("reasoning_content", reasoning))
    }
    return .object(kept)
  }
}

/// The last message, marked so that its end is found in the rendered text.
private struct ContinuedMessage {
  private static let mark = "CONTINUE_FINAL_MESSAGE_TAG "
  private let text: [Unicode.Scalar]

  init(_ messages: inout [JSONValue], _ source: String) throws(JinjaFailure) {
    let last = messages.count - 1
    guard let content = messages[last]["content"] else {
      throw JinjaFailure("the last message has no content to go on with")
    }
    guard source.contains("content") else { throw JinjaFailure("the template does not use 'content'") }
    if let string = content.stringValue {
      text = [Unicode.Scalar](string)
      messages[last]["content"] = .string(string + Self.mark)
    } else if var parts = content.elements,
      let place = parts.lastIndex(where: { $0["text"] != nil }), let string = parts[place]["text"]?.stringValue
    {
      text = [Unicode.Scalar](string)
      parts[place]["text"] = .string(string + Self.mark)
      messages[last]["content"] = .array(parts)
    } else {
      throw JinjaFailure("the last message has no text to go on with")
    }
  }

  /// The rendered text up to the end of the message.
  func cut(_ rendered: String) throws(JinjaFailure) -> String {
    let scalars = [Unicode.Scalar](rendered)
    let mark = [Unicode.Scalar](Self.mark)
    let machine = JinjaMachine(seconds: nil)
    let word = JinjaMachine.stripped(mark, nil)
    guard try machine.find(JinjaMachine.stripped(text, nil), in: scalars, from: 0) != nil,
      let place = try machine.findLast(word, in: scalars, from: 0, to: scalars.count)
    else { throw JinjaFailure("the last message is not in the text that the template makes of it") }
    let kept = Array(scalars[..<place])
    return String(scalars[place...].starts(with: mark) ? kept : JinjaMachine.stripped(kept, nil, left: false))
  }
}
