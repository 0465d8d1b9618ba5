import LanguageModels
import PEFT
import TensorFiles
import TensorMath
import TestSupport
import Testing

/// Tying, activations, precision and invocations, against transformers and PEFT.
@Suite struct RuntimeTests {
  private static let root = Fixtures.path("runtime")

  private static func names(_ file: String) -> [String] {
    (try? Checkpoint(path: "\(root)/\(file)").names.sorted()) ?? []
  }

  private func wanted(_ file: String, _ name: String) throws -> [Double] {
    try doubles(Checkpoint(path: "\(Self.root)/\(file)"), name)
  }

  private func expect(_ found: [Float], _ wanted: [Double], within bound: Double = 1e-4, _ name: String = "") {
    #expect(found.count == wanted.count, "\(name)")
    for (x, y) in zip(found, wanted) { #expect(abs(Double(x) - y) <= bound, "\(name)") }
  }

  private func logits(_ model: CausalLanguageModel) throws -> [Float] {
    try model.logits(PeftModelTests.tokens, cache: model.makeCache()).values
  }

  /// A copy of a model with another config.json.
  private func copy(_ path: String, _ scratch: ScratchDirectory, _ edit: (inout JSONValue) -> Void) throws -> String {
    let directory = scratch("model\(UInt64.random(in: 0...UInt64.max))")
    try FileSystem.makeDirectory(directory)
    try FileSystem.copy("\(path)/model.safetensors", to: "\(directory)/model.safetensors")
    var config = try JSONValue(contentsOf: "\(path)/config.json")
    edit(&config)
    try OpenFile.create("\(directory)/config.json").write(config.compactText)
    return directory
  }

  // MARK: Ties

  @Test func thereAreTiesOfEveryKind() { #expect(Self.names("ties/expected.safetensors").count >= 7) }

  /// Two weights that differ are two, whatever config.json says; one that is not stored is the other.
  @Test(arguments: names("ties/expected.safetensors"))
  func aStoredHeadThatDiffersFromTheEmbeddingIsUsedAsItIs(name: String) throws {
    let running = try PeftModel(base: "\(Self.root)/ties/\(name)")
    let model = running.model
    expect(try logitsInSteps(running, PeftModelTests.tokens), try wanted("ties/expected.safetensors", name), name)
    #expect(model.base.isTied == ["head-equal", "head-only", "head-in-half-equal"].contains(name), "\(name)")
  }

  @Test(arguments: names("ties/expected.safetensors"))
  func aStoredHeadIsCountedAsPEFTCountsIt(name: String) throws {
    var config = PeftConfig()
    config.rank = 4
    config.targetModules = .names(["q_proj", "v_proj"])
    config.taskType = "CAUSAL_LM"
    let base = try BaseModel(path: "\(Self.root)/ties/\(name)", taskType: "CAUSAL_LM")
    let found = try base.parameterCount(of: config, configPath: "config", weights: nil)
    let wanted = try JSONValue(contentsOf: "\(Self.root)/ties/counts.json")[name]?.elements?.map(\.integerValue)
    #expect([found.trainable, found.all] == wanted)
  }

  // MARK: Activations

  @Test(arguments: names("activations.safetensors").filter { $0 != "x" })
  func anActivationHasTorchsValues(name: String) throws {
    let function = try #require(ActivationFunction(String(name.dropLast(4))))
    let isSingle = name.hasSuffix("f32")
    for (x, y) in zip(try wanted("activations.safetensors", "x"), try wanted("activations.safetensors", name)) {
      let found = isSingle ? Double(function.single(Float(x))) : function.double(x)
      // A few roundings of the functions that libm and torch compute, each in its own way; where 1 + tanh or erf cancels, of 1.
      let unit = isSingle ? 0x1p-23 : 0x1p-52
      let size = max(abs(y), min(abs(x), 12), name.hasPrefix("laplace") ? 1 : 0)
      #expect(abs(found - y) <= 6 * unit * size, "\(name) of \(x): \(found), \(y)")
    }
  }

  @Test func theTableHasTheNamesOfTransformers() {
    let stored = Set(Self.names("activations.safetensors").filter { $0 != "x" }.map { String($0.dropLast(4)) })
    #expect(Set(ActivationFunction.names) == stored)
  }

  @Test(arguments: names("activations/expected.safetensors").filter { !$0.hasSuffix("hidden_activation") })
  func aModelRunsWithEachActivation(name: String) throws {
    let scratch = try ScratchDirectory()
    let (kind, activation) = (String(name.prefix { $0 != "." }), String(name.drop { $0 != "." }.dropFirst()))
    let path = try copy("\(Self.root)/activations/\(kind)", scratch) { $0["hidden_act"] = .string(activation) }
    let model = try CausalLanguageModel(directory: path)
    let wanted = try wanted("activations/expected.safetensors", name)
    expect(try logits(model), wanted, within: 1e-5 * max(10, wanted.map(abs).max() ?? 0), name)
    guard kind == "llama" else { return }
    let trees = try JSONValue(contentsOf: "\(Self.root)/activations/trees.json")
    #expect(model.root.module(at: "model.layers.0.mlp.act_fn")?.tree == trees[activation]?.stringValue)
  }

  @Test func whatEarlyGemmaFilesCallGELUIsItsApproximation() throws {
    let names = ["gemma.gelu", "gemma.gelu_pytorch_tanh", "gemma.hidden_activation"]
    let values = try names.map { try wanted("activations/expected.safetensors", $0) }
    #expect(values[0] == values[1] && values[1] == values[2])
    let scratch = try ScratchDirectory()
    let path = try copy("\(Self.root)/activations/gemma", scratch) { config in
      config = .object((config.members ?? []).filter { $0.key != "hidden_act" })
      config["hidden_activation"] = .string("gelu")
    }
    expect(try logits(CausalLanguageModel(directory: path)), values[2], within: 1e-3)
  }

  @Test(arguments: ["gelu_newest", "prelu", "xielu", "GELU", ""])
  func anActivationThatIsNotKnownIsRefusedByName(name: String) throws {
    let scratch = try ScratchDirectory()
    let path = try copy("\(Self.root)/activations/llama", scratch) { $0["hidden_act"] = .string(name) }
    let error = #expect(throws: ModelError.self) { try CausalLanguageModel(directory: path) }
    let text = error?.description ?? ""
    #expect(text.contains("hidden_act is \"\(name)\"") && text.contains("quick_gelu"), "\(text)")
  }

  // MARK: Other models than causal ones

  @Test(arguments: [
    "LlamaForSequenceClassification", "LlamaForTokenClassification", "LlamaForQuestionAnswering", "Encoder",
    "Qwen2ForRewardModel", "GemmaForSequenceClassification",
  ])
  func aModelWithAnotherHeadIsRefusedByItsName(name: String) throws {
    let scratch = try ScratchDirectory()
    let path = try copy("\(Self.root)/ties/head-equal", scratch) { $0["architectures"] = .array([.string(name)]) }
    let error = #expect(throws: ModelError.self) { try CausalLanguageModel(directory: path) }
    #expect(error?.description.contains(name) == true)
  }

  @Test func aClassifiersWeightWithoutALanguageHeadIsRefused() throws {
    let scratch = try ScratchDirectory()
    for (name, extra, isRefused) in [
      ("score", "", true), ("qa_outputs", "", true), ("score", "lm_head.weight", false), ("v_head.summary", "", false),
    ] {
      let path = try copy(Fixtures.path("models/llama-tied"), scratch) { config in
        config = .object((config.members ?? []).filter { $0.key != "architectures" })
      }
      let checkpoint = try Checkpoint(path: Fixtures.path("models/llama-tied"))
      let shard = checkpoint.shards[0]
      var items = shard.entries.map { SafetensorsLayout.Item(name: $0.name, dtype: $0.dtype, shape: $0.shape) }
      items.append(SafetensorsLayout.Item(name: "\(name).weight", dtype: .f32, shape: [2, 16]))
      if !extra.isEmpty { items.append(SafetensorsLayout.Item(name: extra, dtype: .f32, shape: [40, 16])) }
      try FileSystem.remove("\(path)/model.safetensors")
      let layout = try SafetensorsLayout(path: "", items: items)
      let file = try layout.create(at: "\(path)/model.safetensors")
      for (entry, placed) in zip(shard.entries, layout.entries) {
        try file.copy(entry.byteRange, from: shard.file, to: placed.byteRange.lowerBound)
      }
      if isRefused {
        let error = #expect(throws: ModelError.self) { try CausalLanguageModel(directory: path) }
        #expect(error?.description.contains("\(name).weight") == true, "\(error?.description ?? "")")
      } else {
        _ = try CausalLanguageModel(directory: path)
      }
    }
  }

  // MARK: Precision

  @Test func thereAreAdaptersOnABaseInHalfPrecision() { #expect(Self.names("half/expected.safetensors").count >= 8) }

  /// What an adapter changes is not rounded to the base's dtype while it runs; folding in rounds as a merge on disk does.
  @Test(arguments: names("half/expected.safetensors"))
  func aChangedWeightOfAHalfPrecisionBaseStaysInFullPrecision(name: String) throws {
    let model = try PeftModel.load(base: "\(Self.root)/half/base", adapter: "\(Self.root)/half/\(name)")
    let expected = try wanted("half/expected.safetensors", name)
    expect(try logitsInSteps(model, PeftModelTests.tokens), expected, name)
    expect(try model.logits(PeftModelTests.tokens, cache: model.makeCache()).values, expected, name)
    let last = try model.logits(PeftModelTests.tokens, cache: model.makeCache(), lastOnly: true)
    expect(last.values, expected.suffix(last.columns), name)
  }

  // MARK: Invocation

  @Test func anALoRAsSequencesDoNotShareState() throws {
    let model = try PeftModel.load(base: "\(Self.root)/half/base", adapter: "\(Self.root)/alora/adapter")
    let tokens = PeftModelTests.tokens
    let (one, other) = (model.makeCache(), model.makeCache())
    var (found, reversed): ([Float], [Float]) = ([], [])
    for start in [0, 4] { found += try model.logits(Array(tokens[start..<start + 4]), cache: one).values }
    for index in 0..<4 {
      // The other sequence is the tokens backwards, which hold no invocation.
      let part = Array(tokens.reversed()[3 * index..<3 * index + 3])
      reversed += try model.logits(part, cache: other).values
      if index == 0 { found += try model.logits(Array(tokens[8..<9]), cache: one).values }
      if index > 0 { found += try model.logits([tokens[8 + index]], cache: one).values }
    }
    expect(found, try wanted("alora/expected.safetensors", "pass"))
    expect(reversed, try wanted("alora/expected.safetensors", "reversed"))
  }

  @Test func theLastTokensLogitsAreThoseOfTheWholePass() throws {
    let model = try PeftModel.load(base: "\(Self.root)/half/base", adapter: "\(Self.root)/alora/adapter")
    // The invocation.
    let tokens = Array(PeftModelTests.tokens[5..<9])
    let last = try model.logits(tokens, cache: model.makeCache(), lastOnly: true)
    let all = try model.logits(tokens, cache: model.makeCache())
    expect(last.values, all.values.suffix(last.columns).map { Double($0) })
    let plain = try model.model.logits(tokens, cache: model.makeCache(), lastOnly: true)
    #expect(plain.values != last.values)
  }

  /// PEFT's inner model is told of no invocation, and neither is ours: the adapter does not act.
  @Test func theModelOutlivesThePeftModelThatAnALoRACameWith() throws {
    let model = try PeftModel.load(base: "\(Self.root)/half/base", adapter: "\(Self.root)/alora/adapter").model
    let cache = model.makeCache()
    let found = try PeftModelTests.tokens.flatMap { try model.logits([$0], cache: cache).values }
    expect(found, try wanted("alora/expected.safetensors", "alone"))
  }
}
