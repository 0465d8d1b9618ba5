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
}
