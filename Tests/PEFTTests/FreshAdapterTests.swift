import PEFT
import TensorFiles
import TestSupport
import Testing

@Suite struct FreshAdapterTests {
  static let cases = (try? FileSystem.names(in: Fixtures.path("init"))) ?? []

  @Test(arguments: cases)
  func aSeedDrawsWhatPEFTDrawsAfterManualSeed(name: String) throws {
    let root = Fixtures.path("init/\(name)")
    let facts = try JSONValue(contentsOf: "\(root)/case.json")
    let seed = try #require(facts["seed"]?.integerValue)
    let written = try JSONValue(contentsOf: "\(root)/adapter_config.json")
    // What PEFT filled in is taken out again.
    var given = written
    for member in facts["given"]?.members ?? [] { given[member.key] = member.value }
    let config = try PeftConfig(json: given, path: "x")
    let base = try BaseModel(
      path: Fixtures.path(try #require(facts["base"]?.stringValue)), taskType: config.taskType)
    let text = facts["text_tokens"]?.elements?.compactMap(\.integerValue)
    let maker = try AdapterInitializer(
      base: base, config: config, configPath: "x", seed: UInt64(seed), promptTokens: text)
    #expect(maker.isInModelOrder)
    #expect(sorted(maker.config.json).pythonText(sortedKeys: true) == sorted(written).pythonText(sortedKeys: true))
    let near = (facts["near"]?.elements ?? []).compactMap(\.stringValue)
    let scratch = try ScratchDirectory()
    try maker.write(to: scratch("adapter"))
    let made = try SafetensorsFile(path: scratch("adapter/adapter_model.safetensors"))
    let drawn = try SafetensorsFile(path: "\(root)/adapter_model.safetensors")
    #expect(made.entries.map(\.name) == drawn.entries.map(\.name))
    #expect(made.entries.map(\.shape) == drawn.entries.map(\.shape))
    #expect(made.entries.map(\.dtype) == drawn.entries.map(\.dtype))
    for (ours, theirs) in zip(made.entries, drawn.entries) {
      if ours.name.hasSuffix("lora_magnitude_vector") {
        // No draw: a norm, whose sum torch orders otherwise.
        for (x, y) in zip(try doubles(made.file, ours), try doubles(drawn.file, theirs)) {
          #expect(abs(x - y) <= 4e-3 * y)
        }
        continue
      }
      if near.contains(where: { ours.name.hasSuffix($0) }) {
        // A product or a decomposition, in f32 there. The signs of singular vectors are LAPACK's.
        for (x, y) in zip(try doubles(made.file, ours), try doubles(drawn.file, theirs)) {
          #expect(abs(abs(x) - abs(y)) <= 1e-2 * abs(y) + 1e-5, "\(ours.name): \(x) \(y)")
        }
        continue
      }
      let same = try made.file.bytes(ours.byteRange) == drawn.file.bytes(theirs.byteRange)
      #expect(same, "\(ours.name)")
    }
  }

  /// A configuration whose sets of names are in order.
  private func sorted(_ json: JSONValue) -> JSONValue {
    var json = json
    for key in ["target_modules", "exclude_modules", "feedforward_modules"] {
      guard let names = json[key]?.elements else { continue }
      json[key] = .array(names.compactMap(\.stringValue).sorted().map { .string($0) })
    }
    return json
  }

  @Test func anUnknownOrderOfModulesIsSaid() throws {
    let scratch = try ScratchDirectory()
    try copyDirectory(Fixtures.path("merge/llama-f32-qv/base"), to: scratch("base"))
    var json = try JSONValue(contentsOf: scratch("base/config.json"))
    json["model_type"] = .string("unheard_of")
    try overwrite(scratch("base/config.json"), json.compactText)
    let config = try PeftConfig.load(directory: Fixtures.path("merge/llama-f32-qv/adapter"))
    let base = try BaseModel(path: scratch("base"), taskType: config.taskType)
    #expect(try !AdapterInitializer(base: base, config: config, configPath: "x", seed: 1).isInModelOrder)
  }

  @Test func anLSTMThatDropsIsNotStarted() throws {
    let base = try BaseModel(path: Fixtures.path("merge/llama-f32-qv/base"), taskType: "CAUSAL_LM")
    func maker(_ settings: String) throws -> AdapterInitializer {
      let json = try #require(
        JSONValue(
          parsing: """
            {"peft_type": "P_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": 2, "encoder_dropout": 0.1, \(settings)}
            """))
      return try AdapterInitializer(base: base, config: PeftConfig(json: json, path: "x"), configPath: "x", seed: 1)
    }
    let error = #expect(throws: AdapterError.self) {
      try maker(#""encoder_reparameterization_type": "LSTM""#).made()
    }
    #expect("\(error.map(String.init(describing:)) ?? "")".contains("encoder_dropout 0.1"))
    // torch drops between layers: one layer drops nothing, nor does an MLP.
    _ = try maker(#""encoder_reparameterization_type": "LSTM", "encoder_num_layers": 1"#).made()
    _ = try maker(#""encoder_reparameterization_type": "MLP""#).made()
  }

  @Test(arguments: [
    #""peft_type": "ADAMSS""#, #""init_lora_weights": "eva""#, #""init_lora_weights": "pissa_niter_4""#,
    #""init_lora_weights": "pissa", "use_dora": true"#, #""use_dora": true, "init_lora_weights": false"#,
    #""target_parameters": ["mlp.experts"]"#, #""trainable_token_indices": [1]"#, #""use_qalora": true"#,
    #""kasa_config": {}"#, #""use_bdlora": {"nblocks": 2}"#, #""layer_replication": [[0, 1]]"#,
    #""modules_to_save": ["nowhere"]"#, #""target_modules": ["embed_tokens"], "lora_bias": true"#,
  ])
  func whatIsNotStartedIsRefusedInTheWordsOfAStart(setting: String) throws {
    let base = try BaseModel(path: Fixtures.path("merge/llama-f32-qv/base"), taskType: "CAUSAL_LM")
    let type = setting.contains("peft_type") ? "" : #""peft_type": "LORA", "#
    let targets = setting.contains("target_modules") ? "" : #""target_modules": ["q_proj"], "#
    let json = try #require(JSONValue(parsing: "{\(type)\(targets)\(setting)}"))
    let config = try PeftConfig(json: json, path: "x")
    let error = #expect(throws: AdapterError.self) {
      try AdapterInitializer(base: base, config: config, configPath: "x", seed: 1)
    }
    let text = try #require(error).description
    #expect(text.contains("no fresh adapter with") && !text.contains("merged"), "\(text)")
  }
}
