import PEFT
import TensorFiles
import TestSupport
import Testing

@Suite struct ServingTests {
  /// An adapter of that configuration with tensors of those names.
  private func adapter(_ config: JSONValue, _ tensors: [String]) throws -> ScratchDirectory {
    let scratch = try ScratchDirectory()
    try overwrite(scratch("adapter_config.json"), config.compactText)
    let items = tensors.map { SafetensorsLayout.Item(name: $0, dtype: .f32, shape: [1, 1]) }
    _ = try SafetensorsLayout(path: "", items: items).create(at: scratch("adapter_model.safetensors"))
    return scratch
  }

  private static let vllmCases =
    (try? JSONValue(contentsOf: Fixtures.path("serving/vllm.json")))?["cases"]?.elements ?? []

  @Test func vLLMsOwnChecksSayTheSame() throws {
    #expect(Self.vllmCases.count > 50)
    for test in Self.vllmCases {
      let name = test["name"]?.stringValue ?? ""
      let scratch = try adapter(
        try #require(test["config"]), (test["tensors"]?.elements ?? []).compactMap(\.stringValue))
      let check = try ServingCheck(directory: scratch.path, server: .vllm)
      // The names that a compiled model has are read by vLLM and fit no module of the model.
      let isRefused = test["refusal"] != .null || name == "compiled"
      #expect(!check.blockers.isEmpty == isRefused, "\(name): \(check.blockers)")
      guard let least = test["leastRank"]?.integerValue, isRefused, name != "compiled" else { continue }
      #expect(check.blockers.map(\.cure) == ["start the server with --max-lora-rank \(least)"], "\(name)")
    }
  }

  /// What a server is known to make of a feature: the table of its release.
  @Test(arguments: [
    (ServingCheck.Server.sglang, #""use_rslora": true"#, true), (.sglang, #""alpha_pattern": {"q_proj": 4}"#, true),
    (.sglang, #""rank_pattern": {"q_proj": 4}"#, true), (.sglang, #""target_modules": ".*q_proj""#, true),
    (.sglang, #""target_modules": "all-linear""#, false), (.sglang, #""r": 512"#, false),
    (.lorax, #""alpha_pattern": {"q_proj": 4}"#, true), (.lorax, #""rank_pattern": {"q_proj": 4}"#, true),
    (.lorax, #""use_rslora": true"#, false), (.lorax, #""use_dora": true"#, true),
    (.ollama, #""lora_alpha": 1.5"#, true), (.ollama, #""use_rslora": true"#, true),
    (.ollama, #""rank_pattern": {"q_proj": 4}"#, false), (.ollama, "\"bias\": \"none\"", false),
  ])
  func whatAServerRefusesIsTold(server: ServingCheck.Server, setting: String, isRefused: Bool) throws {
    let module = "base_model.model.model.layers.0.self_attn"
    let text = #"{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"]}"#
    var json = try #require(JSONValue(parsing: text))
    for member in try #require(JSONValue(parsing: "{\(setting)}")?.members) { json[member.key] = member.value }
    let names = ["q_proj", "v_proj"].flatMap { ["\(module).\($0).lora_A.weight", "\(module).\($0).lora_B.weight"] }
    let scratch = try adapter(json, names)
    let blockers = try ServingCheck(directory: scratch.path, server: server).blockers
    #expect(!blockers.isEmpty == isRefused, "\(blockers)")
  }

  @Test func llamaCppNeedsItsConversionAndOnlyThatForRankPatterns() throws {
    let text =
      #"{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "rank_pattern": {"q_proj": 4}}"#
    let module = "base_model.model.model.layers.0.self_attn.q_proj"
    let scratch = try adapter(
      try #require(JSONValue(parsing: text)), ["\(module).lora_A.weight", "\(module).lora_B.weight"])
    let blockers = try ServingCheck(directory: scratch.path, server: .llamaCpp).blockers
    let cure = "peft-tool convert \(scratch.path) OUT --to gguf --base BASE"
    #expect(blockers.count == 1 && blockers[0].cure.contains(cure))
  }

  @Test func mlxReadsNoAdapterOfPEFTs() throws {
    let check = try ServingCheck(directory: Fixtures.path("merge/llama-f32-qv/adapter"), server: .mlx)
    #expect(check.blockers.count == 1 && check.blockers[0].cure.contains("--to mlx"))
  }

  @Test(arguments: [
    ("merge/llama-dora", "DoRA"), ("merge/llama-saved-head", "lm_head"), ("methods/ia3", "IA3"),
    ("methods/prompt-tuning", "PROMPT_TUNING"), ("variants/llama-kasa", "KaSA"), ("variants/llama-pissa", "pissa"),
    ("merge/llama-tokens", "token"),
  ])
  func everyBlockerHasACure(name: String, feature: String) throws {
    for server in ServingCheck.Server.allCases where server != .mlx {
      let check = try ServingCheck(directory: Fixtures.path("\(name)/adapter"), server: server)
      #expect(check.blockers.contains { $0.feature.contains(feature) && !$0.cure.isEmpty }, "\(server.rawValue)")
      #expect(!check.version.isEmpty)
    }
  }

  @Test func aMergeIsNoCureForWhatIsNotMerged() throws {
    let check = try ServingCheck(directory: Fixtures.path("methods/prompt-tuning/adapter"), server: .vllm)
    #expect(check.blockers.map(\.cure).allSatisfy { $0.hasPrefix("run it with PEFT") })
  }

  @Test(arguments: [ServingCheck.Server.vllm, .sglang, .lorax, .ollama])
  func aPlainLoRAIsServed(server: ServingCheck.Server) throws {
    let check = try ServingCheck(directory: Fixtures.path("merge/llama-f32-qv/adapter"), server: server)
    #expect(check.blockers.isEmpty)
  }
}
