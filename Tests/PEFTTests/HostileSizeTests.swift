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
