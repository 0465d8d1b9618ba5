import PEFT
import TensorFiles
import TestSupport
import Testing

/// Adapters in the forms of others, and back.
@Suite struct DialectTests {
  /// A case of Fixtures/dialects: what its owner wrote, and the adapter that it is.
  struct Case: CustomTestStringConvertible {
    let name: String
    var testDescription: String { name }
    var directory: String { Fixtures.path("dialects/\(name)") }
    var peft: String { "\(directory)/peft" }
    var hasConfig: Bool { FileSystem.kind("\(peft)/adapter_config.json") == .file }
    var foreign: String {
      for name in ["foreign", "foreign.gguf"] where FileSystem.kind("\(directory)/\(name)") != nil {
        return "\(directory)/\(name)"
      }
      return "\(directory)/foreign.safetensors"
    }
    var options: AdapterConversion.Options {
      var options = AdapterConversion.Options()
      if FileSystem.kind("\(directory)/base") != nil { options.base = "\(directory)/base" }
      return options
    }
    var form: AdapterDialect {
      if name.hasPrefix("mlx") { return .mlx }
      if name.hasPrefix("gguf") { return .gguf }
      return name.hasPrefix("xlabs") ? .diffusers : .kohya
    }
  }

  static let cases = ((try? FileSystem.names(in: Fixtures.path("dialects"))) ?? []).sorted().map(Case.init)

  /// Expects the same tensors under the same names; in any order.
  private func expectSame(_ a: SafetensorsFile, _ b: SafetensorsFile, _ comment: String) throws {
    #expect(Set(a.entries.map(\.name)) == Set(b.entries.map(\.name)), "\(comment)")
    for entry in a.entries {
      let other = try #require(b[entry.name])
      #expect(entry.dtype == other.dtype && entry.shape == other.shape, "\(comment): \(entry.name)")
      #expect(try a.file.holdsSameBytes(entry.byteRange, other.byteRange, of: b.file), "\(comment): \(entry.name)")
    }
  }

  @Test(arguments: cases)
  func everyFileOfAnOwnerIsReadToTheBytesOfTheAdapterThatItIs(_ subject: Case) throws {
    let scratch = try ScratchDirectory()
    let conversion = try AdapterConversion(subject.foreign, options: subject.options)
    #expect(conversion.source == subject.form)
    try conversion.write(.peft, to: scratch("out"))
    #expect(
      try contents("\(subject.peft)/adapter_model.safetensors") == contents(scratch("out/adapter_model.safetensors")))
    let config = try PeftConfig.load(directory: scratch("out"))
    let expected = try JSONValue(contentsOf: "\(subject.directory)/expected.json")["modules"]?.members ?? []
    #expect(!expected.isEmpty)
    for module in expected {
      let values = numbers(module.value)
      let (rank, scale) = try found(config, module.key)
      #expect(values.count == 2 && rank == values[0], "\(module.key)")
      #expect(abs(scale - values[1]) <= 1e-7 * abs(values[1]), "\(module.key)")
    }
    // The configuration targets these modules and no others.
    let targets = JSONValue.array(config.json["target_modules"]?.elements ?? [])
    #expect(Set(targets.elements?.compactMap(\.stringValue) ?? []) == Set(expected.map(\.key)))
  }

  private func number(_ json: JSONValue) -> Double {
    switch json {
    case .number(let value): return value
    case .integer(let value): return Double(value)
    default: return .nan
    }
  }

  private func numbers(_ json: JSONValue) -> [Double] {
    var numbers: [Double] = []
    for element in json.elements ?? [] { numbers.append(number(element)) }
    return numbers
  }

  private func found(_ config: PeftConfig, _ module: String) throws -> (rank: Double, scale: Double) {
    if config.peftType == .lora {
      let values = try LoRAScaling(config, path: "").values(for: module)
      return (Double(values.rank), values.scale)
    }
    let rank = number(config.settings["rank_pattern"]?[module] ?? config.settings["r"] ?? .null)
    let alpha = number(config.settings["alpha_pattern"]?[module] ?? config.settings["alpha"] ?? .null)
    return (rank, alpha / rank)
  }

  @Test(arguments: cases.filter { $0.form == .mlx })
  func anAdapterIsWrittenForMLXWithTheTensorsThatMLXWrites(_ subject: Case) throws {
    let scratch = try ScratchDirectory()
    let report = try AdapterConversion(subject.peft).write(.mlx, to: scratch("out"))
    #expect(report.notes.isEmpty)
    let own = try SafetensorsFile(path: scratch("out/adapters.safetensors"))
    let other = try SafetensorsFile(path: "\(subject.foreign)/adapters.safetensors")
    try expectSame(own, other, subject.name)
    #expect(own.metadata.isEmpty)
    let written = try JSONValue(contentsOf: scratch("out/adapter_config.json"))
    let expected = try JSONValue(contentsOf: "\(subject.foreign)/adapter_config.json")
    for key in ["fine_tune_type", "num_layers", "lora_parameters"] {
      #expect(written[key]?.pythonText(sortedKeys: true) == expected[key]?.pythonText(sortedKeys: true), "\(key)")
    }
  }

  @Test(arguments: cases.filter { $0.form == .gguf })
  func anAdapterIsWrittenForLlamaCppWithTheTensorsOfItsOwnConversion(_ subject: Case) throws {
    let scratch = try ScratchDirectory()
    try AdapterConversion(subject.peft, options: subject.options).write(.gguf, to: scratch("out.gguf"))
    let own = try GGUFFile(path: scratch("out.gguf"))
    let other = try GGUFFile(path: subject.foreign)
    #expect(own.tensors.count == other.tensors.count)
    for tensor in other.tensors {
      let written = try #require(own.tensors.first { $0.name == tensor.name })
      #expect(written.type == tensor.type && written.shape == tensor.shape)
      #expect(try own.file.holdsSameBytes(written.byteRange, tensor.byteRange, of: other.file), "\(tensor.name)")
    }
    for key in [
      "general.architecture", "general.type", "adapter.type", "adapter.lora.alpha", "adapter.alora.invocation_tokens",
    ] { #expect(own[key] == other[key], "\(key)") }
  }

  @Test(arguments: cases.filter(\.hasConfig), [AdapterDialect.mlx, .gguf])
  func anAdapterComesBackWithItsBytesAndItsConfiguration(_ subject: Case, _ form: AdapterDialect) throws {
    let scratch = try ScratchDirectory()
    let conversion = try AdapterConversion(subject.peft, options: subject.options)
    guard conversion.obstacles(to: form).isEmpty else {
      #expect(subject.name == "mlx-dora" || subject.name == "gguf-alora")
      return
    }
    try conversion.write(form, to: scratch("there"))
    // The file itself keeps what it needs to go back.
    try AdapterConversion(scratch("there")).write(.peft, to: scratch("back"))
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
      #expect(try contents(scratch("back/\(file)")) == contents("\(subject.peft)/\(file)"), "\(file)")
    }
  }

  @Test(
    arguments: cases.filter { $0.form == .kohya || $0.form == .diffusers }, [AdapterDialect.kohya, .comfy, .diffusers])
  func anAdapterOfAnImageModelComesBackWithItsBytes(_ subject: Case, _ form: AdapterDialect) throws {
    let scratch = try ScratchDirectory()
    var options = AdapterConversion.Options()
    options.imageModel = .sd1
    if subject.name.contains("flux") { options.imageModel = .flux }
    if subject.name == "kohya-sdxl" { options.imageModel = .sdxl }
    let conversion = try AdapterConversion(subject.foreign, options: options)
    if form == .diffusers, subject.name.hasPrefix("lycoris") {
      #expect(conversion.obstacles(to: form).first?.cure.contains("to-lora") == true)
      return
    }
    try conversion.write(form, to: scratch("there.safetensors"))
    let back = try AdapterConversion(scratch("there.safetensors")).stored()
    #expect(back.count == 1)
    let peft = try SafetensorsFile(path: "\(subject.peft)/adapter_model.safetensors")
    try expectSame(try #require(back.first).adapter.weights, peft, "\(form)")
  }

  @Test func kohyaFilesCarryTheHashesOfTheirData() throws {
    let scratch = try ScratchDirectory()
    var options = AdapterConversion.Options()
    options.imageModel = .sd1
    let source = Fixtures.path("dialects/kohya-sd1/foreign.safetensors")
    try AdapterConversion(source, options: options).write(.kohya, to: scratch("a.safetensors"))
    let file = try SafetensorsFile(path: scratch("a.safetensors"))
    var hash = SHA256()
    let data = try file.file.bytes(file.dataOffset..<file.file.byteCount())
    hash.add(data.span.bytes)
    let metadata = JSONValue.object(file.metadata)
    #expect(metadata["sshs_model_hash"]?.stringValue == hash.finish())
    // The second MiB of a small file is empty.
    #expect(metadata["sshs_legacy_hash"]?.stringValue == "e3b0c442")
    #expect(metadata["ss_network_dim"]?.stringValue == "2" && metadata["ss_network_alpha"]?.stringValue == "3")
  }

  /// Adapters of the fixtures, the form, and what the obstacle and its cure say.
  @Test(arguments: [
    ("methods/ia3/adapter", AdapterDialect.mlx, "IA3", "to-lora"), ("dialects/mlx-dora/peft", .gguf, "DoRA", "merge"),
    ("merge/llama-saved-head/adapter", .mlx, "stored in full", "slim"),
    ("merge/llama-tokens/adapter", .mlx, "token", "merge"),
    ("merge/llama-lora-bias/adapter", .mlx, "lora_B", "merge"), ("merge/llama-bias-all/adapter", .mlx, "bias", "merge"),
    ("dialects/gguf-alora/peft", .mlx, "aLoRA", "--to gguf"),
    ("merge/llama-f32-qv/adapter", .gguf, "not known", "--base"),
    ("merge/resnet-convolution/adapter", .mlx, "convolution", "merge"),
    ("merge/llama-f32-qv/adapter", .kohya, "pipeline", "--component"),
    ("variants/llama-pissa/adapter", .mlx, "pissa", "merge"), ("methods/loha/adapter", .mlx, "LOHA", "to-lora"),
  ])
  func whatAFormCannotCarryStopsTheConversion(name: String, form: AdapterDialect, what: String, cure: String) throws {
    let scratch = try ScratchDirectory()
    let conversion = try AdapterConversion(Fixtures.path(name))
    let found = conversion.obstacles(to: form)
    #expect(found.contains { "\($0.what) \($0.reason)".contains(what) && $0.cure.contains(cure) }, "\(found)")
    let error = #expect(throws: AdapterError.self) { try conversion.write(form, to: scratch("out")) }
    #expect(error.map(caseName) == "notConvertible")
    #expect(FileSystem.kind(scratch("out")) == nil)
  }

  @Test func scalesThatOneNumberMustStandForAreFoldedWithinOneUnitAndSaidSo() throws {
    let scratch = try ScratchDirectory()
    let source = Fixtures.path("merge/llama-patterns/adapter")
    let report = try AdapterConversion(source).write(.mlx, to: scratch("mlx"))
    #expect(report.notes.contains { $0.contains("multiplied") })
    let back = try AdapterConversion(scratch("mlx")).stored()[0].adapter
    let original = try StoredAdapter(directory: source)
    #expect(back.config == original.config)
    for entry in original.weights.entries {
      let other = try #require(back.weights[entry.name])
      #expect(entry.shape == other.shape)
      let a = try doubles(original.weights.file, entry)
      let b = try doubles(back.weights.file, other)
      #expect(zip(a, b).allSatisfy { abs($0 - $1) <= Double(Float($0).ulp) }, "\(entry.name)")
    }
  }

  @Test func valuesAreCastOnRequest() throws {
    let scratch = try ScratchDirectory()
    var options = AdapterConversion.Options()
    options.dtype = .bf16
    try AdapterConversion(Fixtures.path("merge/llama-f32-qv/adapter"), options: options).write(
      .peft, to: scratch("out"))
    let file = try SafetensorsFile(path: scratch("out/adapter_model.safetensors"))
    #expect(!file.entries.isEmpty && file.entries.allSatisfy { $0.dtype == .bf16 })
  }

  @Test func otherMethodsAreCastInPEFTsOwnForm() throws {
    let scratch = try ScratchDirectory()
    var options = AdapterConversion.Options()
    options.dtype = .f16
    try AdapterConversion(Fixtures.path("methods/vera/adapter"), options: options).write(.peft, to: scratch("out"))
    let file = try SafetensorsFile(path: scratch("out/adapter_model.safetensors"))
    #expect(!file.entries.isEmpty && file.entries.allSatisfy { $0.dtype == .f16 })
    #expect(try PeftConfig.load(directory: scratch("out")).peftType.rawValue == "VERA")
  }

  @Test func aFileOfSeveralPartsOfAPipelineBecomesADirectoryForEachAndComesBack() throws {
    let scratch = try ScratchDirectory()
    let names = [
      "lora_unet_down_blocks_1_attentions_0_proj_in", "lora_te1_text_model_encoder_layers_0_self_attn_q_proj",
      "lora_te2_text_model_encoder_layers_1_mlp_fc1",
    ]
    var items: [SafetensorsLayout.Item] = []
    for name in names {
      items.append(.init(name: "\(name).lora_down.weight", dtype: .f16, shape: [2, 4]))
      items.append(.init(name: "\(name).lora_up.weight", dtype: .f16, shape: [6, 2]))
      items.append(.init(name: "\(name).alpha", dtype: .f16, shape: []))
    }
    let path = scratch("lora.safetensors")
    let layout = try SafetensorsLayout(path: path, items: items)
    let file = try layout.create(at: path)
    for entry in layout.entries where entry.name.hasSuffix(".alpha") {
      // One, in half precision.
      let one: [UInt8] = [0x00, 0x3C]
      try file.write(one.span.bytes, at: entry.byteRange.lowerBound)
    }
    try AdapterConversion(path).write(.peft, to: scratch("parts"))
    for part in ["unet", "text_encoder", "text_encoder_2"] {
      let config = try PeftConfig.load(directory: scratch("parts/\(part)"))
      #expect(config.rank == 2 && config.alpha == 1)
    }
    let conversion = try AdapterConversion(scratch("parts"))
    try conversion.write(.comfy, to: scratch("again.safetensors"))
    let again = try SafetensorsFile(path: scratch("again.safetensors"))
    #expect(Set(again.entries.map(\.name)).isSuperset(of: items.map(\.name).filter { !$0.contains("unet") }))
    try conversion.write(.kohya, to: scratch("kohya.safetensors"))
    let kohya = try SafetensorsFile(path: scratch("kohya.safetensors"))
    // A second text encoder makes it SDXL, whose UNet has Stability's names.
    #expect(kohya["lora_unet_input_blocks_4_1_proj_in.lora_down.weight"] != nil)
  }

  @Test func theLastLayerOfFluxIsNotTakenForTheEndOfABlock() throws {
    let scratch = try ScratchDirectory()
    var items: [SafetensorsLayout.Item] = []
    for (name, rank) in [("final_layer.linear", 3), ("single_blocks.0.linear2", 2), ("single_blocks.1.linear2", 2)] {
      items.append(.init(name: "diffusion_model.\(name).lora_A.weight", dtype: .f32, shape: [rank, 4]))
      items.append(.init(name: "diffusion_model.\(name).lora_B.weight", dtype: .f32, shape: [6, rank]))
    }
    let path = scratch("lora.safetensors")
    _ = try SafetensorsLayout(path: path, items: items).create(at: path)
    let stored = try AdapterConversion(path).stored()
    let config = try #require(stored.first).adapter.config
    let scaling = try LoRAScaling(config, path: "")
    #expect(try scaling.values(for: "proj_out").rank == 3)
    #expect(try scaling.values(for: "single_transformer_blocks.1.proj_out").rank == 2)
    #expect(
      config.targetModules
        == .pattern(#"proj_out|single_transformer_blocks\.0\.proj_out|single_transformer_blocks\.1\.proj_out"#))
  }

  /// What Flux's makers have as modules of their own is carried whatever the method is; parts of a fused one need factors.
  @Test(arguments: ["methods/lokr/adapter", "methods/loha/adapter"])
  func anAdapterOfFluxsUnfusedModulesIsCarriedWhateverItsMethod(source: String) throws {
    let scratch = try ScratchDirectory()
    let stored = try StoredAdapter(directory: Fixtures.path(source))
    let tensors = stored.weights.entries.filter { $0.name.contains(".layers.0.") && $0.name.contains("q_proj") }
    #expect(!tensors.isEmpty)
    func made(_ module: String, at output: String) throws {
      var config = stored.config
      config.targetModules = .names([module])
      let names = tensors.map { entry in
        "base_model.model.\(module).\(entry.name.split(separator: ".").last.map(String.init) ?? "")"
      }
      try StoredAdapter.write(
        config, zip(names, tensors).map { .init(name: $0, dtype: $1.dtype, shape: $1.shape) }, to: output
      ) { sink throws(AdapterError) in
        for (name, entry) in zip(names, tensors) { try sink.copy(entry, of: stored.weights, to: name) }
      }
    }
    var options = AdapterConversion.Options()
    (options.imageModel, options.component) = (.flux, "transformer")
    try made("transformer_blocks.0.ff.net.0.proj", at: scratch("alone"))
    let conversion = try AdapterConversion(scratch("alone"), options: options)
    #expect(conversion.obstacles(to: .kohya).isEmpty)
    try conversion.write(.kohya, to: scratch("flux.safetensors"))
    let names = try SafetensorsFile(path: scratch("flux.safetensors")).entries.map(\.name)
    #expect(
      names.count == tensors.count + 1 && names.allSatisfy { $0.hasPrefix("lora_unet_double_blocks_0_img_mlp_0.") })
    try AdapterConversion(scratch("flux.safetensors"), options: options).write(.peft, to: scratch("again"))
    let (again, alone) = (
      try SafetensorsFile(path: scratch("again/adapter_model.safetensors")),
      try SafetensorsFile(path: scratch("alone/adapter_model.safetensors"))
    )
    // LyCORIS has no scale for whole factors of LoKr, so that one of them takes it up.
    if source.contains("loha") { try expectSame(again, alone, source) }
    #expect(again.entries.map(\.name) == alone.entries.map(\.name))
    try made("transformer_blocks.0.attn.to_q", at: scratch("fused"))
    let refused = try AdapterConversion(scratch("fused"), options: options).obstacles(to: .kohya)
    #expect(refused.contains { $0.what.contains("attn.to_q") && $0.cure == "peft-tool to-lora ADAPTER OUT" })
  }

  @Test func damagedFilesOfEveryFormAreReadOrRefusedButNeverTrap() throws {
    let scratch = try ScratchDirectory()
    var generator = SeededGenerator(seed: 41)
    let sources = Self.cases.filter { $0.form != .mlx }
    for round in 0..<fuzzRounds / 20 {
      let subject = sources[round % sources.count]
      var bytes = try contents(subject.foreign)
      for _ in 0..<Int.random(in: 1...3, using: &generator) {
        let index = Int.random(in: 0..<min(bytes.count, 2000), using: &generator)
        bytes[index] = UInt8.random(in: 32...126, using: &generator)
      }
      let path = scratch("mutated" + (subject.form == .gguf ? ".gguf" : ".safetensors"))
      try overwrite(path, bytes)
      do throws(AdapterError) {
        _ = try AdapterConversion(path, options: subject.options).stored()
      } catch {
        #expect(!error.description.isEmpty)
      }
    }
  }
}
