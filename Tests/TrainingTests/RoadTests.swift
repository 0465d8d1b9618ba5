import LanguageModels
import PEFT
import TensorFiles
import TensorMath
import TestSupport
import Testing

@testable import Training

/// An adapter from its configuration to what it computes.
@Suite struct RoadTests {
  /// The logits are those of PEFT with the adapter that `make_road_fixtures.py` let `peft-tool train` make.
  @Test func aTrainedAdapterGivesTheLogitsThatPEFTComputesWithIt() throws {
    let (chat, road) = (Fixtures.path("running/chat"), Fixtures.path("training/road"))
    let facts = try JSONValue(contentsOf: "\(road)/road.json")
    let options = (facts["options"]?.elements ?? []).compactMap(\.stringValue)
    var arguments = TrainingArguments()
    for place in stride(from: 0, to: options.count, by: 2) {
      let word = options[place + 1]
      try arguments.set(
        String(options[place].dropFirst(2)).replacing("-", with: "_"), JSONValue(parsing: word) ?? .string(word))
    }
    let scratch = try ScratchDirectory()
    let base = try CausalLanguageModel(directory: chat)
    let (config, path) = try PeftConfig.load(path: "\(road)/config.json")
    try AdapterInitializer(base: base.base, config: config, configPath: path, seed: arguments.seed)
      .write(to: scratch("fresh"))
    let fresh = try StoredAdapter(directory: scratch("fresh"))
    let settings = try JSONValue(contentsOf: "\(chat)/tokenizer_config.json")
    let reader = RecordReader(
      tokenizer: try Tokenizer(directory: chat), template: try ChatTemplate(directory: chat),
      end: settings["eos_token"]?.stringValue ?? settings["eos_token"]?["content"]?.stringValue,
      vocabulary: base.vocabularySize, maxLength: base.contextLength)
    let trainer = Trainer(
      try TrainableModel(base, adapter: fresh, seed: arguments.seed),
      records: try TrainingData(path: "\(road)/data.jsonl", reader).records, arguments: arguments)
    try trainer.run()
    try trainer.model.save(to: scratch("trained"), config: fresh.config)
    let model = try PeftModel.load(base: chat, adapter: scratch("trained"))
    let tokens = (facts["tokens"]?.elements ?? []).compactMap(\.integerValue)
    let logits = try model.logits(tokens, cache: model.makeCache(), lastOnly: true).values
    let expected = (facts["logits"]?.elements ?? []).compactMap(\.numberValue).map { Float($0) }
    #expect(relativeError(Array(logits), expected) < 1e-3)
    // The base alone says something else.
    let plain = try PeftModel(base: chat)
    #expect(
      relativeError(Array(try plain.logits(tokens, cache: plain.makeCache(), lastOnly: true).values), expected) > 0.1)
  }
}
