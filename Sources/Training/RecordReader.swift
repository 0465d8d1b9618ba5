public import LanguageModels
internal import TensorFiles

/// What turns a record into tokens and labels.
///
/// A record holds `input_ids` with or without `labels`; or `text`; or `prompt` and `completion`, as texts or lists of messages, of which the
/// completion is learnt; or `messages`, or ShareGPT's `conversations`, whose assistant's turns are learnt; or Alpaca's `instruction`, `input` and
/// `output`, of which the output is learnt.
/// Source of labels: trl/trainer/sft_trainer.py `SFTTrainer._prepare_dataset`.
public struct RecordReader {
  /// Nil where a model has none: records are tokens then.
  let tokenizer: Tokenizer?
  let template: ChatTemplate?
  /// The end of a text, put after one that does not end with it; nil to put none.
  let end: String?
  /// Tokens of the model's vocabulary.
  let vocabulary: Int
  /// Most tokens of a record.
  public var maxLength: Int
  /// True to cut longer records, false to refuse them.
  public var truncates = false
  /// True to learn all of a record, not completions and the assistant's turns alone.
  public var learnsAll = false
  /// True to put records together that fit into the greatest length.
  public var packs = false

  public init(tokenizer: Tokenizer?, template: ChatTemplate?, end: String?, vocabulary: Int, maxLength: Int) {
    self.tokenizer = tokenizer
    self.template = template
    self.end = end
    self.vocabulary = vocabulary
    self.maxLength = maxLength
  }

  /// A text of any length as records of the greatest length, one after the other.
  func parts(_ text: String, _ place: TrainingFiles.Place) throws(TrainingError) -> [TrainingRecord] {
    guard let tokenizer else { throw place.error("the model has no tokenizer for a text") }
    let ids = try checked(encode(ended(text), tokenizer, place), nil, place).tokens
    var starts = Array(stride(from: 0, to: ids.count, by: maxLength))
    // A last token alone predicts nothing.
    if starts.count > 1, ids.count - (starts.last ?? 0) < 2 { starts.removeLast() }
    return starts.map { start in
      let part = Array(ids[start..<min(start + maxLength, ids.count)])
      return TrainingRecord(tokens: part, labels: part)
    }
  }

  func record(_ json: JSONValue, _ place: TrainingFiles.Place) throws(TrainingError) -> TrainingRecord {
    if let ids = json["input_ids"] { return try tokens(ids, json["labels"], place) }
    guard let tokenizer else { throw place.error("the model has no tokenizer, and the record no input_ids") }
    if let messages = json["messages"]?.elements { return try conversation(messages, json, tokenizer, place) }
    if let turns = (json["conversations"] ?? json["conversation"])?.elements {
      return try conversation(try ShareGPT.messages(turns, system: json["system"], place), json, tokenizer, place)
    }
    if let prompt = json["prompt"], let completion = json["completion"] {
      if let prompt = prompt.stringValue, let completion = completion.stringValue {
        return try learning(completion, after: prompt, tokenizer, place)
      }
      if let prompt = prompt.elements, let completion = completion.elements {
        return try completing(prompt, completion, json, tokenizer, place)
      }
      throw place.error("prompt and completion are not both texts or both lists of messages")
    }
    if let text = json["text"]?.stringValue { return try checked(encode(ended(text), tokenizer, place), nil, place) }
    if let alpaca = Alpaca(json) {
      if template != nil { return try conversation(alpaca.messages, json, tokenizer, place) }
      return try learning(alpaca.output, after: alpaca.prompt, tokenizer, place)
    }
    throw place.error(
      "it has none of input_ids, text, prompt with completion, messages, conversations, instruction with output")
  }

  private func tokens(
    _ ids: JSONValue, _ labels: JSONValue?, _ place: TrainingFiles.Place
  ) throws(TrainingError) -> TrainingRecord {
    guard let elements = ids.elements else { throw place.error("input_ids is no list") }
    let tokens = elements.compactMap(\.integerValue)
    let wanted = labels?.elements?.compactMap(\.integerValue) ?? tokens
    guard tokens.count == elements.count, wanted.count == tokens.count,
      labels?.elements.map({ $0.count == tokens.count }) ?? (labels == nil || labels == .null)
    else {
      throw place.error("input_ids and labels are not whole numbers, as many of one as of the other")
    }
    return try checked(tokens, wanted, place)
  }

  /// A completion is learnt from where the whole and the prompt alone diverge.
  private func learning(
    _ completion: String, after prompt: String, _ tokenizer: Tokenizer, _ place: TrainingFiles.Place
  ) throws(TrainingError) -> TrainingRecord {
    let ids = try encode(ended(prompt + completion), tokenizer, place)
    return try checked(ids, labels(ids, from: common(encode(prompt, tokenizer, place), ids)), place)
  }

  private func completing(
    _ prompt: [JSONValue], _ completion: [JSONValue], _ json: JSONValue, _ tokenizer: Tokenizer,
    _ place: TrainingFiles.Place
  ) throws(TrainingError) -> TrainingRecord {
    let all = try ids(prompt + completion, json, tokenizer, place, answers: false)
    let before = try ids(prompt, json, tokenizer, place, answers: true)
    return try checked(all, labels(all, from: common(before, all)), place)
  }

  /// Labels of the assistant's turns: what a turn adds to the text before it and the beginning of an answer.
  private func conversation(
    _ messages: [JSONValue], _ json: JSONValue, _ tokenizer: Tokenizer, _ place: TrainingFiles.Place
  ) throws(TrainingError) -> TrainingRecord {
    if !learnsAll, let template, template.marksAnswers(try conversation(of: messages, json, place)) {
      return try marked(messages, json, template, tokenizer, place)
    }
    let all = try ids(messages, json, tokenizer, place, answers: false)
    if learnsAll { return try checked(all, nil, place) }
    var labels = [Int](repeating: -100, count: all.count)
    for (index, message) in messages.enumerated() where message["role"]?.stringValue == "assistant" {
      let before = try ids(Array(messages.prefix(index)), json, tokenizer, place, answers: true)
      let after = try ids(Array(messages.prefix(index + 1)), json, tokenizer, place, answers: false)
      guard all.starts(with: before), all.starts(with: after) else {
        throw place.error(
          "the template's text of turn \(index + 1) does not begin that of the whole conversation, so that its tokens cannot be told; "
            + "give --all-turns, or the record as prompt and completion")
      }
      for place in before.count..<max(before.count, after.count) { labels[place] = all[place] }
    }
    return try checked(all, labels, place)
  }

  /// Labels of what the template marks: tokens from the one that holds a mark's first character to the one that holds its last.
  ///
  /// Source: transformers `apply_chat_template` with `return_assistant_tokens_mask`.
  private func marked(
    _ messages: [JSONValue], _ json: JSONValue, _ template: ChatTemplate, _ tokenizer: Tokenizer,
    _ place: TrainingFiles.Place
  ) throws(TrainingError) -> TrainingRecord {
    var conversation = try conversation(of: messages, json, place)
    conversation.beginsAnswer = false
    let (all, labels): ([Int], [Int])
    do throws(ModelError) {
      let (text, spans) = try template.renderMarked(conversation)
      let scalars = Array(text.unicodeScalars)
      let ids = try tokenizer.encode(text, addsSpecial: false)
      /// Tokens before a place, and whether one begins there.
      func tokens(before end: Int) throws(ModelError) -> (count: Int, ends: Bool) {
        guard end < scalars.count else { return (ids.count, true) }
        var before = String.UnicodeScalarView()
        before.append(contentsOf: scalars[..<end])
        let first = try tokenizer.encode(String(before), addsSpecial: false)
        let count = common(first, ids)
        return (count, count == first.count)
      }
      var marked = [Int](repeating: -100, count: ids.count)
      for span in spans where !span.isEmpty {
        let end = try tokens(before: span.upperBound)
        let start = try tokens(before: span.lowerBound).count
        let last = min(ids.count, end.count + (end.ends ? 0 : 1))
        for place in start..<max(start, last) { marked[place] = ids[place] }
      }
      (all, labels) = (ids, marked)
    } catch { throw place.error("\(error)") }
    guard labels.contains(where: { $0 != -100 }) else {
      throw place.error(
        "the template marks nothing of this conversation as generated; give --all-turns to learn all of it")
    }
    return try checked(all, labels, place)
  }

  private func ids(
    _ messages: [JSONValue], _ json: JSONValue, _ tokenizer: Tokenizer, _ place: TrainingFiles.Place, answers: Bool
  ) throws(TrainingError) -> [Int] {
    guard let template else { throw place.error("the model has no chat template for messages") }
    var conversation = try conversation(of: messages, json, place)
    conversation.beginsAnswer = answers
    do throws(ModelError) { return try tokenizer.encode(template.render(conversation), addsSpecial: false) } catch {
      throw place.error("\(error)")
    }
  }

  /// What a record's template is rendered with.
  private func conversation(
    of messages: [JSONValue], _ json: JSONValue, _ place: TrainingFiles.Place
  ) throws(TrainingError) -> ChatTemplate.Conversation {
    var conversation = ChatTemplate.Conversation(messages)
    conversation.arguments = json["chat_template_kwargs"]?.members ?? []
    if let tools = json["tools"], tools != .null {
      // Some data sets keep the list as a text.
      guard let list = tools.elements ?? tools.stringValue.flatMap({ JSONValue(parsing: $0)?.elements }) else {
        throw place.error("tools is no list")
      }
      conversation.tools = list.isEmpty ? nil : list
    }
    return conversation
  }

  private func encode(
    _ text: String, _ tokenizer: Tokenizer, _ place: TrainingFiles.Place
  ) throws(TrainingError) -> [Int] {
    do throws(ModelError) { return try tokenizer.encode(text) } catch { throw place.error("\(error)") }
  }

  private func labels(_ ids: [Int], from start: Int) -> [Int] {
    learnsAll ? ids : ids.enumerated().map { $0.offset < start ? -100 : $0.element }
  }

  private func checked(
    _ tokens: [Int], _ labels: [Int]?, _ place: TrainingFiles.Place
  ) throws(TrainingError) -> TrainingRecord {
    guard !tokens.isEmpty else { throw place.error("it has no tokens") }
    let labels = labels ?? tokens
    if let token = tokens.first(where: { $0 < 0 || $0 >= vocabulary })
      ?? labels.first(where: { ($0 < 0 && $0 != -100) || $0 >= vocabulary })
    {
      throw place.error("token \(token) is outside the model's vocabulary of \(vocabulary)")
    }
    return TrainingRecord(tokens: tokens, labels: labels)
  }

  private func ended(_ text: String) -> String {
    guard let end, !text.hasSuffix(end) else { return text }
    return text + end
  }

  /// How many tokens two sequences begin with together.
  private func common(_ first: [Int], _ second: [Int]) -> Int {
    zip(first, second).prefix { $0 == $1 }.count
  }
}
