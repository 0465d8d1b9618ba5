import PEFT
import TensorFiles
import TestSupport
import Testing

/// Adapters and bases of others: named, with what to do.
@Suite struct ForeignTests {
  @Test(arguments: [
    (#"{"fine_tune_type": "lora", "num_layers": 16}"#, "mlx-lm"), (#"{"lora_parameters": {"rank": 8}}"#, "mlx-lm"),
    (#"{"lora_layers": 16, "model": "a/b"}"#, "mlx-lm"),
    (#"{"config": {"architecture": "lora"}, "model_class": "BertModel", "version": "0.1"}"#, "AdapterHub"),
    (#"{"config": "pfeiffer", "model_type": "bert", "name": "x"}"#, "AdapterHub"),
    (#"{"method_type": "LORA", "r": 16}"#, "LeRobot"), (#"{"type": "act", "input_features": {}}"#, "LeRobot"),
  ])
  func aConfigurationOfAnotherLibraryIsCalledByItsName(json: String, name: String) throws {
    let scratch = try ScratchDirectory()
    for file in ["adapter_config.json", "config.json"] {
      let directory = scratch(file)
      try FileSystem.makeDirectory(directory)
      try overwrite("\(directory)/\(file)", json)
      let error = #expect(throws: AdapterError.self) { try Adapter(directory: directory) }
      #expect(error.map(caseName) == "foreignAdapter" && error?.description.contains(name) == true, "\(file)")
    }
  }

  @Test(arguments: [
    (["lora_unet_down_0.lora_down.weight", "lora_unet_down_0.alpha"], "kohya"),
    (["lora_te_text_model.lora_up.weight"], "kohya"), (["lycoris_a.hada_w1_a"], "LyCORIS"),
    (["lora_unet_a.lokr_w1"], "LyCORIS"), (["unet.down.to_q.lora_A.weight"], "diffusers"),
    (["transformer.a.lora.down.weight"], "diffusers"), (["model.layers.0.q_proj.lora_a"], "mlx-lm"),
  ])
  func tensorsOfAnotherLibraryAreCalledByItsName(names: [String], name: String) throws {
    let scratch = try ScratchDirectory()
    let items = names.map { SafetensorsLayout.Item(name: $0, dtype: .f32, shape: [1, 1]) }
    let path = scratch("some.safetensors")
    _ = try SafetensorsLayout(path: path, items: items).create(at: path)
    // The file itself, the directory that it lies in, and as the weights of a PEFT adapter.
    try FileSystem.makeDirectory(scratch("adapter"))
    try FileSystem.copy(path, to: scratch("adapter/adapter_model.safetensors"))
    try FileSystem.copy(
      Fixtures.path("merge/llama-f32-qv/adapter/adapter_config.json"), to: scratch("adapter/adapter_config.json"))
    try FileSystem.makeDirectory(scratch("alone"))
    try FileSystem.copy(path, to: scratch("alone/some.safetensors"))
    for place in [path, scratch("alone"), scratch("adapter")] {
      let error = #expect(throws: AdapterError.self) { try Adapter(directory: place) }
      #expect(error.map(caseName) == "foreignAdapter" && error?.description.contains(name) == true, "\(place)")
    }
    // Whatever else reads the adapter says so too, in the place of a number or a copy.
    let adapter = scratch("adapter")
    let opening = #expect(throws: AdapterError.self) { try Adapter.openWeights(adapter) }
    let showing = #expect(throws: AdapterError.self) { try AdapterSummary(directory: adapter) }
    #expect(opening.map(caseName) == "foreignAdapter" && showing.map(caseName) == "foreignAdapter")
    for place in [scratch("alone"), adapter] {
      let findings = try Validation(path: place).findings
      #expect(findings.count == 1 && findings[0].message.contains(name), "\(findings)")
    }
  }

  @Test func anAdapterOfAPolicyOfLeRobotIsNamedWhereItDoesNotFit() throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path("merge/llama-f32-qv")
    try FileSystem.makeDirectory(scratch("adapter"))
    var config = try JSONValue(contentsOf: "\(root)/adapter/adapter_config.json")
    config["auto_mapping"] = .object([
      .init("base_model_class", .string("PI05Policy")),
      .init("parent_library", .string("lerobot.policies.pi05.modeling_pi05")),
    ])
    try overwrite(scratch("adapter/adapter_config.json"), config.compactText)
    let weights = scratch("adapter/adapter_model.safetensors")
    try FileSystem.copy("\(root)/adapter/adapter_model.safetensors", to: weights)
    _ = try MergePlan(base: "\(root)/base", adapter: scratch("adapter"))
    try FileSystem.remove(weights)
    try renameTensors("\(root)/adapter/adapter_model.safetensors", to: weights) {
      $0.replacing("model.layers", with: "paligemma.blocks")
    }
    let error = #expect(throws: AdapterError.self) { try MergePlan(base: "\(root)/base", adapter: scratch("adapter")) }
    #expect(error.map(caseName) == "foreignAdapter" && error?.description.contains("LeRobot") == true)
  }

  /// A `quantization_config`, what the message calls it, and the tensors of a quantized linear layer.
  static let quantized: [(setting: String, method: String, parts: [String: DType])] = [
    (#"{"quant_method": "gptq", "bits": 4}"#, "gptq", ["qweight": .i32, "qzeros": .i32, "scales": .f16]),
    (#"{"quant_method": "awq"}"#, "awq", ["qweight": .i32, "scales": .f16]),
    (#"{"quant_method": "bitsandbytes"}"#, "bitsandbytes", ["weight": .u8, "weight.absmax": .u8]),
    (#"{"load_in_8bit": true}"#, "bitsandbytes", ["weight": .i8, "SCB": .f32]),
    (#"{"quant_method": "fp8"}"#, "fp8", ["weight": .f8e4m3, "weight_scale_inv": .f32]),
    (#"{"quant_method": "compressed-tensors"}"#, "compressed-tensors", ["weight_packed": .i32, "weight_scale": .bf16]),
    ("null", "GPTQ or AWQ", ["qweight": .i32]), ("null", "bitsandbytes", ["weight": .i8, "SCB": .f32]),
    ("null", "fp8", ["weight": .f8e4m3, "weight_scale_inv": .f32]),
    ("null", "compressed-tensors", ["weight_packed": .i32]), ("null", "hqq", ["W_q": .u8, "scale": .f32]),
    ("null", "aqlm", ["codes": .i8, "codebooks": .f16]),
  ]

  @Test(arguments: quantized)
  func aQuantizedBaseIsNamedWithTheRemedy(setting: String, method: String, parts: [String: DType]) throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path("merge/llama-f32-qv")
    try FileSystem.makeDirectory(scratch("base"))
    var config = try JSONValue(contentsOf: "\(root)/base/config.json")
    config["quantization_config"] = JSONValue(parsing: setting)
    try overwrite(scratch("base/config.json"), config.compactText)
    var items: [SafetensorsLayout.Item] = []
    for entry in try SafetensorsFile(path: "\(root)/base/model.safetensors").entries {
      guard entry.name.hasSuffix("_proj.weight") else {
        items.append(SafetensorsLayout.Item(name: entry.name, dtype: entry.dtype, shape: entry.shape))
        continue
      }
      for (part, dtype) in parts.sorted(by: { $0.key < $1.key }) {
        items.append(
          SafetensorsLayout.Item(name: entry.name.dropLast("weight".count) + part, dtype: dtype, shape: entry.shape))
      }
    }
    _ = try SafetensorsLayout(path: "", items: items).create(at: scratch("base/model.safetensors"))
    let fresh = #expect(throws: AdapterError.self) {
      try AdapterInitializer(
        base: BaseModel(path: scratch("base")), config: PeftConfig.load(directory: "\(root)/adapter"), configPath: "x",
        seed: 0)
    }
    #expect(
      fresh.map(caseName) == "notMade" && fresh?.description.contains(method) == true, "\(String(describing: fresh))")
    for adapter in ["merge/llama-f32-qv", "methods/loha"] {
      let error = #expect(throws: AdapterError.self) {
        try MergePlan(base: scratch("base"), adapter: Fixtures.path("\(adapter)/adapter"))
      }
      #expect(error.map(caseName) == "quantizedBase")
      #expect(error?.description.contains(method) == true && error?.description.contains("16-bit") == true)
    }
  }

  @Test func anAdapterOfAnotherModelIsNotBlamedOnQuantization() throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path("merge/llama-f32-qv")
    try copyDirectory("\(root)/base", to: scratch("base"))
    var config = try JSONValue(contentsOf: "\(root)/base/config.json")
    config["quantization_config"] = JSONValue(parsing: #"{"quant_method": "gptq"}"#)
    try overwrite(scratch("base/config.json"), config.compactText)
    try FileSystem.makeDirectory(scratch("adapter"))
    try FileSystem.copy("\(root)/adapter/adapter_config.json", to: scratch("adapter/adapter_config.json"))
    try renameTensors("\(root)/adapter/adapter_model.safetensors", to: scratch("adapter/adapter_model.safetensors")) {
      $0.replacing("_proj", with: "_projection")
    }
    let error = #expect(throws: AdapterError.self) { try MergePlan(base: scratch("base"), adapter: scratch("adapter")) }
    #expect(error.map(caseName) == "unmatched")
  }

  @Test func whatAQuantizedBaseHoldsInFloatingPointIsMerged() async throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path("merge/llama-f32-qv")
    try copyDirectory("\(root)/base", to: scratch("base"))
    var config = try JSONValue(contentsOf: "\(root)/base/config.json")
    config["quantization_config"] = JSONValue(parsing: #"{"quant_method": "mxfp4"}"#)
    try overwrite(scratch("base/config.json"), config.compactText)
    _ = try MergePlan(base: scratch("base"), adapter: "\(root)/adapter")
  }

  /// PEFT 0.14 and 0.15 wrote `oft_r` and `oft_s`; earlier ones `oft_r` only.
  @Test func anOFTOfAFormerFormIsToldSo() throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path("methods/oft")
    try FileSystem.makeDirectory(scratch("adapter"))
    try FileSystem.copy("\(root)/adapter/adapter_config.json", to: scratch("adapter/adapter_config.json"))
    try renameTensors(
      "\(root)/adapter/adapter_model.safetensors", to: scratch("adapter/adapter_model.safetensors")
    ) { $0.replacing("oft_R.weight", with: "oft_r") }
    let error = #expect(throws: AdapterError.self) { try MergePlan(base: "\(root)/base", adapter: scratch("adapter")) }
    #expect(error?.description.contains("PEFT 0.16") == true && error?.description.contains("again") == true)
  }

  @Test(arguments: ["0.17.1", "0.16.0", nil])
  func theSeriesThatOFTHadBefore018IsRefused(version: String?) throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path("methods/oft")
    try copyDirectory("\(root)/adapter", to: scratch("adapter"))
    var config = try JSONValue(contentsOf: "\(root)/adapter/adapter_config.json")
    config["peft_version"] = version.map(JSONValue.string) ?? .null
    try overwrite(scratch("adapter/adapter_config.json"), config.compactText)
    let error = #expect(throws: AdapterError.self) { try MergePlan(base: "\(root)/base", adapter: scratch("adapter")) }
    #expect(error?.description.contains("PEFT 0.18") == true)
    config["use_cayley_neumann"] = .bool(false)
    try overwrite(scratch("adapter/adapter_config.json"), config.compactText)
    _ = try MergePlan(base: "\(root)/base", adapter: scratch("adapter"))
  }
}
