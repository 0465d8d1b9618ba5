import PEFT
import TensorFiles
import TestSupport
import Testing

/// Whole adapters with damage in settings, names and shapes, through all that reads them.
@Suite struct AdapterFuzzTests {
  /// An adapter to begin with: settings, and tensors with their shapes.
  private struct Seed {
    let settings: String
    let tensors: [(name: String, shape: [Int])]

    /// A LoRA; `settings` are those beside `rank`.
    init(rank: Int = 8, _ settings: String, _ tensors: (String, [Int])...) {
      self.settings = #""r": \#(rank), "lora_alpha": 8, "# + settings
      self.tensors = tensors.map { ("base_model.model.\($0.0)", $0.1) }
    }

    /// Another method on `q_proj`, with tensors of that module and of the whole adapter.
    init(method: String, _ settings: String, _ tensors: [(String, [Int])], shared: [(String, [Int])] = []) {
      self.settings = #""peft_type": "\#(method)", "target_modules": ["q_proj"]\#(settings)"#
      self.tensors =
        tensors.map { ("base_model.model.\(AdapterFuzzTests.q).\($0.0)", $0.1) }
        + shared.map { ("base_model.\($0.0)", $0.1) }
    }
  }

  private static let q = "model.layers.0.self_attn.q_proj"
  /// More names than a model has modules, and one with more parts than most.
  private static let names = (0..<500).map { "\"n\($0)\"" }.joined(separator: ",")
  private static let parts = (0..<100).map { "a\($0)" }.joined(separator: ".")
  /// A line a seed.
  private static let seeds = [
    Seed(
      #""peft_type": "LORA", "target_modules": ["q_proj"]"#, ("\(q).lora_A.weight", [8, 64]),
      ("\(q).lora_B.weight", [64, 8])),
    Seed(
      #""peft_type": "LORA", "target_modules": ["q_proj"]"#, ("lora_A.weight", [8, 64]), ("lora_B.weight", [64, 8])),
    Seed(#""peft_type": "LORA""#, ("\(q).lora_A.weight", [8, 4, 3, 3]), ("\(q).lora_B.weight", [4, 8, 2, 1])),
    Seed(
      #""peft_type": "LORA", "layer_replication": [[0, 2], [1, 9223372036854775807]]"#, ("\(q).lora_A.weight", [8, 64])),
    Seed(
      #""peft_type": "LORA", "monteclora_config": {"num_samples": 4611686018427387904}"#,
      ("\(q).lora_A.weight", [8, 64])),
    Seed(
      #""peft_type": "LORA", "rank_pattern": {"\u00e9": 2, "e\u0301": 4}"#, ("\u{E9}.lora_A.weight", [8, 4]),
      ("e\u{301}.lora_A.weight", [8, 4])),
    Seed(
      #""peft_type": "P_TUNING", "token_dim": 1099511627776, "encoder_hidden_size": 1099511627776"#,
      ("prompt_embeddings", [4, 8])),
    Seed(
      #""peft_type": "PREFIX_TUNING", "prefix_projection": true, "num_layers": 1099511627776"#,
      ("prompt_embeddings", [4, 8])),
    Seed(#""peft_type": "CARTRIDGE", "num_virtual_tokens": 4, "num_frozen_tokens": 1"#, ("prompt_embeddings", [4, 8])),
    Seed(
      #""peft_type": "VBLORA", "num_vectors": 1099511627776, "save_only_topk_weights": true"#,
      ("\(q).vblora_logits_A_topk_indices", [4, 8, 2])),
    Seed(
      rank: 1 << 20, #""peft_type": "LORA", "target_modules": ["q_proj"]"#, ("\(q).lora_A.weight", [1 << 20, 1]),
      ("\(q).lora_B.weight", [1, 1 << 20])),
    Seed(
      #""peft_type": "LORA", "target_modules": [\#(names)], "exclude_modules": [\#(names)]"#,
      ("\(q).lora_A.weight", [8, 64]), ("\(q).lora_B.weight", [64, 8])),
    Seed(
      #""peft_type": "LORA", "target_modules": ["q_proj"], "modules_to_save": [\#(names)], "layers_to_transform": [0]"#,
      ("\(q).lora_A.weight", [8, 64]), ("\(q).lora_B.weight", [64, 8])),
    Seed(
      #""peft_type": "LORA", "target_modules": ["\#(parts)"]"#, ("\(parts).lora_A.weight", [8, 4]),
      ("\(parts).lora_B.weight", [4, 8])),
    Seed(
      #""peft_type": "LORA", "target_parameters": [\#(names), "q_proj.weight"]"#, ("\(q).lora_A.weight", [8, 64]),
      ("\(q).lora_B.weight", [64, 8])),
    Seed(
      #""peft_type": "LORA", "target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [1, 1048576]}"#,
      ("\(q).lora_A.weight", [8, 64]), ("\(q).lora_B.weight", [64, 8]),
      ("model.embed_tokens.token_adapter.trainable_tokens_delta", [2, 64])),
    Seed(method: "LOKR", "", [("lokr_w1", [8, 8]), ("lokr_w2", [8, 8])]),
    Seed(method: "LOKR", "", [("lokr_w1", [256, 256]), ("lokr_w2", [32, 32, 8, 8])]),
    Seed(
      method: "LOHA", "",
      [("hada_w1_a", [1024, 1]), ("hada_w1_b", [1, 1024]), ("hada_w2_a", [1024, 1]), ("hada_w2_b", [1, 1024])]),
    Seed(method: "IA3", #", "feedforward_modules": [\#(names)]"#, [("ia3_l", [64, 1])]),
    Seed(
      method: "VERA", #", "r": 8, "save_projection": false"#, [("vera_lambda_b", [64]), ("vera_lambda_d", [1 << 14])]),
    Seed(
      method: "RANDLORA", #", "r": 8, "save_projection": false"#,
      [("randlora_lambda", [8, 64]), ("randlora_gamma", [64, 64])]),
    Seed(
      method: "TINYLORA", #", "u": 10000"#, [("tinylora_A", [1024, 64]), ("tinylora_B", [64, 1024])],
      shared: [("tinylora_v.0", [10_000])]),
    Seed(
      method: "UNILORA", #", "r": 65536, "theta_d_length": 4"#, [], shared: [("unilora_theta_d", [4])]),
    Seed(
      method: "GRALORA", #", "r": 1024, "gralora_k": 64"#,
      [("gralora_A", [64, 1, 1024]), ("gralora_B", [64, 1024, 1])]),
    Seed(method: "FOURIERFT", #", "n_frequency": 4096"#, [("fourierft_spectrum", [4096])]),
    Seed(
      method: "VBLORA", #", "vector_length": 64"#,
      [("vblora_logits_A", [1024, 1, 8]), ("vblora_logits_B", [1, 1024, 8])],
      shared: [("vblora_vector_bank", [8, 64])]),
    Seed(method: "BOFT", "", [("boft_R", [1, 16, 4, 4]), ("boft_s", [64, 1])]),
    Seed(method: "HIRA", "", [("hira_A", [8, 64]), ("hira_B", [64, 8])]),
    Seed(method: "C3A", #", "block_size": 8"#, [("c3a_kernel", [8, 8, 8])]),
    Seed(method: "OFT", #", "oft_block_size": 4"#, [("oft_R.weight", [16, 6])]),
  ]

  private static let values = [
    "-1", "0", "1", "null", "true", "\"\"", "[]", "{}", "4611686018427387904", "1e308", "\"\u{E9}\"",
  ]
  private static let extents = [0, 1, 2, 3, 8, 64, 1 << 20]

  private func damaged(_ text: String, _ generator: inout SeededGenerator) -> String {
    var parts = text.split(separator: " ").map(String.init)
    let place = Int.random(in: 0..<parts.count, using: &generator)
    let end = parts[place].hasSuffix(",") ? "," : ""
    if Bool.random(using: &generator) { parts[place] = (Self.values.randomElement(using: &generator) ?? "") + end }
    return parts.joined(separator: " ")
  }

  @Test func mutatedAdaptersNeverTrap() async throws {
    let base = try BaseModel(path: Fixtures.path("merge/llama-bf16-all-linear/base"))
    let scratch = try ScratchDirectory()
    let directory = scratch("adapter")
    try FileSystem.makeDirectory(directory)
    var generator = SeededGenerator(seed: 47)
    let rounds = max(Self.seeds.count * 2, fuzzRounds / 100)
    var counted = 0
    for round in 0..<rounds {
      let seed = Self.seeds[round % Self.seeds.count]
      // Each seed is first read as it is.
      let isDamaged = round >= Self.seeds.count
      let text = "{ \(seed.settings) }"
      try overwrite(scratch("adapter/adapter_config.json"), isDamaged ? damaged(text, &generator) : text)
      let items = seed.tensors.enumerated().map { index, tensor in
        var shape = tensor.shape
        if isDamaged, Bool.random(using: &generator) {
          let place = Int.random(in: 0..<shape.count, using: &generator)
          shape[place] = Self.extents.randomElement(using: &generator) ?? 0
          if shape.reduce(1, *) > 1 << 24 { shape[place] = 0 }
        }
        return SafetensorsLayout.Item(name: tensor.name, dtype: .f32, shape: shape)
      }
      let path = scratch("adapter/adapter_model.safetensors")
      if FileSystem.exists(path) { try FileSystem.remove(path) }
      _ = try SafetensorsLayout(path: path, items: items).create(at: path)
      _ = try? AdapterSummary(directory: directory)
      _ = try? Validation(path: directory)
      _ = try? await ModuleStatistics(directory: directory)
      _ = try? MergePlan(base: base.path, adapter: directory)
      guard let stored = try? StoredAdapter(directory: directory) else { continue }
      let count = try? base.parameterCount(of: stored.config, configPath: directory, weights: stored.weights)
      if count != nil { counted += 1 }
    }
    #expect(counted > 0)
  }
}
