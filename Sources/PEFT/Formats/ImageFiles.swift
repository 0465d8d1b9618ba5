internal import TensorFiles

/// Reads files of LoRAs for image models, in kohya's, LyCORIS's, diffusers', XLabs', Black Forest Labs' and ComfyUI's names: one
/// adapter for each part of the pipeline.
struct ImageFiles {
  /// Where files keep the configurations of PEFT that the parts had, by diffusers' names of the parts.
  static let originKey = "peft_config"
  /// Where diffusers keeps them: one object, its keys with the part's name and a dot before.
  static let diffusersKey = "lora_adapter_metadata"

  private struct Module {
    var tensors: [String: MadeTensor] = [:]
    var alpha: Double?
    var core: MadeTensor?
    var magnitude: MadeTensor?
  }

  private let file: SafetensorsFile
  private var notes: [String] = []

  /// Throws `.foreignContent` for a tensor that is not understood, `.adapterDType`, `.unpaired`, `.tensorRepeated`, `.file`.
  static func read(_ path: String) throws(AdapterError) -> (adapters: [CarriedAdapter], notes: [String]) {
    let file = try asAdapterError { () throws(TensorFileError) in
      path.hasSuffix(".bin") || path.hasSuffix(".pt")
        ? try SafetensorsFile.openTorch(path: path) : try SafetensorsFile(path: path)
    }
    guard !file.entries.isEmpty else { throw .noTensors(path: path) }
    var reader = ImageFiles(file: file)
    let adapters = try reader.adapters()
    return (adapters, reader.notes)
  }

  private init(file: SafetensorsFile) { self.file = file }

  private mutating func adapters() throws(AdapterError) -> [CarriedAdapter] {
    var parts: [String: [ExactName: Module]] = [:]
    var makers: [ExactName: ImageModel] = [:]
    var seen: [ExactName: String] = [:]
    // Native names of Flux and SD3 outside of blocks are told apart by the blocks.
    let keys = file.entries.map { (entry: $0, key: ImageKey($0.name)) }
    let model = keys.compactMap { $0.key?.maker }.first
    let isSD3 = model == .sd3
    for (entry, key) in keys {
      guard let key else {
        throw .foreignContent(
          path: file.path, reason: "tensor '\(entry.name)' is no part of a LoRA that is understood here")
      }
      guard entry.dtype.isComputable || key.role == .alpha else {
        throw .adapterDType(path: file.path, tensor: entry.name, dtype: entry.dtype)
      }
      let component = key.component == "text_encoder_3" && !isSD3 && model != nil ? "text_encoder_2" : key.component
      let place = ExactName(key.path)
      if let maker = key.maker ?? (component == "transformer" ? model : nil) { makers[place] = maker }
      let id = ExactName("\(component)/\(key.path)/\(key.role)")
      if let other = seen.updateValue(entry.name, forKey: id) {
        throw .tensorRepeated(path: file.path, tensor: entry.name, other: other)
      }
      try add(entry, key.role, to: &parts[component, default: [:]][place, default: Module()])
    }
    var adapters: [CarriedAdapter] = []
    for (component, modules) in parts.sorted(by: { $0.key < $1.key }) {
      var carried: [CarriedModule] = []
      for (path, module) in modules {
        let made = try self.module(path.text, module)
        guard let maker = makers[path] else {
          carried.append(made)
          continue
        }
        guard let fused = TransformerNames.fused(maker: path.text, maker) else {
          if ImageKey.component(of: path.text) == "transformer",
            TransformerNames.fused(diffusers: path.text, maker) != nil
          {
            carried.append(made)
            continue
          }
          throw .foreignContent(path: file.path, reason: "'\(path)' is no module of \(maker.rawValue)")
        }
        carried += try FusedModules.split(made, fused, path: file.path)
      }
      adapters.append(try adapter(component, carried))
    }
    return adapters
  }

  private func add(_ entry: TensorEntry, _ role: ImageKey.Role, to module: inout Module) throws(AdapterError) {
    let made = MadeTensor(entry, of: file.file)
    switch role {
    case .factor(let name): module.tensors[name] = made
    case .core: module.core = made
    case .magnitude: module.magnitude = made
    case .alpha:
      guard made.elementCount == 1 else {
        throw .foreignContent(path: file.path, reason: "'\(entry.name)' has \(made.elementCount) values; one is needed")
      }
      let value = try number(entry, made)
      guard value.isFinite else {
        throw .foreignContent(path: file.path, reason: "'\(entry.name)' is \(value)")
      }
      module.alpha = value
    }
  }

  private func number(_ entry: TensorEntry, _ made: MadeTensor) throws(AdapterError) -> Double {
    if entry.dtype.isComputable { return try made.values().first ?? .nan }
    guard [.i64, .i32, .i16, .i8].contains(entry.dtype) else {
      throw .adapterDType(path: file.path, tensor: entry.name, dtype: entry.dtype)
    }
    let bits = try made.bytes().reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
    let unused = UInt64(64 - entry.dtype.bitCount)
    return Double(Int64(bitPattern: bits << unused) >> Int64(unused))
  }

  // MARK: Modules

  private mutating func module(_ path: String, _ module: Module) throws(AdapterError) -> CarriedModule {
    let names = module.tensors.keys
    if names.contains(where: { $0.hasPrefix("hada_") }) { return try loHa(path, module) }
    if names.contains(where: { $0.hasPrefix("lokr_") }) { return try loKr(path, module) }
    guard var a = module.tensors[LoRARole.a.ending], let b = module.tensors[LoRARole.b.ending] else {
      throw .unpaired(
        path: file.path, module: path,
        present: module.tensors.isEmpty ? "its other tensors" : names.sorted().joined(separator: ", "))
    }
    guard a.shape.count >= 2, b.shape.count >= 2, a.shape[0] == b.shape[1], a.shape[0] > 0 else {
      throw .foreignContent(
        path: file.path,
        reason: "'\(path)' has factors \(a.shape) and \(b.shape); [r, in, …] and [out, r, …] are needed")
    }
    if let core = module.core {
      a = try Self.combined(a, core, path, file.path)
      notes.append("'\(path)': lora_mid multiplied into lora_A, rounded once")
    }
    var tensors = module.tensors
    tensors[LoRARole.a.ending] = a
    if let magnitude = module.magnitude {
      let outputs = b.shape[0]
      guard magnitude.elementCount == outputs,
        magnitude.shape.isEmpty || magnitude.shape.first == outputs || magnitude.shape.count == 4
      else {
        throw .notConvertible(
          path: file.path,
          [
            ConversionObstacle(
              what: "DoRA of '\(path)' with magnitudes \(magnitude.shape)",
              reason: "they belong to inputs, PEFT's to outputs", cure: "merge it with LyCORIS, then extract a LoRA")
          ])
      }
      tensors[LoRARole.magnitude.ending] = magnitude.reshaped(
        a.shape.count > 2 ? [1, outputs] + a.shape.dropFirst(2).map { _ in 1 } : [outputs])
    }
    let rank = a.shape[0]
    return CarriedModule(path: path, tensors: tensors, rank: rank, alpha: Self.alpha(module.alpha, rank))
  }

  /// No alpha, and zero, mean a scale of one.
  private static func alpha(_ stored: Double?, _ rank: Int) -> Double {
    guard let stored, stored != 0 else { return Double(rank) }
    return stored
  }

  /// lora_mid `[r, r', k…]` times lora_down `[r', in, 1…]`: the lora_A `[r, in, k…]` of the same change.
  private static func combined(
    _ down: MadeTensor, _ core: MadeTensor, _ module: String, _ path: String
  ) throws(AdapterError) -> MadeTensor {
    let (rank, input) = (down.shape[0], down.shape[1])
    guard core.shape.count > 2, core.shape[0] == rank, core.shape[1] == rank, down.elementCount == rank * input else {
      throw .foreignContent(
        path: path, reason: "'\(module)' has lora_mid \(core.shape) and lora_down \(down.shape), which do not fit")
    }
    let kernel = Array(core.shape.dropFirst(2))
    let places = kernel.reduce(1, *)
    return MadeTensor(.f64, [rank, input] + kernel) { () throws(AdapterError) in
      let (d, m) = (try down.values(), try core.values())
      var bytes: [UInt8] = []
      for row in 0..<rank {
        for column in 0..<input {
          for place in 0..<places {
            var sum = 0.0
            for inner in 0..<rank { sum += m[(row * rank + inner) * places + place] * d[inner * input + column] }
            for shift in 0..<8 { bytes.append(UInt8(truncatingIfNeeded: sum.bitPattern >> (shift * 8))) }
          }
        }
      }
      return bytes
    }.cast(to: down.dtype)
  }

  private func required(_ module: Module, _ names: [String], _ path: String) throws(AdapterError) {
    for name in names where module.tensors[name] == nil {
      throw .tensorMissing(path: file.path, module: path, tensor: name)
    }
    for (name, tensor) in module.tensors {
      guard tensor.shape.count >= 2, tensor.shape.allSatisfy({ 1...1 << 24 ~= $0 }) else {
        throw .foreignContent(path: file.path, reason: "'\(path).\(name)' has the shape \(tensor.shape)")
      }
    }
    guard module.magnitude == nil else {
      throw .notConvertible(
        path: file.path,
        [
          ConversionObstacle(
            what: "magnitudes of '\(path)'", reason: "PEFT has DoRA for LoRA only",
            cure: "merge it with LyCORIS, then extract a LoRA")
        ])
    }
  }

  private func loHa(_ path: String, _ module: Module) throws(AdapterError) -> CarriedModule {
    try required(module, ["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"], path)
    guard let rank = module.tensors["hada_w1_b"]?.shape.first, rank > 0 else {
      throw .foreignContent(path: file.path, reason: "'\(path)' has no rank")
    }
    return CarriedModule(path: path, tensors: module.tensors, rank: rank, alpha: Self.alpha(module.alpha, rank))
  }

  /// LyCORIS scales by one where both factors are whole, whatever alpha says.
  private func loKr(_ path: String, _ module: Module) throws(AdapterError) -> CarriedModule {
    let tensors = module.tensors
    try required(module, (tensors["lokr_w1"] == nil ? ["lokr_w1_a", "lokr_w1_b"] : []), path)
    try required(module, (tensors["lokr_w2"] == nil ? ["lokr_w2_a", "lokr_w2_b"] : []), path)
    if let rank = (tensors["lokr_w1_b"] ?? tensors["lokr_w2_b"])?.shape.first, rank > 0 {
      return CarriedModule(path: path, tensors: tensors, rank: rank, alpha: Self.alpha(module.alpha, rank))
    }
    // PEFT makes a whole second factor from this rank on.
    let extents = tensors["lokr_w2"]?.shape.prefix(2) ?? []
    let rank = max(1, ((extents.max() ?? 1) + 1) / 2)
    return CarriedModule(path: path, tensors: tensors, rank: rank, alpha: Double(rank))
  }

  // MARK: Parts

  private func adapter(_ component: String, _ modules: [CarriedModule]) throws(AdapterError) -> CarriedAdapter {
    var config = PeftConfig()
    config.inferenceMode = true
    config.peftVersion = PeftConfig.mirroredVersion
    let kinds = Set(modules.map { KohyaMethod(tensors: $0.tensors.keys).type })
    guard kinds.count == 1, let type = kinds.first else {
      throw .notConvertible(
        path: file.path,
        [
          ConversionObstacle(
            what: "\(kinds.map(\.rawValue).sorted().joined(separator: " and ")) in one part (\(component))",
            reason: "an adapter of PEFT has one method", cure: "divide the file by its methods")
        ])
    }
    config.peftType = type
    if let method = AdapterMethod.named(type) {
      config.settings = .object(method.defaultSettings.filter { !PeftConfig.sharedKeys.contains($0.key) })
      try KohyaMethod.complete(&config, modules, path: file.path)
    }
    let adapter = CarriedAdapter(component: component, modules, config: config)
    if let kept = diffusersConfig(component) { return try adapter.with(kept, path: file.path) ?? adapter }
    guard let text = file.metadata.first(where: { $0.key == Self.originKey })?.value.stringValue,
      let json = JSONValue(parsing: text)?[component], let kept = try? PeftConfig(json: json, path: file.path)
    else { return adapter }
    return adapter.adopting(kept) ?? adapter
  }

  private func diffusersConfig(_ component: String) -> PeftConfig? {
    guard let text = file.metadata.first(where: { $0.key == Self.diffusersKey })?.value.stringValue,
      let members = JSONValue(parsing: text)?.members
    else { return nil }
    let own = members.filter { $0.key.hasPrefix("\(component).") }
      .map { JSONValue.Member(String($0.key.dropFirst(component.count + 1)), $0.value) }
    guard !own.isEmpty else { return nil }
    var json = JSONValue.object(own)
    if json["peft_type"] == nil { json["peft_type"] = .string(PeftType.lora.rawValue) }
    return try? PeftConfig(json: json, path: file.path)
  }
}

extension CarriedAdapter {
  /// The tensors as they are under a configuration that says how they are scaled; nil if it is none of these modules.
  fileprivate func with(_ config: PeftConfig, path: String) throws(AdapterError) -> CarriedAdapter? {
    let scaling = try CarriedScaling(config, path: path)
    var adapter = self
    for index in modules.indices {
      let values = try scaling.values(for: modules[index].path)
      guard values.rank == modules[index].rank else { return nil }
      (adapter.modules[index].alpha, adapter.modules[index].scale) = (values.alpha, values.scale)
    }
    adapter.config = config
    adapter.isConfigWhole = true
    return adapter
  }
}
