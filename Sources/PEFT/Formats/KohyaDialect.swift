internal import TensorFiles

/// kohya's and LyCORIS's files, and what ComfyUI reads beside them: all parts of a pipeline in one file, each module with its
/// own alpha.
///
/// Source: sd-scripts networks/lora.py, lora_flux.py, lora_sd3.py; lycoris/modules; ComfyUI comfy/lora.py.
enum KohyaDialect {
  static let fileName = "lora.safetensors"

  // MARK: Which model

  /// The model that adapters of a pipeline's parts are for, told by their modules; nil if several have them.
  static func model(_ adapters: [CarriedAdapter], base: BaseFacts?) -> ImageModel? {
    switch base?.className {
    case "FluxTransformer2DModel", "FluxPipeline": return .flux
    case "SD3Transformer2DModel", "StableDiffusion3Pipeline": return .sd3
    case "StableDiffusionXLPipeline": return .sdxl
    case "StableDiffusionPipeline": return .sd1
    default: break
    }
    let components = Set(adapters.map { $0.component ?? "" })
    for adapter in adapters where adapter.component == "transformer" {
      if adapter.modules.contains(where: { $0.path.hasPrefix("single_transformer_blocks.") }) { return .flux }
      if adapter.modules.contains(where: { $0.path.contains(".attn2.") || $0.path.hasPrefix("pos_embed") }) {
        return .sd3
      }
      if components.contains("text_encoder_3") { return .sd3 }
      return modelByWidth(adapter)
    }
    if components.contains("text_encoder_2") { return .sdxl }
    guard let unet = adapters.first(where: { $0.component == "unet" }) else {
      return components == ["text_encoder"] ? .sd1 : nil
    }
    let verdicts = unet.modules.compactMap { SDXLNames.isOnlySDXL($0.path) }
    return verdicts.first.map { $0 ? .sdxl : .sd1 }
  }

  /// Flux has 3072 features, SD3's sizes 1536 and 2432.
  private static func modelByWidth(_ adapter: CarriedAdapter) -> ImageModel? {
    let query = adapter.modules.first { $0.path.hasSuffix(".attn.to_q") || $0.path.hasSuffix(".attn.add_q_proj") }
    switch query?[.a]?.shape.last {
    case 3072: return .flux
    case 1536, 2432: return .sd3
    default: return nil
    }
  }

  private static func prefix(_ component: String, _ model: ImageModel, comfy: Bool) -> String {
    switch (component, model) {
    case ("text_encoder", .sd1): "lora_te_"
    case ("text_encoder", _): "lora_te1_"
    // Flux's second encoder is a T5.
    case ("text_encoder_2", .flux): comfy ? "lora_te2_" : "lora_te3_"
    case ("text_encoder_2", _): "lora_te2_"
    case ("text_encoder_3", _): "lora_te3_"
    default: "lora_unet_"
    }
  }

  // MARK: Obstacles

  static func obstacles(_ adapter: CarriedAdapter, model: ImageModel?, comfy: Bool) -> [ConversionObstacle] {
    var found = adapter.obstacles(takesMagnitudes: true, methods: [.lora, .loHa, .loKr])
    func add(_ what: String, _ reason: String, _ cure: String) {
      found.append(ConversionObstacle(what: what, reason: reason, cure: cure))
    }
    guard let component = adapter.component else {
      add("the part of the pipeline is not known", "names depend on it", "say it with --component")
      return found
    }
    guard let model else {
      add("the image model is not known", "names depend on it", "say it with --image-model, or give it with --base")
      return found
    }
    if let module = adapter.modules.first(where: \.isEmbedding) {
      add("LoRA of the embedding '\(module.path)'", "the form has none", "peft-tool merge BASE ADAPTER OUT")
    }
    for module in adapter.modules where component == "unet" || component == "transformer" {
      let isKnown =
        component == "unet"
        ? model == .sd1 || SDXLNames.stability(module.path) != nil
        : TransformerNames.fused(diffusers: module.path, model) != nil
      if !isKnown {
        add("module '\(module.path)'", "\(model.rawValue) has none of that name", "peft-tool merge BASE ADAPTER OUT")
      }
    }
    for module in adapter.modules where FlatNames.path(FlatNames.flat(module.path)) != module.path {
      add("module '\(module.path)'", "its flat name could not be read back", "peft-tool merge BASE ADAPTER OUT")
    }
    if component == "transformer", !comfy, adapter.config.peftType != .lora {
      let fused = adapter.modules.first { module in
        TransformerNames.fused(diffusers: module.path, model).map { $0.parts.count > 1 || $0.swapsHalves } ?? false
      }
      if let fused {
        add(
          "\(adapter.config.peftType.rawValue) of '\(fused.path)'",
          "it is a part of a module there, which cannot be put together of it", "peft-tool to-lora ADAPTER OUT")
      }
    }
    return found
  }

  // MARK: Writing

  /// Throws `.foreignContent` for a fused projection that cannot be put together.
  static func output(
    _ adapters: [CarriedAdapter], model: ImageModel, comfy: Bool, path: String
  ) throws(AdapterError) -> DialectOutput {
    var tensors: [NamedTensor] = []
    var notes: [String] = []
    var origins: [JSONValue.Member] = []
    var (ranks, alphas): ([Int], [Double]) = ([], [])
    for adapter in adapters {
      let component = adapter.component ?? "unet"
      var modules = adapter.modules
      if component == "transformer", !comfy {
        modules = try joined(modules, model, path: path, &notes)
      }
      for module in modules {
        ranks.append(module.rank)
        alphas.append(module.effectiveAlpha)
        tensors += try self.tensors(module, name(of: module, component, model, comfy: comfy), path: path)
      }
      origins.append(.init(component, adapter.peftConfig.json))
    }
    let whole = adapters.flatMap(\.modules).filter {
      $0.tensors["lokr_w1"] != nil && $0.tensors["lokr_w2"] != nil && $0.scale != 1
    }
    if !whole.isEmpty { notes.append(FoldNote.text(whole, to: 1)) }
    let rounded = alphas.filter { Double(Float($0)) != $0 }.count
    if rounded > 0 {
      notes.append(
        "alpha of \(rounded) module\(rounded == 1 ? "" : "s") stored in 32 bits, within one unit in the last place")
    }
    var metadata = comfy ? [] : try trainingMetadata(adapters, model, ranks, alphas, tensors, path: path)
    metadata.append(.init(ImageFiles.originKey, .string(JSONValue.object(origins).compactText)))
    return DialectOutput(
      files: [(fileName, .safetensors(tensors, metadata: metadata, namesFormat: comfy))], notes: notes)
  }

  private static func joined(
    _ modules: [CarriedModule], _ model: ImageModel, path: String, _ notes: inout [String]
  ) throws(AdapterError) -> [CarriedModule] {
    let byPath = Dictionary(modules.map { (ExactName($0.path), $0) }, uniquingKeysWith: { first, _ in first })
    var done: Set<String> = []
    var result: [CarriedModule] = []
    for module in modules {
      guard let fused = TransformerNames.fused(diffusers: module.path, model), done.insert(fused.path).inserted else {
        continue
      }
      let folded = fused.parts.compactMap { byPath[ExactName($0)] }
      let scale = CarriedAdapter.mostFrequent(folded.map(\.scale).filter { $0 != 0 }) ?? 1
      let others = folded.filter { $0.scale != scale }
      if !others.isEmpty { notes.append("'\(fused.path)': \(FoldNote.text(others, to: scale))") }
      if let made = try FusedModules.join(byPath, fused, path: path) { result.append(made) }
    }
    return result
  }

  private static func name(
    of module: CarriedModule, _ component: String, _ model: ImageModel, comfy: Bool
  ) -> String {
    if component == "transformer", comfy { return "transformer.\(module.path)" }
    let path = component == "unet" && model == .sdxl ? SDXLNames.stability(module.path) ?? module.path : module.path
    return prefix(component, model, comfy: comfy) + FlatNames.flat(path)
  }

  private static func tensors(
    _ module: CarriedModule, _ name: String, path: String
  ) throws(AdapterError) -> [NamedTensor] {
    var module = module
    // An alpha of zero would mean a scale of one.
    if module.effectiveAlpha == 0 { module = module.folded(to: 1) }
    var tensors = [NamedTensor("\(name).alpha", MadeTensor(scalar: Float(module.effectiveAlpha)))]
    if let a = module[.a], let b = module[.b] {
      tensors.append(NamedTensor("\(name).lora_down.weight", a))
      tensors.append(NamedTensor("\(name).lora_up.weight", b))
      if let magnitude = module[.magnitude] {
        let shape = [magnitude.elementCount] + a.shape.dropFirst().map { _ in 1 }
        tensors.append(NamedTensor("\(name).dora_scale", magnitude.reshaped(shape)))
      }
      return tensors
    }
    var others = module.tensors
    // LyCORIS scales by one where both factors are whole.
    if let first = others["lokr_w1"], others["lokr_w2"] != nil { others["lokr_w1"] = first.scaled(by: module.scale) }
    return tensors + others.sorted { $0.key < $1.key }.map { NamedTensor("\(name).\($0.key)", $0.value) }
  }

  // MARK: Metadata

  private static func trainingMetadata(
    _ adapters: [CarriedAdapter], _ model: ImageModel, _ ranks: [Int], _ alphas: [Double], _ tensors: [NamedTensor],
    path: String
  ) throws(AdapterError) -> [JSONValue.Member] {
    let isLoRA = adapters.allSatisfy { $0.config.peftType == .lora && !$0.hasMagnitudes }
    let hasKernels = adapters.contains { $0.modules.contains { ($0.a?.shape.count ?? 2) > 2 } }
    let version: String =
      switch model {
      case .sd1: "sd_v1"
      case .sdxl: "sdxl_base_v1-0"
      case .sd3: "sd3"
      case .flux: "flux1"
      }
    let network =
      switch (isLoRA, model) {
      case (false, _): "lycoris.kohya"
      case (_, .flux): "networks.lora_flux"
      case (_, .sd3): "networks.lora_sd3"
      default: hasKernels ? "lycoris.kohya" : "networks.lora"
      }
    var arguments: [JSONValue.Member] = []
    if network == "lycoris.kohya" {
      let kind =
        switch adapters.first.map({ KohyaMethod(tensors: $0.modules.first?.tensors.keys.map { $0 } ?? []) }) {
        case .loHa?: "loha"
        case .loKr?: "lokr"
        default: "locon"
        }
      arguments.append(.init("algo", .string(kind)))
      if adapters.contains(where: \.hasMagnitudes) { arguments.append(.init("dora_wd", .string("True"))) }
    }
    func text(_ values: [Double]) -> String {
      guard let first = values.first, values.allSatisfy({ $0 == first }) else { return "Dynamic" }
      return PythonNumber(shortest: first).json.compactText
    }
    let members: [JSONValue.Member] = [
      .init("ss_base_model_version", .string(version)), .init("ss_network_alpha", .string(text(alphas))),
      .init("ss_network_args", .string(JSONValue.object(arguments).compactText)),
      .init("ss_network_dim", .string(text(ranks.map(Double.init)))), .init("ss_network_module", .string(network)),
      .init("ss_v2", .string("False")),
    ]
    return members + (try hashes(tensors, members, path: path))
  }

  /// The hashes by which WebUIs know a file: of its data, and of 64 KiB from the second MiB on, as the file is with kohya's own
  /// keys alone. Source: sd-scripts library/train_util.py `precalculate_safetensors_hashes`.
  private static func hashes(
    _ tensors: [NamedTensor], _ metadata: [JSONValue.Member], path: String
  ) throws(AdapterError) -> [JSONValue.Member] {
    let (layout, made) = try DialectOutput.safetensorsLayout(tensors, metadata, false, path: path)
    let window = 0x100000..<0x110000
    var (all, legacy) = (SHA256(), SHA256())
    func addLegacy(_ bytes: [UInt8], at start: Int) {
      let part =
        max(window.lowerBound, start)..<max(max(window.lowerBound, start), min(window.upperBound, start + bytes.count))
      if !part.isEmpty { legacy.add(Array(bytes[part.lowerBound - start..<part.upperBound - start]).span.bytes) }
    }
    addLegacy(layout.header, at: 0)
    for entry in layout.entries {
      guard let tensor = made[ExactName(entry.name)] else { continue }
      let bytes = try tensor.bytes()
      all.add(bytes.span.bytes)
      addLegacy(bytes, at: entry.byteRange.lowerBound)
    }
    return [
      .init("sshs_legacy_hash", .string(String(legacy.finish().prefix(8)))),
      .init("sshs_model_hash", .string(all.finish())),
    ]
  }
}
