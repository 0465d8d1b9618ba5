public import TensorFiles

/// The chat template of a model: messages become the text that the model was trained on.
public struct ChatTemplate {
  private let path: String
  private let template: JinjaTemplate
  private let settings: JSONValue

  /// Reads chat_template.jinja, or `chat_template` of tokenizer_config.json.
  ///
  /// Throws `.templateNotUnderstood` if there is none, or if it uses what is not known here.
  public init(directory: String) throws(ModelError) {
    let (file, config) = try asModelError { () throws(TensorFileError) in
      (
        try ModelFiles.path("chat_template.jinja", in: directory),
        try ModelFiles.path("tokenizer_config.json", in: directory)
      )
    }
    settings = config.flatMap { try? JSONValue(contentsOf: $0) } ?? .null
    path = file ?? FileSystem.join(directory, "tokenizer_config.json")
    var source = file.flatMap { try? FileSystem.text($0) }
    if source == nil { source = settings["chat_template"]?.stringValue }
    if source == nil, let named = settings["chat_template"]?.elements {
      source = named.first { $0["name"]?.stringValue == "default" }?["template"]?.stringValue
    }
    guard let source else {
      throw .templateNotUnderstood(path: path, reason: "there is none. Use --prompt without --chat.")
    }
    do throws(JinjaFailure) { template = try JinjaTemplate(source) } catch {
      throw .templateNotUnderstood(path: path, reason: error.reason)
    }
  }

  /// A message as templates take it.
  public static func message(role: String, _ content: String) -> JSONValue {
    .object([.init("role", .string(role)), .init("content", .string(content))])
  }

  /// The text of messages, with the beginning of the assistant's answer. Throws `.templateNotUnderstood`.
  public func render(_ messages: [JSONValue]) throws(ModelError) -> String {
    var variables: [JSONValue.Member] = [
      .init("messages", .array(messages)), .init("add_generation_prompt", .bool(true)),
    ]
    for key in ["bos_token", "eos_token", "unk_token", "pad_token"] {
      let text = settings[key]?.stringValue ?? settings[key]?["content"]?.stringValue
      if let text { variables.append(.init(key, .string(text))) }
    }
    do throws(JinjaFailure) { return try template.render(variables) } catch {
      throw .templateNotUnderstood(path: path, reason: error.reason)
    }
  }
}
