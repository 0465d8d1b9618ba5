import PEFT
import TensorFiles
import TestSupport
import Testing

/// Sizes and numbers in files that no memory holds and no multiplication survives.
@Suite struct HostileSizeTests {
  /// An adapter with the given tensors of zeros.
  private func adapter(
    _ scratch: ScratchDirectory, _ tensors: [String: [Int]], _ settings: String = ""
  ) throws -> String {
    let directory = scratch("adapter")
    try FileSystem.makeDirectory(directory)
    let items = tensors.map { SafetensorsLayout.Item(name: $0.key, dtype: .f32, shape: $0.value) }
    let path = FileSystem.join(directory, "adapter_model.safetensors")
    _ = try SafetensorsLayout(path: path, items: items).create(at: path)
    try overwrite(
      FileSystem.join(directory, "adapter_config.json"),
      #"{"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]\#(settings)}"#)
    return directory
  }

  private let base = Fixtures.path("merge/llama-bf16-all-linear/base")

  @Test(arguments: [[0, 1 << 62], [0, 1 << 31], [0, 1 << 62, 1 << 62], [1 << 62, 0]])
  func anEmptyTensorWithExtentsThatNoFileHoldsIsRefused(shape: [Int]) throws {
    let scratch = try ScratchDirectory()
    let header = #"{"w": {"dtype": "F32", "shape": \#(shape), "data_offsets": [0, 0]}}"#
    let count = header.utf8.count
    try overwrite(scratch("w.safetensors"), [UInt8(count)] + [UInt8](repeating: 0, count: 7) + Array(header.utf8))
    let error = #expect(throws: TensorFileError.self) { try SafetensorsFile(path: scratch("w.safetensors")) }
    #expect(error.map(caseName) == "shapeOverflow")
  }

  @Test(arguments: [[0, 4], [1 << 24, 0]])
  func anOrdinaryEmptyTensorIsRead(shape: [Int]) async throws {
    let scratch = try ScratchDirectory()
    let directory = try adapter(
      scratch,
      ["base_model.model.q_proj.lora_A.weight": shape, "base_model.model.q_proj.lora_B.weight": shape.reversed()])
    #expect(try await ModuleStatistics(directory: directory).rows.isEmpty)
    _ = try AdapterSummary(directory: directory)
    #expect(throws: AdapterError.self) { try MergePlan(base: base, adapter: directory) }
  }

  @Test func aTensorOfNoModuleHasAFinding() async throws {
    let scratch = try ScratchDirectory()
    let directory = try adapter(
      scratch, ["base_model.model.lora_A.weight": [2, 4], "base_model.model.lora_B.weight": [4, 2]])
    #expect(throws: AdapterError.self) { try MergePlan(base: base, adapter: directory) }
    _ = try await ModuleStatistics(directory: directory)
    let findings = try Validation(path: directory).findings
    #expect(!findings.isEmpty)
  }

  @Test func aConvolutionsBWithAKernelHasNoStatistics() async throws {
    let scratch = try ScratchDirectory()
    let directory = try adapter(
      scratch,
      [
        "base_model.model.q_proj.lora_A.weight": [2, 4, 3, 3], "base_model.model.q_proj.lora_B.weight": [4, 2, 2, 1],
      ])
    let error = await #expect(throws: AdapterError.self) { try await ModuleStatistics(directory: directory) }
    #expect(error.map(caseName) == "rankMismatch")
  }

  /// Groups of a convolution divide the rank, of which there may be none.
  @Test func aConvolutionWithoutARankHasFindings() throws {
    let scratch = try ScratchDirectory()
    let directory = try adapter(
      scratch,
      [
        "base_model.model.q_proj.lora_A.weight": [0, 4, 3, 3], "base_model.model.q_proj.lora_B.weight": [4, 2, 1, 1],
      ])
    #expect(try !Validation(path: directory).findings.isEmpty)
  }

  @Test(arguments: [
    #", "monteclora_config": {"num_samples": 4611686018427387904}"#, #", "monteclora_config": {"num_samples": -1}"#,
    #", "r": 1, "rank_pattern": {"q_proj": 4611686018427387904}"#,
  ])
  func aCountOfSizesThatNoModelHasIsRefused(settings: String) throws {
    let scratch = try ScratchDirectory()
    try FileSystem.makeDirectory(scratch("adapter"))
    let path = scratch("adapter/adapter_config.json")
    let head = #"{"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]"#
    try overwrite(
      path,
      settings.contains(#""r": 1"#) ? head.replacing(#", "r": 2"#, with: "") + settings + "}" : head + settings + "}")
    let config = try PeftConfig.load(path: path).config
    let base = try BaseModel(path: base)
    #expect(throws: AdapterError.self) { try base.parameterCount(of: config, configPath: path, weights: nil) }
  }

  @Test(arguments: ["9223372036854775807", "1099511627776", "00", "+0"])
  func aLayerNumberThatNoModelHasIsNoLayer(number: String) throws {
    let scratch = try ScratchDirectory()
    try FileSystem.makeDirectory(scratch("base"))
    let items = ["layers.0.q_proj.weight", "layers.\(number).k_proj.weight"].map {
      SafetensorsLayout.Item(name: $0, dtype: .f32, shape: [4, 4])
    }
    _ = try SafetensorsLayout(path: "", items: items).create(at: scratch("base/model.safetensors"))
    let directory = try adapter(
      scratch,
      [
        "base_model.model.layers.0.q_proj.lora_A.weight": [2, 4],
        "base_model.model.layers.0.q_proj.lora_B.weight": [4, 2],
      ], #", "layer_replication": [[0, 1]]"#)
    let plan = try MergePlan(base: scratch("base"), adapter: directory)
    #expect(plan.mergedCount == 1)
    try overwrite(
      FileSystem.join(directory, "adapter_config.json"),
      #"{"peft_type": "LORA", "r": 2, "lora_alpha": 2, "layer_replication": [[0, \#(1 << 40)]]}"#)
    #expect(throws: AdapterError.self) { try MergePlan(base: scratch("base"), adapter: directory) }
  }

  private func base(_ scratch: ScratchDirectory, _ tensors: [String: [Int]]) throws -> BaseModel {
    try FileSystem.makeDirectory(scratch("base"))
    let items = tensors.map { SafetensorsLayout.Item(name: $0.key, dtype: .f32, shape: $0.value) }
    _ = try SafetensorsLayout(path: "", items: items).create(at: scratch("base/model.safetensors"))
    return try BaseModel(path: scratch("base"))
  }

  @Test func layersAreNotCopiedWithoutEnd() throws {
    let scratch = try ScratchDirectory()
    var tensors: [String: [Int]] = [:]
    for layer in 0..<2 {
      for number in 0..<16 { tensors["layers.\(layer).m\(number).weight"] = [1, 1] }
    }
    _ = try base(scratch, tensors)
    let ranges = [String](repeating: "[0, 2]", count: 1 << 16).joined(separator: ", ")
    let directory = try adapter(
      scratch,
      [
        "base_model.model.layers.0.m0.lora_A.weight": [2, 1], "base_model.model.layers.0.m0.lora_B.weight": [1, 2],
      ], #", "layer_replication": [\#(ranges)]"#)
    let error = #expect(throws: AdapterError.self) { try MergePlan(base: scratch("base"), adapter: directory) }
    #expect(error.map(caseName) == "configValue")
  }

  @Test(arguments: ["LOHA", "LOKR"]) func aWeightTooLargeToProbeHasNoStatistics(type: String) async throws {
    let scratch = try ScratchDirectory()
    let stem = "base_model.model.q_proj."
    let directory = try adapter(
      scratch,
      type == "LOKR"
        ? ["\(stem)lokr_w1": [256, 256], "\(stem)lokr_w2": [32, 32, 8, 8]]
        : [
          "\(stem)hada_w1_a": [1 << 16, 1], "\(stem)hada_w1_b": [1, 1 << 16], "\(stem)hada_w2_a": [1 << 16, 1],
          "\(stem)hada_w2_b": [1, 1 << 16],
        ])
    try overwrite(
      FileSystem.join(directory, "adapter_config.json"),
      #"{"peft_type": "\#(type)", "r": 1, "alpha": 1, "target_modules": ["q_proj"]}"#)
    let statistics = try await ModuleStatistics(directory: directory)
    #expect(!statistics.rows.isEmpty)
    #expect(statistics.rows.allSatisfy { $0.norm == nil })
  }

  @Test(arguments: [("r", [1 << 12, 4]), ("empty", [0, 1 << 24]), ("empty", [1 << 24, 0])])
  func aFreshAdapterOfGigabytesForASmallBaseIsRefused(reason: String, shape: [Int]) throws {
    let scratch = try ScratchDirectory()
    let base = try base(scratch, ["layers.0.q_proj.weight": shape])
    let path = Fixtures.path("merge/llama-bf16-all-linear/adapter/adapter_config.json")
    var config = try PeftConfig.load(path: path).config
    config.targetModules = .names(["q_proj"])
    config.rank = reason == "r" ? 1 << 20 : 8
    let error = #expect(throws: AdapterError.self) {
      try AdapterInitializer(base: base, config: config, configPath: "adapter_config.json", seed: 0)
    }
    #expect(error.map(caseName) == (reason == "r" ? "configValue" : "targetNotLinear"))
  }

  @Test func aRankFarAboveTheExtentsTakesNoMoreThanItsFactors() async throws {
    let scratch = try ScratchDirectory()
    let rank = 1 << 16
    let directory = try adapter(
      scratch,
      ["base_model.model.q_proj.lora_A.weight": [rank, 2], "base_model.model.q_proj.lora_B.weight": [2, rank]],
      #", "rank_pattern": {"q_proj": \#(rank)}"#)
    let statistics = try await ModuleStatistics(directory: directory)
    #expect(statistics.rows.map(\.health) == [.untrained])
    // No more than the extents leave.
    #expect(statistics.rows[0].singularValues.count == 2)
  }

  /// Small files whose settings or shapes ask for factors of gigabytes.
  @Test(
    arguments: [
      ("VERA", #""r": 8, "save_projection": false"#, ["vera_lambda_b": [64], "vera_lambda_d": [1 << 23]], [:]),
      (
        "RANDLORA", #""r": 8, "save_projection": false"#,
        ["randlora_lambda": [1 << 23, 1], "randlora_gamma": [1, 64]], [:]
      ),
      (
        "TINYLORA", #""r": 8, "u": 1000, "weight_tying": 1.0"#,
        ["tinylora_A": [1 << 14, 64], "tinylora_B": [64, 1 << 14]],
        ["tinylora_v.0": [1000]]
      ),
      ("UNILORA", #""r": 1048576, "theta_d_length": 4"#, [:], ["unilora_theta_d": [4]]),
      (
        "GRALORA", #""r": 65536, "gralora_k": 64"#, ["gralora_A": [64, 1, 1 << 16], "gralora_B": [64, 1 << 16, 1]], [:]
      ),
      (
        "VBLORA", #""vector_length": 64, "topk": 1"#,
        ["vblora_logits_A": [1 << 22, 1, 1], "vblora_logits_B": [1, 1 << 22, 1]], ["vblora_vector_bank": [1, 64]]
      ),
    ] as [(String, String, [String: [Int]], [String: [Int]])])
  func factorsOfGigabytesAreNotMadeOfASmallFile(
    type: String, settings: String, own: [String: [Int]], shared: [String: [Int]]
  ) throws {
    let scratch = try ScratchDirectory()
    try FileSystem.makeDirectory(scratch("base"))
    let names = ["model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.q_proj.weight"]
    let items = names.map { SafetensorsLayout.Item(name: $0, dtype: .f32, shape: [64, 64]) }
    _ = try SafetensorsLayout(path: "", items: items).create(at: scratch("base/model.safetensors"))
    try overwrite(scratch("base/config.json"), #"{"model_type": "llama"}"#)
    var tensors: [String: [Int]] = [:]
    for (role, shape) in own {
      for name in names { tensors["base_model.model.\(name.dropLast(".weight".count)).\(role)"] = shape }
    }
    for (role, shape) in shared { tensors["base_model.\(role)"] = shape }
    let directory = try adapter(scratch, tensors)
    try overwrite(
      FileSystem.join(directory, "adapter_config.json"),
      #"{"peft_type": "\#(type)", "target_modules": ["q_proj"], \#(settings)}"#)
    let error = #expect(throws: AdapterError.self) { try MergePlan(base: scratch("base"), adapter: directory) }
    #expect(error.map(caseName) == "unsupported", "\(String(describing: error))")
  }

  @Test func moreBasesThanAWeightHasAreRefused() throws {
    let scratch = try ScratchDirectory()
    _ = try base(scratch, ["layers.0.q_proj.weight": [64, 64]])
    let stem = "base_model.model.layers.0.q_proj"
    let directory = try adapter(scratch, ["\(stem).randlora_lambda": [8, 64], "\(stem).randlora_gamma": [64, 64]])
    try overwrite(
      FileSystem.join(directory, "adapter_config.json"),
      #"{"peft_type": "RANDLORA", "r": 8, "target_modules": ["q_proj"], "save_projection": false}"#)
    let error = #expect(throws: AdapterError.self) { try MergePlan(base: scratch("base"), adapter: directory) }
    #expect(error.map(caseName) == "methodShape")
  }

  @Test(arguments: ["nothing", "q_proj"]) func namesOfTargetsAreComparedOnce(name: String) throws {
    let scratch = try ScratchDirectory()
    let base = try base(scratch, ["layers.0.q_proj.weight": [4, 4], "layers.1.k_proj.weight": [4, 4]])
    try overwrite(
      scratch("adapter_config.json"),
      #"{"peft_type": "LORA", "r": 2, "target_modules": [\#((0..<50_000).map { "\"n\($0)\", " }.joined())"\#(name)"]}"#)
    let config = try PeftConfig.load(path: scratch("adapter_config.json")).config
    if name == "q_proj" {
      #expect(try base.targets(of: config).map(\.path) == ["layers.0.q_proj"])
    } else {
      let error = #expect(throws: AdapterError.self) { try base.targets(of: config) }
      #expect((error?.description.utf8.count ?? 0) < 4096)
    }
  }
}
