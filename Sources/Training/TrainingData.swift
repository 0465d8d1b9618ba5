public import LanguageModels
internal import PEFT
internal import TensorFiles

/// Records of a JSONL file as tokens and labels.
///
/// A line holds `input_ids` with or without `labels`; or `text`; or `prompt` and `completion`, of which the completion is learnt; or
/// `messages`, whose assistant's turns are learnt, or all of it.
/// Source of labels: trl/trainer/sft_trainer.py `SFTTrainer._prepare_dataset`.
public struct TrainingData {
  /// What the reader needs to know besides the lines.
  public struct Reader {
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
    /// True to learn all of a conversation, not the assistant's turns alone.
    public var learnsAllTurns = false

    public init(tokenizer: Tokenizer?, template: ChatTemplate?, end: String?, vocabulary: Int, maxLength: Int) {
      self.tokenizer = tokenizer
      self.template = template
      self.end = end
      self.vocabulary = vocabulary
      self.maxLength = maxLength
    }
  }

  public private(set) var records: [TrainingRecord] = []
  /// Records that were cut.
  public private(set) var truncatedCount = 0
  /// Tokens that were cut off.
  public private(set) var lostTokens = 0

  /// Reads a file of lines. Throws `.record` with file, line and reason.
  public init(path: String, _ reader: Reader) throws(TrainingError) {
    let text: String
    do throws(TensorFileError) { text = try FileSystem.text(path) } catch { throw .file(error) }
    for (index, line) in text.utf8.split(separator: UInt8(ascii: "\n"), omittingEmptySubsequences: false).enumerated() {
      guard !line.allSatisfy({ $0 == 0x20 || $0 == 0x0D || $0 == 0x09 }) else { continue }
      let place = Place(path: path, line: index + 1)
      guard let json = JSONValue(parsing: String(decoding: line, as: UTF8.self)), json.members != nil else {
        throw place.error("it is no JSON object")
      }
      let record = try reader.record(json, place)
      guard record.tokens.count > reader.maxLength else {
        records.append(try place.checked(record))
        continue
      }
      guard reader.truncates else {
        throw place.error(
          "it has \(record.tokens.count) tokens, over the \(reader.maxLength) of a record; give --max-length or --truncate"
        )
      }
      truncatedCount += 1
      lostTokens += record.tokens.count - reader.maxLength
      records.append(
        try place.checked(
          TrainingRecord(
            tokens: Array(record.tokens.prefix(reader.maxLength)), labels: Array(record.labels.prefix(reader.maxLength))
          )))
    }
    guard !records.isEmpty else { throw .record(path: path, line: 0, reason: "there is no record in it") }
  }

  /// Where a record stands.
  fileprivate struct Place {
    let path: String
    let line: Int

    func error(_ reason: String) -> TrainingError { .record(path: path, line: line, reason: reason) }

    /// A record of which something is learnt.
    func checked(_ record: TrainingRecord) throws(TrainingError) -> TrainingRecord {
      guard record.labels.dropFirst().contains(where: { $0 != -100 }) else {
        throw error("nothing in it is learnt: no label is left after its first token")
      }
      return record
    }
  }
}

extension TrainingData.Reader {
  fileprivate func record(_ json: JSONValue, _ place: TrainingData.Place) throws(TrainingError) -> TrainingRecord {
    if let ids = json["input_ids"] { return try tokens(ids, json["labels"], place) }
    guard let tokenizer else { throw place.error("the model has no tokenizer, and the record no input_ids") }
    if let text = json["text"]?.stringValue {
      let ids = try encode(ended(text), tokenizer)
      return try checked(ids, ids, place)
    }
    if let prompt = json["prompt"]?.stringValue, let completion = json["completion"]?.stringValue {
      let ids = try encode(ended(prompt + completion), tokenizer)
      return try learning(ids, from: common(encode(prompt, tokenizer), ids), place)
    }
    if let messages = json["messages"]?.elements { return try conversation(messages, tokenizer, place) }
    throw place.error("it has none of input_ids, text, prompt with completion, messages")
  }

  private func encode(_ text: String, _ tokenizer: Tokenizer) throws(TrainingError) -> [Int] {
    do throws(ModelError) { return try tokenizer.encode(text) } catch { throw .model(error) }
  }

  private func tokens(
    _ ids: JSONValue, _ labels: JSONValue?, _ place: TrainingData.Place
  ) throws(TrainingError) -> TrainingRecord {
    guard let elements = ids.elements else { throw place.error("input_ids is no list") }
    let tokens = elements.compactMap(\.integerValue)
    let wanted = labels?.elements?.compactMap(\.integerValue) ?? tokens
    guard tokens.count == elements.count, wanted.count == tokens.count else {
      throw place.error("input_ids and labels are not whole numbers, as many of one as of the other")
    }
    return try checked(tokens, wanted, place)
  }

  /// Labels of the assistant's turns: what a turn adds to the text before it and the beginning of an answer.
  private func conversation(
    _ messages: [JSONValue], _ tokenizer: Tokenizer, _ place: TrainingData.Place
  ) throws(TrainingError) -> TrainingRecord {
    guard let template else { throw place.error("the model has no chat template for messages") }
    func ids(_ count: Int, answers: Bool) throws(TrainingError) -> [Int] {
      do throws(ModelError) {
        var conversation = ChatTemplate.Conversation(Array(messages.prefix(count)))
        conversation.beginsAnswer = answers
        return try tokenizer.encode(template.render(conversation), addsSpecial: false)
      } catch { throw .model(error) }
    }
    let all = try ids(messages.count, answers: false)
    if learnsAllTurns { return try checked(all, all, place) }
    var labels = [Int](repeating: -100, count: all.count)
    for (index, message) in messages.enumerated() where message["role"]?.stringValue == "assistant" {
      let before = try ids(index, answers: true)
      let after = try ids(index + 1, answers: false)
      guard all.starts(with: before), all.starts(with: after) else {
        throw place.error("the template's text of turn \(index + 1) does not begin that of the whole conversation")
      }
      for place in before.count..<max(before.count, after.count) { labels[place] = all[place] }
    }
    return try checked(all, labels, place)
  }

  private func learning(
    _ ids: [Int], from start: Int, _ place: TrainingData.Place
  ) throws(TrainingError) -> TrainingRecord {
    try checked(ids, ids.enumerated().map { $0.offset < start ? -100 : $0.element }, place)
  }

  private func checked(
    _ tokens: [Int], _ labels: [Int], _ place: TrainingData.Place
  ) throws(TrainingError) -> TrainingRecord {
    guard !tokens.isEmpty else { throw place.error("it has no tokens") }
    if let token = (tokens + labels).first(where: { ($0 < 0 && $0 != -100) || $0 >= vocabulary })
      ?? tokens.first(where: { $0 < 0 })
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
