import PEFT
import TensorFiles
import TestSupport
import Testing

@Suite struct ParameterCountTests {
  private static let cases = (try? FileSystem.names(in: Fixtures.path("count/cases"))) ?? []

  private func base(_ name: String) throws -> String {
    let text = try FileSystem.text(Fixtures.path("count/cases/\(name)/base.txt"))
    return Fixtures.path("count/bases/\(text.split(separator: "\n")[0])")
  }

  private func count(_ base: String, _ adapter: String, withWeights: Bool = true) throws -> String {
    let (config, path) = try PeftConfig.load(path: adapter)
    let model = try BaseModel(path: base, taskType: config.taskType)
    let weights = withWeights ? try Adapter.openWeights(adapter) : nil
    return try model.parameterCount(of: config, configPath: path, weights: weights).description
  }

  @Test func thereAreCases() { #expect(Self.cases.count >= 70) }

  @Test(arguments: cases)
  func anAdapterIsCountedAsPEFTCountsIt(name: String) throws {
    let line = try FileSystem.text(Fixtures.path("count/cases/\(name)/count.txt"))
    #expect(try count(base(name), Fixtures.path("count/cases/\(name)/adapter")) + "\n" == line)
  }

  /// A classifier of other labels than the base's leaves no trace in the configuration.
  @Test(arguments: cases.filter { !$0.hasSuffix("other-labels") })
  func aConfigurationAloneGivesTheSameNumberOrNone(name: String) throws {
    let line = try FileSystem.text(Fixtures.path("count/cases/\(name)/count.txt"))
    do {
      let found = try count(base(name), Fixtures.path("count/cases/\(name)/adapter"), withWeights: false)
      #expect(found + "\n" == line)
    } catch AdapterError.uncountable {
    }
  }

  @Test func aConfigurationAloneIsCountedWhereTheBaseTellsAll() throws {
    for name in ["attention", "attention-bias", "gru-saved", "roberta-classifier-bias", "head-other-targeted"] {
      let adapter = Fixtures.path("count/cases/\(name)/adapter")
      #expect(try count(base(name), adapter, withWeights: false) == count(base(name), adapter))
    }
  }

  // MARK: What is refused

  /// The sentence of the error that the count of a changed copy of a case ends with.
  private func refusal(
    of name: String, withWeights: Bool = true, adapterChange: ((String) throws -> Void)? = nil,
    baseChange: ((String) throws -> Void)? = nil
  ) throws -> String {
    let scratch = try ScratchDirectory()
    try copyDirectory(Fixtures.path("count/cases/\(name)/adapter"), to: scratch("adapter"))
    try copyDirectory(base(name), to: scratch("base"))
    try baseChange?(scratch("base"))
    try adapterChange?(scratch("adapter"))
    let error = #expect(throws: AdapterError.self) {
      try count(scratch("base"), scratch("adapter"), withWeights: withWeights)
    }
    return error?.description ?? ""
  }

  private func replace(_ old: String, _ new: String, in file: String) throws {
    let text = try FileSystem.text(file)
    #expect(text.contains(old))
    try overwrite(file, text.replacing(old, with: new))
  }

  private func renameInPlace(_ file: String, _ rename: (String) -> String) throws {
    try renameTensors(file, to: "\(file).new", rename)
    let bytes = try contents("\(file).new")
    try FileSystem.remove("\(file).new")
    try overwrite(file, bytes)
  }

  @Test func aQuantizedBaseIsNotCounted() throws {
    let text = try refusal(
      of: "gemma4",
      baseChange: { base in
        try replace(
          "\"model_type\"", "\"quantization_config\": {\"quant_method\": \"bitsandbytes\"}, \"model_type\"",
          in: "\(base)/config.json")
      })
    #expect(text.contains("quantization_config bitsandbytes"))
  }

  @Test func anAdapterThatLacksTargetedModulesIsNotCounted() throws {
    let text = try refusal(
      of: "tied-head",
      adapterChange: { adapter in
        try replace("\"lm_head\"", "\"lm_head\", \"q_proj\"", in: "\(adapter)/adapter_config.json")
      })
    #expect(text.contains("it lacks 1 of the modules that the configuration targets, the first being 'model.layers.0"))
  }

  @Test func anAdapterOfModulesThatTheBaseLacksIsNotCounted() throws {
    let error = #expect(throws: AdapterError.self) {
      try count(base("gemma4"), Fixtures.path("count/cases/tied-head/adapter"))
    }
    #expect(error?.description.contains("does not hold under that name") == true, "\(error.map { "\($0)" } ?? "")")
  }

  @Test func aHeadThatNoFileHoldsIsNotCounted() throws {
    let text = try refusal(of: "bert-tokens-of-features", withWeights: false)
    #expect(text.contains("the parameters of the model's head are not counted"))
  }

  @Test func aTensorOfUnknownKindInAModelOutsideTransformersIsNamed() throws {
    let text = try refusal(
      of: "groups",
      baseChange: { base in
        try renameInPlace("\(base)/model.safetensors") { $0 == "bn.weight" ? "bn.ballast" : $0 }
      })
    #expect(text.contains("whether 'bn.ballast'") && text.contains("is a parameter or a buffer"))
  }

  @Test func aFormerNameOfTransformersIsAnsweredWithTheNewOne() throws {
    let former = { (name: String) in
      name.replacing("layers.", with: "encoder.layer.").replacing("attention.q_proj", with: "attention.attention.query")
    }
    let scratch = try ScratchDirectory()
    try copyDirectory(Fixtures.path("count/cases/vit-classifier-of-bare/adapter"), to: scratch("adapter"))
    try copyDirectory(base("vit-classifier-of-bare"), to: scratch("base"))
    try renameInPlace(scratch("base/model.safetensors"), former)
    let line = try FileSystem.text(Fixtures.path("count/cases/vit-classifier-of-bare/count.txt"))
    #expect(try count(scratch("base"), scratch("adapter")) + "\n" == line)

    try renameInPlace(scratch("adapter/adapter_model.safetensors"), former)
    try replace("\"q_proj\"", "\"query\"", in: scratch("adapter/adapter_config.json"))
    #expect(try count(scratch("base"), scratch("adapter")) + "\n" == line)
    var config = PeftConfig()
    config.targetModules = .names(["query"])
    let model = try BaseModel(path: scratch("base"))
    let error = #expect(throws: AdapterError.self) {
      try model.parameterCount(of: config, configPath: "adapter_config.json", weights: nil)
    }
    #expect(error?.description.contains("which transformers 5 calls") == true, "\(error.map { "\($0)" } ?? "")")
  }

  /// Sizes of a configuration are multiplied: none may trap.
  @Test(arguments: ["num_samples", "num_virtual_tokens", "token_dim", "encoder_hidden_size", "num_layers"])
  func aGreatNumberInAConfigurationIsAnError(key: String) throws {
    let scratch = try ScratchDirectory()
    let name = key == "num_samples" ? "count/cases/monteclora" : "methods/prefix-tuning-projection"
    try copyDirectory(Fixtures.path("\(name)/adapter"), to: scratch("adapter"))
    let file = scratch("adapter/adapter_config.json")
    var members = try #require(JSONValue(parsing: FileSystem.text(file)))
    if key == "num_samples" {
      members["monteclora_config"] = .object([.init(key, .integer(1 << 62))])
    } else {
      members[key] = .integer(1 << 40)
    }
    try overwrite(file, members.compactText)
    let base = key == "num_samples" ? try base("monteclora") : Fixtures.path("\(name)/base")
    let error = #expect(throws: AdapterError.self) {
      try count(base, scratch("adapter"), withWeights: key != "num_samples")
    }
    #expect(error.map(caseName) == "configValue")
  }
}
