import PEFT
import TensorFiles
import TestSupport
import Testing

@Suite struct ValidationTests {
  @Test(arguments: (try? FileSystem.names(in: Fixtures.path("valid"))) ?? [])
  func aSoundAdapterIsNotCalledBroken(name: String) throws {
    #expect(try Validation(path: Fixtures.path("valid/\(name)")).findings == [])
    #expect(try Validation(path: Fixtures.path("valid/\(name)"), readsValues: false).findings == [])
  }

  @Test(arguments: (try? FileSystem.names(in: Fixtures.path("variants"))) ?? [])
  func whatPEFTWroteOfVariantsIsValid(name: String) throws {
    #expect(try Validation(path: Fixtures.path("variants/\(name)/adapter")).findings == [])
  }

  /// The codes for a copy of an adapter whose configuration and tensors are changed.
  private func codes(
    _ adapter: String, set: [String: JSONValue] = [:], rename: (String) -> String? = { $0 },
    shape: (String, [Int]) -> [Int] = { $1 }, dtype: (String) -> DType? = { _ in nil }
  ) throws -> [String] {
    let scratch = try ScratchDirectory()
    var json = try JSONValue(contentsOf: Fixtures.path("\(adapter)/adapter_config.json"))
    for (key, value) in set { json[key] = value }
    try overwrite(scratch("adapter_config.json"), json.compactText)
    let file = try SafetensorsFile(path: Fixtures.path("\(adapter)/adapter_model.safetensors"))
    let items = file.entries.compactMap { entry -> SafetensorsLayout.Item? in
      guard let name = rename(entry.name) else { return nil }
      return SafetensorsLayout.Item(
        name: name, dtype: dtype(entry.name) ?? entry.dtype, shape: shape(entry.name, entry.shape))
    }
    _ = try SafetensorsLayout(path: "", items: items).create(at: scratch("adapter_model.safetensors"))
    return try Validation(path: scratch.path, readsValues: false).findings.map(\.code)
  }

  @Test(arguments: [0, -4])
  func aRankBelowOneIsFound(rank: Int) throws {
    for adapter in [
      "merge/llama-f32-qv/adapter", "methods/loha/adapter", "methods/lokr/adapter", "methods/hra/adapter",
    ] {
      #expect(try codes(adapter, set: ["r": .integer(rank)]).contains("configuration"), "\(adapter)")
    }
    let pattern = JSONValue.object([.init("q_proj", .integer(rank))])
    #expect(try codes("merge/llama-f32-qv/adapter", set: ["rank_pattern": pattern]).contains("configuration"))
  }

  @Test func aConvolutionsFactorOfAWrongShapeIsFound() throws {
    for wrong in [[8, 2, 3, 3], [8, 3, 1, 1], [8, 2, 1]] {
      let found = try codes(
        "init/convolution", shape: { $0.hasSuffix("embedder.convolution.lora_B.weight") ? wrong : $1 })
      #expect(found == ["shape"], "\(wrong)")
    }
  }

  @Test(arguments: ["oft_r", "oft_s"])
  func anOFTOfAnEarlierFormIsFound(role: String) throws {
    let found = try codes("methods/oft/adapter", rename: { $0.replacing("oft_R.weight", with: role) })
    #expect(!found.isEmpty && Set(found) == ["format"])
  }

  /// A method's adapter without one of the tensors that each of its modules needs.
  @Test(arguments: [
    ("adalora", "lora_E"), ("loha", "hada_w1_a"), ("loha", "hada_w1_b"), ("loha", "hada_w2_b"), ("lokr", "lokr_w2"),
    ("boft", "boft_s"), ("vera", "vera_lambda_b"), ("vera", "vera_lambda_d"), ("road-1", "road_alpha"),
    ("delora", "delora_lambda"), ("gralora", "gralora_B"), ("hira", "hira_A"), ("hira", "hira_B"),
    ("osf", "osf_svd_params.S_low"), ("tinylora", "tinylora_B"), ("shira", "shira_indices"),
    ("randlora", "randlora_gamma"),
    ("peanut", "peanut_A.weight"), ("vblora", "vblora_logits_A"), ("frod", "frod_lambda_l"),
  ])
  func halfOfAPairIsFound(name: String, role: String) throws {
    let found = try codes("methods/\(name)/adapter", rename: { $0.hasSuffix(".\(role)") ? nil : $0 })
    #expect(!found.isEmpty, "\(name)")
  }

  @Test func whatStandsBesideThePairMustAgreeWithTheConfiguration() throws {
    #expect(try Set(codes("merge/llama-dora/adapter", set: ["use_dora": .bool(false)])) == ["unpaired"])
    #expect(try Set(codes("merge/llama-f32-qv/adapter", set: ["use_dora": .bool(true)])) == ["unpaired"])
    #expect(
      try codes(
        "merge/llama-dora/adapter", shape: { $0.hasSuffix("0.self_attn.q_proj.lora_magnitude_vector") ? [3] : $1 })
        == ["shape"])
    #expect(
      try codes("merge/llama-tokens/adapter", set: ["trainable_token_indices": .array([.integer(1)])]) == ["shape"])
  }

  @Test func tensorsThatAreNoFloatsAreFound() throws {
    #expect(
      try codes("merge/llama-f32-qv/adapter", dtype: { $0.hasSuffix("0.self_attn.q_proj.lora_A.weight") ? .i32 : nil })
        == ["dtype"])
    #expect(try Set(codes("methods/ia3/adapter", dtype: { _ in .i8 })) == ["dtype"])
  }

  @Test func oneShardOfTwoWithoutAnIndexIsNoModel() throws {
    let scratch = try ScratchDirectory()
    let base = Fixtures.path("merge/llama-sharded/base")
    let shard = try #require(try FileSystem.names(in: base).first { $0.contains("-of-") })
    try FileSystem.copy("\(base)/config.json", to: scratch("config.json"))
    try FileSystem.copy("\(base)/\(shard)", to: scratch(shard))
    #expect(try Validation(path: scratch.path).findings.map(\.code) == ["missing-index"])
    #expect(try Validation(path: scratch(shard)).findings.map(\.code) == ["missing-index"])
    for path in [scratch.path, scratch(shard)] {
      let count = #expect(throws: AdapterError.self) { try BaseModel(path: path) }
      #expect(count.map(caseName) == "shardAlone")
      let convert = #expect(throws: AdapterError.self) { try MergePlan(converting: path) }
      #expect(convert.map(caseName) == "shardAlone")
    }
    // The only shard of one is a model.
    try FileSystem.remove(scratch(shard))
    try FileSystem.copy("\(base)/\(shard)", to: scratch("model-00001-of-00001.safetensors"))
    #expect(try BaseModel(path: scratch.path).checkpoint.tensorCount > 0)
  }

  @Test func namesOfARawStateDictAreReadEverywhereAlike() throws {
    let scratch = try ScratchDirectory()
    let source = Fixtures.path("merge/llama-f32-qv/adapter")
    try FileSystem.copy("\(source)/adapter_config.json", to: scratch("adapter_config.json"))
    try renameTensors("\(source)/adapter_model.safetensors", to: scratch("adapter_model.safetensors")) {
      $0.replacing(".weight", with: ".default.weight")
    }
    let summary = try AdapterSummary(directory: scratch.path)
    #expect(summary.modules.map(\.count) == [2, 2] && summary.tensors.isEmpty)
    let plan = try MergePlan(base: Fixtures.path("merge/llama-f32-qv/base"), adapter: scratch.path)
    #expect(plan.moduleCount == 4 && plan.mergedCount == 4)
  }
}
