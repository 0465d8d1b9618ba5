import PEFT
import TensorFiles
import TestSupport
import Testing

/// Many names, in lists and in files: what would take hours if each were compared with each.
@Suite struct LongListTests {
  private func write(_ path: String, _ tensors: [(name: String, shape: [Int])]) throws {
    let items = tensors.map { SafetensorsLayout.Item(name: $0.name, dtype: .f32, shape: $0.shape) }
    _ = try SafetensorsLayout(path: path, items: items).create(at: path)
  }

  /// A base and a LoRA on some of its modules, all of them of four inputs and outputs.
  private func files(
    _ scratch: ScratchDirectory, modules: [String], adapted: [String], more: [(String, [Int])] = [], settings: String
  ) throws {
    try FileSystem.makeDirectory(scratch("base"))
    try FileSystem.makeDirectory(scratch("adapter"))
    try write(scratch("base/model.safetensors"), modules.map { ("\($0).weight", [4, 4]) } + more)
    try overwrite(scratch("base/config.json"), #"{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}"#)
    try write(
      scratch("adapter/adapter_model.safetensors"),
      adapted.flatMap {
        [
          ("base_model.model.\($0).lora_A.weight", [2, 4]), ("base_model.model.\($0).lora_B.weight", [4, 2]),
        ]
      })
    try overwrite(
      scratch("adapter/adapter_config.json"), #"{"peft_type": "LORA", "r": 2, "lora_alpha": 2\#(settings)}"#)
  }

  /// All that compares names of modules.
  private func readAll(_ scratch: ScratchDirectory) async throws -> MergePlan {
    _ = try Validation(path: scratch("adapter"))
    _ = try AdapterSummary(directory: scratch("adapter"))
    _ = try await ModuleStatistics(directory: scratch("adapter"))
    let base = try BaseModel(path: scratch("base"))
    let stored = try StoredAdapter(directory: scratch("adapter"))
    _ = try? base.parameterCount(of: stored.config, configPath: "", weights: stored.weights)
    _ = try? base.parameterCount(of: stored.config, configPath: "", weights: nil)
    _ = try? AdapterInitializer(base: base, config: stored.config, configPath: "", seed: 0)
    return try MergePlan(base: scratch("base"), adapter: scratch("adapter"))
  }

  private static let modules = (0..<100).flatMap { layer in
    "qkvo".map { "model.layers.\(layer).self_attn.\($0)_proj" }
  }
  private static let targeted = modules.filter { $0.hasSuffix("q_proj") }
  private static let names = (0..<20_000).map { "\"n\($0)\"" }.joined(separator: ", ")
  private static let numbers = (0..<50_000).map(String.init).joined(separator: ", ")

  @Test(arguments: [
    #""target_modules": ["# + names + #", "q_proj"]"#,
    #""target_modules": ["q_proj"], "exclude_modules": ["# + names + "]",
    #""target_modules": ["q_proj"], "modules_to_save": ["# + names + "]",
    #""target_modules": ["q_proj"], "layers_to_transform": ["# + numbers + "]",
    #""target_modules": ["q_proj"], "trainable_token_indices": {"#
      + names.replacing(", ", with: ": [1], ") + ": [1]}",
  ])
  func aListOfManyNamesIsComparedInOnePass(settings: String) async throws {
    let scratch = try ScratchDirectory()
    try files(scratch, modules: Self.modules, adapted: Self.targeted, settings: ", " + settings)
    #expect(try await readAll(scratch).mergedCount == 100)
  }

  @Test(arguments: ["rank_pattern", "alpha_pattern"])
  func patternsOfWhichNoModelHasSoManyAreRefused(key: String) async throws {
    let scratch = try ScratchDirectory()
    let patterns = (0..<200_000).map { "\".*n\($0)\": 2" }.joined(separator: ", ")
    try files(
      scratch, modules: Self.modules, adapted: Self.targeted,
      settings: #", "target_modules": ["q_proj"], "\#(key)": {\#(patterns)}"#)
    let error = #expect(throws: AdapterError.self) {
      try MergePlan(base: scratch("base"), adapter: scratch("adapter"))
    }
    #expect(error.map(caseName) == "configPattern")
    #expect(try !Validation(path: scratch("adapter")).findings.isEmpty)
  }

  @Test func targetParametersOfWhichNoModelHasSoManyAreRefused() throws {
    let json = #"{"peft_type": "LORA", "target_parameters": [\#(Self.names)]}"#
    let error = #expect(throws: AdapterError.self) {
      try PeftConfig(json: #require(JSONValue(parsing: json)), path: "c")
    }
    #expect(error.map(caseName) == "configValue")
  }

  @Test func aBaseOfManyLayersIsMatched() async throws {
    let scratch = try ScratchDirectory()
    let modules = (0..<4_000).flatMap { layer in ["q", "out"].map { "model.layers.\(layer).attn.\($0)_proj" } }
    try files(
      scratch, modules: modules, adapted: modules, settings: #", "target_modules": ["q_proj", "out_proj"]"#)
    #expect(try await readAll(scratch).mergedCount == modules.count)
  }

  /// Names that the base has under another prefix are found by their ends.
  @Test func manyNamesWithAnotherPrefixAreFound() throws {
    let scratch = try ScratchDirectory()
    let modules = (0..<4_000).map { "outer.layers.\($0).mlp" }
    try files(
      scratch, modules: modules, adapted: modules.map { String($0.dropFirst(6)) },
      settings: #", "target_modules": ["mlp"]"#)
    #expect(try MergePlan(base: scratch("base"), adapter: scratch("adapter")).mergedCount == modules.count)
  }

  @Test(arguments: ["\"last\"", "all"]) func namesOfManyPartsAreCompared(targets: String) async throws {
    let scratch = try ScratchDirectory()
    let stem = (0..<120).map { "a\($0)" }.joined(separator: ".")
    let modules = (0..<50).map { "m\($0).\(stem).last" }
    try files(
      scratch, modules: modules, adapted: modules,
      settings: targets == "all" ? #", "target_modules": "all-linear""# : #", "target_modules": [\#(targets)]"#)
    #expect(try await readAll(scratch).mergedCount == modules.count)
  }

  @Test(arguments: ["target_modules", "exclude_modules"]) func aLongListIsWrittenInOnePass(key: String) throws {
    let names = (0..<200_000).map { "\"n\($0)\"" } + ["\"n7\"", "\"q_proj\""]
    let json = #"{"peft_type": "LORA", "\#(key)": [\#(names.joined(separator: ", "))]}"#
    let config = try PeftConfig(json: #require(JSONValue(parsing: json)), path: "c")
    #expect(config.json[key]?.elements?.count == 200_001)
  }
}
