import LanguageModels
import TensorFiles
import TestSupport
import Testing

@testable import Training

/// Records of all forms as tokens and labels.
@Suite struct DataTests {
  private func reader(
    maxLength: Int = 512, _ change: (inout RecordReader) -> Void = { _ in }
  ) throws -> RecordReader {
    let chat = Fixtures.path("running/chat")
    let settings = try JSONValue(contentsOf: "\(chat)/tokenizer_config.json")
    let end = settings["eos_token"]?.stringValue ?? settings["eos_token"]?["content"]?.stringValue
    let model = try CausalLanguageModel(directory: chat)
    var reader = RecordReader(
      tokenizer: try Tokenizer(directory: chat), template: try ChatTemplate(directory: chat), end: end,
      vocabulary: model.vocabularySize, maxLength: maxLength)
    change(&reader)
    return reader
  }

  private func read(_ lines: [String], name: String = "data.jsonl", _ reader: RecordReader) throws -> TrainingData {
    let scratch = try ScratchDirectory()
    try OpenFile.create(scratch(name)).write(lines.joined(separator: "\n"))
    return try TrainingData(path: scratch(name), reader)
  }

  private func failure(_ lines: [String], name: String = "data.jsonl", _ reader: RecordReader) -> String {
    do {
      _ = try read(lines, name: name, reader)
      return "nothing failed"
    } catch { return "\(error)" }
  }

  @Test func theMarksOfATemplateSayWhatIsLearntAsInTransformers() throws {
    let cases = try #require(JSONValue(contentsOf: Fixtures.path("training/generation.json")).elements)
    for example in cases {
      let scratch = try ScratchDirectory()
      try OpenFile.create(scratch("tokenizer_config.json")).write("{}")
      try OpenFile.create(scratch("chat_template.jinja")).write(example["template"]?.stringValue ?? "")
      let template = try ChatTemplate(directory: scratch.path)
      let plain = try reader()
      let reader = RecordReader(
        tokenizer: plain.tokenizer, template: template, end: nil, vocabulary: plain.vocabulary, maxLength: 512)
      let name = "\(example["name"]?.stringValue ?? "") \(example["messages"]?.compactText ?? "")"
      let line = JSONValue.object([.init("messages", example["messages"] ?? .null)]).compactText
      let mask = (example["mask"]?.elements ?? []).map { $0 == .integer(1) }
      guard mask.contains(true) else {
        #expect(failure([line], reader).contains("marks nothing"), "\(name)")
        continue
      }
      let record = try read([line], reader).records[0]
      #expect(record.tokens == example["input_ids"]?.elements?.compactMap(\.integerValue), "\(name)")
      #expect(record.labels.map { $0 != -100 } == mask, "\(name)")
      var all = reader
      all.learnsAll = true
      #expect(try read([line], all).records[0].labels == record.tokens)
    }
  }

  @Test func recordsHaveTheTokensAndLabelsOfTransformersAndTRL() throws {
    let cases = try #require(JSONValue(contentsOf: Fixtures.path("training/records.json")).elements)
    let reader = try reader()
    for example in cases {
      let record = try read([example["record"]?.compactText ?? ""], reader).records[0]
      #expect(
        record.tokens == example["tokens"]?.elements?.compactMap(\.integerValue),
        "\(example["record"]?.compactText ?? "")")
      #expect(
        record.labels == example["labels"]?.elements?.compactMap(\.integerValue),
        "\(example["record"]?.compactText ?? "")")
    }
    let lines = cases.compactMap { $0["record"]?.compactText }
    let all = try read(["[" + lines.joined(separator: ",") + "]"], name: "data.json", reader)
    #expect(try all.records == read(lines, reader).records)
  }

  @Test func allOfARecordIsLearntIfAskedFor() throws {
    let reader = try reader { $0.learnsAll = true }
    for line in [
      #"{"prompt": "Hello", "completion": " world"}"#, #"{"messages": [{"role": "user", "content": "Hello"}]}"#,
    ] {
      let record = try read([line], reader).records[0]
      #expect(record.labels == record.tokens)
    }
  }

  @Test func aRecordThatCannotBeUsedIsNamedWithFileAndLine() throws {
    let reader = try reader(maxLength: 6)
    let good = #"{"input_ids": [3, 4]}"#
    for (line, words) in [
      ("{", "it is no JSON object"), ("[1]", "it is no JSON object"), (#"{"other": 1}"#, "it has none of"),
      (#"{"input_ids": [3, 4], "labels": [-100, -100]}"#, "nothing in it is learnt"),
      (#"{"input_ids": [3, 4], "labels": [3, -100]}"#, "nothing in it is learnt"),
      (#"{"input_ids": [3, 4], "labels": [3]}"#, "as many of one as of the other"),
      (#"{"input_ids": [3, 4.5]}"#, "whole numbers"), (#"{"input_ids": []}"#, "no tokens"),
      (#"{"input_ids": [3, 100000]}"#, "outside the model's vocabulary"), (#"{"input_ids": [3, -1]}"#, "outside"),
      (#"{"input_ids": [1, 2, 3, 4, 5, 6, 7]}"#, "it has 7 tokens, over the 6 of a record"),
      (#"{"prompt": "a", "completion": []}"#, "not both texts"),
      (#"{"conversations": [{"from": "nobody", "value": "x"}]}"#, "'from' is none of"),
      (#"{"messages": [{"role": "user", "content": "x"}], "tools": 3}"#, "tools is no list"),
    ] {
      let text = failure([good, "", line, good], reader)
      #expect(text.contains("data.jsonl: line 3: ") && text.contains(words), "\(text)")
    }
    #expect(
      failure(["[{\"input_ids\": [3, 4]}, {\"text\": 1}]"], name: "data.json", reader).contains(
        "record 2: it has none of"))
    #expect(failure([""], reader).contains("there is no record in it"))
  }

  @Test func whatIsCutIsCountedAndARecordLeftWithoutLabelsRefused() throws {
    let reader = try reader(maxLength: 3) { $0.truncates = true }
    let data = try read([#"{"input_ids": [3, 4, 5, 6, 7]}"#, #"{"input_ids": [3, 4, 5]}"#], reader)
    #expect(data.truncatedCount == 1 && data.lostTokens == 2)
    #expect(data.records.map(\.tokens) == [[3, 4, 5], [3, 4, 5]])
    let text = failure([#"{"input_ids": [3, 4, 5, 6], "labels": [-100, -100, -100, 6]}"#], reader)
    #expect(text.contains("line 1: nothing in it is learnt: it has 4 tokens, and no label is among the 3"))
  }

  @Test func aTextIsCutIntoRecordsAndNothingOfItIsLost() throws {
    let reader = try reader(maxLength: 10)
    let text = String(repeating: "The quick brown fox jumps over the lazy dog.\n", count: 20)
    let data = try read([text], name: "story.txt", reader)
    let whole = try reader.tokenizer?.encode(text + "\n".prefix(0) + (reader.end ?? "")) ?? []
    #expect(data.records.allSatisfy { $0.tokens.count <= 10 && $0.labels == $0.tokens })
    #expect(
      whole.starts(with: data.records.flatMap(\.tokens)) && whole.count - data.records.flatMap(\.tokens).count < 2)
  }

  @Test func aDirectoryStandsForItsFiles() throws {
    let scratch = try ScratchDirectory()
    let reader = try reader()
    try FileSystem.makeDirectory(scratch("data"))
    try OpenFile.create(scratch("data/b.jsonl")).write(#"{"input_ids": [5, 6]}"#)
    try OpenFile.create(scratch("data/a.json")).write(#"[{"input_ids": [3, 4]}]"#)
    try OpenFile.create(scratch("data/notes.csv")).write("x")
    #expect(try TrainingData(path: scratch("data"), reader).records.map(\.tokens) == [[3, 4], [5, 6]])
    try OpenFile.create(scratch("data/train.jsonl")).write(#"{"input_ids": [7, 8]}"#)
    try OpenFile.create(scratch("data/valid.jsonl")).write(#"{"input_ids": [9, 9]}"#)
    #expect(try TrainingData(path: scratch("data"), reader).records.map(\.tokens) == [[7, 8]])
    #expect(TrainingData.heldRecords(in: scratch("data")) == scratch("data/valid.jsonl"))
  }

  @Test func packingFillsRowsBestFitFirst() throws {
    let records = [5, 2, 7, 3, 1, 8, 4].map { TrainingRecord(tokens: .init(0..<$0), labels: .init(0..<$0)) }
    let packed = TrainingData.packed(records, length: 8)
    #expect(packed.map(\.lengths) == [[8], [7, 1], [5, 3], [4, 2]])
    #expect(packed.reduce(0) { $0 + $1.labelledCount } == records.reduce(0) { $0 + $1.labelledCount })
  }

  @Test func packedDocumentsTrainAsIfTheyStoodAlone() throws {
    let recorded = RecordedRun(name: "llama-lora")
    let records = try Array(RecordedRun.records().prefix(4))
    let packed = TrainingData.packed(records, length: 24)
    #expect(packed.count < records.count)
    var gradients: [[Float]] = []
    for batch in [TokenBatch(records, padsLeft: false), TokenBatch(packed, padsLeft: false)] {
      let model = try recorded.trainer().model
      _ = model.addGradients(of: batch, share: 1 / Double(batch.labelledCount))
      gradients.append(model.parameters.entries.flatMap { model.parameters.gradient(of: $0.name) })
    }
    #expect(relativeError(gradients[1], gradients[0]) < 1e-5)
    #expect(gradients[0].contains { $0 != 0 })
  }
}
