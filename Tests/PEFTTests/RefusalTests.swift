import PEFT
import TensorFiles
import TestSupport
import Testing

/// A copy of the plainest fixture to damage.
private struct Victim {
  let scratch: ScratchDirectory
  var base: String { scratch("base") }
  var adapter: String { scratch("adapter") }

  init() throws {
    scratch = try ScratchDirectory()
    try copyDirectory(Fixtures.path("merge/llama-f32-qv/base"), to: scratch("base"))
    try copyDirectory(Fixtures.path("merge/llama-f32-qv/adapter"), to: scratch("adapter"))
  }

  func config(_ change: (inout JSONValue) -> Void) throws {
    var json = try JSONValue(contentsOf: "\(adapter)/adapter_config.json")
    change(&json)
    try overwrite("\(adapter)/adapter_config.json", json.compactText)
  }

  /// Rewrites a safetensors file, tensor by tensor; nil drops a tensor.
  func tensors(
    _ path: String, _ change: (SafetensorsLayout.Item) -> SafetensorsLayout.Item?
  ) throws {
    let old = try SafetensorsFile(path: path)
    let kept = old.entries.compactMap { entry in
      change(SafetensorsLayout.Item(name: entry.name, dtype: entry.dtype, shape: entry.shape)).map { (entry, $0) }
    }
    let layout = try SafetensorsLayout(path: path, items: kept.map(\.1))
    try FileSystem.remove(path)
    let file = try layout.create(at: path)
    for ((entry, _), placed) in zip(kept, layout.entries) where entry.byteRange.count == placed.byteRange.count {
      try file.copy(entry.byteRange, from: old.file, to: placed.byteRange.lowerBound)
    }
  }

  var weights: String { "\(adapter)/adapter_model.safetensors" }

  func failure(options: MergeOptions = MergeOptions()) throws -> AdapterError {
    try #require(
      #expect(throws: AdapterError.self) { try MergePlan(base: base, adapter: adapter, options: options) })
  }
}

@Suite struct RefusalTests {
  @Test(arguments: [
    ("use_qalora", "true"), ("alora_invocation_tokens", "[1]"), ("arrow_config", "{}"),
    ("init_lora_weights", #""pissa_niter_4""#), ("init_lora_weights", #""corda""#),
    ("init_lora_weights", #""lora_ga""#),
    ("init_lora_weights", #""loftq""#),
  ])
  func aVariantIsRefusedByName(key: String, value: String) throws {
    let victim = try Victim()
    try victim.config { $0[key] = JSONValue(parsing: value) }
    #expect(caseName(try victim.failure()) == "unsupported")
  }

  @Test(arguments: [
    (".lora_diag", "unpaired"), (".lora_arrow", "unsupported"), (".lora_velora_embed", "tensorUnexpected"),
  ])
  func aVariantsTensorIsRefusedWhateverTheConfigurationSays(suffix: String, error: String) throws {
    let victim = try Victim()
    try victim.tensors(victim.weights) { item in
      guard item.name.hasSuffix(".lora_A.weight") else { return item }
      return SafetensorsLayout.Item(
        name: item.name.dropLast(".lora_A.weight".count) + suffix, dtype: item.dtype, shape: item.shape)
    }
    #expect(caseName(try victim.failure()) == error)
  }

  @Test func magnitudesAndConfigurationMustAgree() throws {
    let victim = try Victim()
    try victim.config { $0["use_dora"] = .bool(true) }
    #expect(caseName(try victim.failure()) == "configContradiction")
  }

  @Test(arguments: [[4], [4, 16, 1], [], [4, 0], [0, 16]])
  func factorsOfAnyOtherShapeAreRefused(shape: [Int]) throws {
    let victim = try Victim()
    try victim.tensors(victim.weights) { item in
      guard item.name.hasSuffix("layers.0.self_attn.q_proj.lora_A.weight") else { return item }
      return SafetensorsLayout.Item(name: item.name, dtype: item.dtype, shape: shape)
    }
    #expect(["rankMismatch", "shapeMismatch"].contains(caseName(try victim.failure())))
  }

  @Test func tokenRowsOutsideTheEmbeddingAreRefused() throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path("merge/llama-tokens")
    try copyDirectory("\(root)/adapter", to: scratch("adapter"))
    for indices in ["[7, 1, 40]", "[7, 1, -1]", "[7, 1]", "[1.5, 1, 2]", "null"] {
      var config = try JSONValue(contentsOf: "\(root)/adapter/adapter_config.json")
      config["trainable_token_indices"] = JSONValue(parsing: indices)
      try overwrite(scratch("adapter/adapter_config.json"), config.compactText)
      let error = #expect(throws: AdapterError.self) {
        try MergePlan(base: "\(root)/base", adapter: scratch("adapter"))
      }
      #expect(["configValue", "shapeMismatch"].contains(error.map(caseName) ?? ""), "\(indices)")
    }
  }

  @Test func aForeignPrefixMatchesNothingAndSaysSo() throws {
    let victim = try Victim()
    try victim.tensors(victim.weights) { item in
      SafetensorsLayout.Item(
        name: item.name.replacing("model.layers", with: "net.blocks"), dtype: item.dtype, shape: item.shape)
    }
    let error = try victim.failure()
    #expect(caseName(error) == "unmatched")
    #expect(error.description.contains("0 of 4 adapter modules matched"))
  }

  @Test func oneUnknownModuleStopsTheMerge() throws {
    let victim = try Victim()
    try victim.tensors(victim.weights) { item in
      SafetensorsLayout.Item(
        name: item.name.replacing("layers.1.self_attn.q_proj", with: "layers.7.self_attn.q_proj"), dtype: item.dtype,
        shape: item.shape)
    }
    let error = try victim.failure()
    #expect(caseName(error) == "unmatched")
    #expect(error.description.contains("3 of 4") && error.description.contains("layers.7"))
  }

  @Test func halfAPairIsRefused() throws {
    let victim = try Victim()
    try victim.tensors(victim.weights) { $0.name.hasSuffix("layers.1.self_attn.q_proj.lora_B.weight") ? nil : $0 }
    #expect(caseName(try victim.failure()) == "unpaired")
  }

  @Test func anotherRankThanConfiguredIsRefused() throws {
    let victim = try Victim()
    try victim.config { $0["r"] = .integer(8) }
    #expect(caseName(try victim.failure()) == "rankMismatch")
  }

  @Test func aFileWithoutTensorsIsRefused() throws {
    let victim = try Victim()
    try victim.tensors(victim.weights) { _ in nil }
    #expect(caseName(try victim.failure()) == "noTensors")
  }

  @Test func aModuleThatIsNotTargetedIsRefusedUnlessAllowed() throws {
    let victim = try Victim()
    try victim.config { $0["target_modules"] = .array([.string("q_proj")]) }
    #expect(caseName(try victim.failure()) == "moduleNotTargeted")
    var options = MergeOptions()
    options.allowUntargeted = true
    #expect(try MergePlan(base: victim.base, adapter: victim.adapter, options: options).mergedCount == 4)
  }

  @Test func aTargetedModuleThatIsMissingIsRefusedUnlessAllowed() throws {
    let victim = try Victim()
    try victim.tensors(victim.weights) { $0.name.contains("layers.1.self_attn.q_proj") ? nil : $0 }
    #expect(caseName(try victim.failure()) == "missingFromAdapter")
    var options = MergeOptions()
    options.allowMissing = true
    #expect(try MergePlan(base: victim.base, adapter: victim.adapter, options: options).mergedCount == 3)
  }

  @Test func aBaseOfAnotherSizeIsRefused() throws {
    let victim = try Victim()
    try victim.tensors("\(victim.base)/model.safetensors") { item in
      guard item.name.contains("q_proj") else { return item }
      return SafetensorsLayout.Item(name: item.name, dtype: item.dtype, shape: [32, 8])
    }
    #expect(caseName(try victim.failure()) == "shapeMismatch")
  }

  @Test func aQuantizedBaseIsRefusedWithTheRemedy() throws {
    let victim = try Victim()
    try victim.tensors("\(victim.base)/model.safetensors") { item in
      guard item.name.contains("q_proj") else { return item }
      return SafetensorsLayout.Item(name: item.name, dtype: .u32, shape: item.shape)
    }
    let error = try victim.failure()
    #expect(caseName(error) == "baseDType" && error.description.contains("16-bit"))
  }

  @Test func severalFittingTensorsAreAnErrorAndOneIsNot() throws {
    let victim = try Victim()
    try victim.tensors("\(victim.base)/model.safetensors") { item in
      SafetensorsLayout.Item(name: "tower_a.\(item.name)", dtype: item.dtype, shape: item.shape)
    }
    #expect(try MergePlan(base: victim.base, adapter: victim.adapter).mergedCount == 4)
    var count = 0
    try victim.tensors("\(victim.base)/model.safetensors") { item in
      count += 1
      let name = item.name.contains("layers.1.") ? item.name.replacing("tower_a.", with: "tower_b.") : item.name
      return SafetensorsLayout.Item(
        name: name.replacing("layers.1.", with: "layers.0."), dtype: item.dtype, shape: item.shape)
    }
    #expect(caseName(try victim.failure()) == "ambiguous")
  }

  @Test func anUnknownKeyWithAValueIsRefusedUnlessIgnored() throws {
    let victim = try Victim()
    for harmless in ["null", "false", "\"\"", "[]", "{}"] {
      try victim.config { $0["new_key"] = JSONValue(parsing: harmless) }
      _ = try MergePlan(base: victim.base, adapter: victim.adapter)
    }
    for value in ["true", "1", "0.5", "\"x\"", "[1]", "{\"a\":1}"] {
      try victim.config { $0["new_key"] = JSONValue(parsing: value) }
      let error = try victim.failure()
      #expect(caseName(error) == "unknownConfigKey" && error.description.contains("new_key"))
    }
    var options = MergeOptions()
    options.ignoredConfigKeys = ["new_key"]
    _ = try MergePlan(base: victim.base, adapter: victim.adapter, options: options)
  }

  @Test func wrongTypesInTheConfigurationAreNamed() throws {
    for (key, value) in [
      ("r", "null"), ("r", "\"4\""), ("r", "4.5"), ("lora_alpha", "\"8\""), ("target_modules", "3"),
      ("rank_pattern", "[1]"), ("use_rslora", "1"), ("peft_type", "null"), ("task_type", "\"causal_lm\""),
      ("bias", "\"some\""),
    ] {
      let victim = try Victim()
      try victim.config { $0[key] = JSONValue(parsing: value) }
      let error = try victim.failure()
      #expect(caseName(error) == "configValue" && error.description.contains(key), "\(key) \(value)")
    }
    for rank in [0, -1, Int.max] {
      let victim = try Victim()
      try victim.config { $0["r"] = .integer(rank) }
      #expect(["configValue", "rankMismatch"].contains(caseName(try victim.failure())))
    }
  }

  @Test(arguments: [("target_modules", #""(""#), ("rank_pattern", #"{"[": 4}"#), ("exclude_modules", #""\\h""#)])
  func aBadPatternIsNamedWithItsFile(key: String, value: String) throws {
    let victim = try Victim()
    try victim.config { $0[key] = JSONValue(parsing: value) }
    let error = try victim.failure()
    #expect(caseName(error) == "configPattern" && error.description.hasPrefix(victim.adapter), "\(error)")
  }

  @Test func mutatedConfigurationsNeverTrap() throws {
    let victim = try Victim()
    let original = try contents("\(victim.adapter)/adapter_config.json")
    var generator = SeededGenerator(seed: 21)
    var refused = 0
    for _ in 0..<fuzzRounds {
      var bytes = original
      for _ in 0..<Int.random(in: 1...3, using: &generator) {
        bytes[Int.random(in: 0..<bytes.count, using: &generator)] = UInt8.random(in: 0x20..<0x7F, using: &generator)
      }
      try overwrite("\(victim.adapter)/adapter_config.json", bytes)
      do throws(AdapterError) {
        _ = try MergePlan(base: victim.base, adapter: victim.adapter)
      } catch {
        #expect(!error.description.isEmpty)
        refused += 1
      }
    }
    #expect(refused > 0)
  }

  @Test func noSpaceIsSaidBeforeAnythingIsWritten() {
    let error = AdapterError.file(.noSpace(path: "/mnt", neededBytes: 100, availableBytes: 10))
    #expect(error.description == "/mnt: 100 bytes needed, 10 free. Make room or choose another output.")
  }
}
