import PEFT
import TensorFiles
import TestSupport
import Testing

@Suite struct BaseModelTests {
  @Test(arguments: Fixtures.mergeCases)
  func parametersAreCountedAsPEFTCountsThem(name: String) throws {
    let root = Fixtures.path("merge/\(name)")
    let (config, path) = try PeftConfig.load(path: "\(root)/adapter")
    let base = try BaseModel(path: "\(root)/base", taskType: config.taskType)
    let weights = try Adapter.openWeights("\(root)/adapter")
    let count = try base.parameterCount(of: config, configPath: path, weights: weights)
    #expect(try count.description + "\n" == FileSystem.text("\(root)/count.txt"))
  }

  /// Not those whose count PEFT's transformers 5 takes of another model than the adapter's.
  @Test func variantsAreCountedAsPEFTCountsThem() throws {
    var counted = 0
    for name in try FileSystem.names(in: Fixtures.path("variants"))
    where name != "mixtral-former-adapter" {
      let root = Fixtures.path("variants/\(name)")
      guard FileSystem.kind("\(root)/count.txt") != nil else { continue }
      let (config, path) = try PeftConfig.load(path: "\(root)/adapter")
      let base = try BaseModel(path: "\(root)/base", taskType: config.taskType)
      let weights = try Adapter.openWeights("\(root)/adapter")
      let count = try base.parameterCount(of: config, configPath: path, weights: weights)
      #expect(try count.description + "\n" == FileSystem.text("\(root)/count.txt"), "\(name)")
      counted += 1
    }
    #expect(counted >= 24)
  }

  @Test func theLineHasPEFTsForm() {
    #expect(
      ParameterCount(trainable: 1_572_864, all: 332_769_280).description
        == "trainable params: 1,572,864 || all params: 332,769,280 || trainable%: 0.4727")
    #expect(
      ParameterCount(trainable: 0, all: 999).description
        == "trainable params: 0 || all params: 999 || trainable%: 0.0000")
    #expect(ParameterCount(trainable: 1000, all: 1000).description.hasSuffix("trainable%: 100.0000"))
  }

  @Test func nothingTargetedListsCandidatesAndTheNearestNames() throws {
    let base = try BaseModel(path: Fixtures.path("merge/llama-f32-qv/base"), taskType: "CAUSAL_LM")
    var config = PeftConfig()
    config.targetModules = .names(["qproj", "v_pro"])
    let error = try #require(#expect(throws: AdapterError.self) { try base.targets(of: config) })
    #expect(error.description.contains("Did you mean q_proj, "))
    #expect(error.description.contains("down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj"))
  }

  @Test func aContainerOrANormCannotCarryALoRA() throws {
    let base = try BaseModel(path: Fixtures.path("merge/llama-f32-qv/base"), taskType: "CAUSAL_LM")
    for name in ["self_attn", "input_layernorm", "embed_tokens"] {
      var config = PeftConfig()
      config.targetModules = .names([name])
      let error = #expect(throws: AdapterError.self) { try base.linearTargets(of: config) }
      #expect(error.map(caseName) == "targetNotLinear", "\(name)")
    }
  }

  @Test func aFreshAdapterHasPEFTsNamesAndChangesNothing() async throws {
    for name in [
      "llama-bf16-all-linear", "gpt2-without-prefix", "opt-without-prefix", "t5", "gpt-neox", "llama-layers",
      "llama-lora-bias", "llama-bias-all", "llama-lm-head-untied", "llama-saved-head",
      "bert-sequence-classifier",
    ] {
      let scratch = try ScratchDirectory()
      let root = Fixtures.path("merge/\(name)")
      let config = try PeftConfig.load(directory: "\(root)/adapter")
      let base = try BaseModel(path: "\(root)/base", taskType: config.taskType)
      let maker = try AdapterInitializer(base: base, config: config, configPath: "x", seed: 5)
      try maker.write(to: scratch("adapter"))
      let made = try SafetensorsFile(path: scratch("adapter/adapter_model.safetensors"))
      let trained = try SafetensorsFile(path: "\(root)/adapter/adapter_model.safetensors")
      #expect(made.entries.map(\.name) == trained.entries.map(\.name), "\(name)")
      #expect(made.entries.map(\.shape) == trained.entries.map(\.shape), "\(name)")
      #expect(
        try FileSystem.text(scratch("adapter/adapter_config.json"))
          == FileSystem.text("\(root)/adapter/adapter_config.json"), "\(name)")
      #expect(
        try FileSystem.names(in: scratch("adapter")) == [
          "README.md", "adapter_config.json", "adapter_model.safetensors",
        ])
      try await Merger(MergePlan(base: "\(root)/base", adapter: scratch("adapter"))).run(to: scratch("out"))
      let output = try Checkpoint(path: scratch("out"))
      #expect(
        try CheckpointDifference(base.checkpoint, output).tensors.allSatisfy { $0.finding == .identical }, "\(name)")
      let a = try doubles(made.file, try #require(made.entries.first { $0.name.hasSuffix("lora_A.weight") }))
      #expect(Set(a).count > a.count / 2)
    }
  }

  @Test(arguments: ["llama-dora", "gpt2-dora"])
  func aFreshDoRAChangesNothingButRounding(name: String) async throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path("merge/\(name)")
    let config = try PeftConfig.load(directory: "\(root)/adapter")
    let base = try BaseModel(path: "\(root)/base", taskType: config.taskType)
    try AdapterInitializer(base: base, config: config, configPath: "x", seed: 5).write(to: scratch("adapter"))
    let made = try SafetensorsFile(path: scratch("adapter/adapter_model.safetensors"))
    let trained = try SafetensorsFile(path: "\(root)/adapter/adapter_model.safetensors")
    #expect(made.entries.map(\.name) == trained.entries.map(\.name))
    try await Merger(MergePlan(base: "\(root)/base", adapter: scratch("adapter"))).run(to: scratch("out"))
    let difference = try CheckpointDifference(base.checkpoint, Checkpoint(path: scratch("out")))
    #expect(difference.tensors.allSatisfy { $0.relative < 1e-6 })
  }

  @Test func theSeedDecidesTheValues() throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path("merge/llama-f32-qv")
    let config = try PeftConfig.load(directory: "\(root)/adapter")
    let base = try BaseModel(path: "\(root)/base", taskType: config.taskType)
    for (name, seed) in [("a", UInt64(1)), ("b", 1), ("c", 2)] {
      try AdapterInitializer(base: base, config: config, configPath: "x", seed: seed).write(to: scratch(name))
    }
    let files = try ["a", "b", "c"].map { try contents(scratch("\($0)/adapter_model.safetensors")) }
    #expect(files[0] == files[1] && files[0] != files[2])
  }

  @Test func aSummaryFoldsLayersAndCountsBytes() throws {
    let summary = try AdapterSummary(directory: Fixtures.path("merge/llama-saved-head/adapter"))
    #expect(
      summary.modules.map(\.name) == [
        "model.layers.{0-1}.self_attn.q_proj", "model.layers.{0-1}.self_attn.v_proj",
      ])
    #expect(summary.modules.map(\.count) == [2, 2])
    #expect(summary.modules[0].shapes == [[4, 16], [16, 4]])
    #expect(summary.bytes[.savedModules] == 40 * 16 * 2)
    #expect(summary.json["modules"]?.elements?.count == 2)
  }
}
