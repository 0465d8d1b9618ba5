internal import TensorFiles

extension CarriedAdapter {
  /// What a PEFT adapter holds.
  ///
  /// Throws `.unpaired`, `.rankMismatch`, `.tensorRepeated`, `.adapterDType`, and what `LoRAScaling` throws.
  init(_ stored: StoredAdapter, component: String? = nil) throws(AdapterError) {
    guard let method = KohyaMethod(peft: stored.config.peftType) else {
      // Carried by PEFT's form alone, tensor by tensor.
      self.init(component: component, [], config: stored.config, isConfigWhole: true)
      for entry in stored.weights.entries {
        extraTensors[ExactName(entry.name)] = MadeTensor(entry, of: stored.weights.file)
      }
      return
    }
    let (tensors, others) = try Self.sorted(stored, method)
    let modules = try Self.modules(tensors, stored)
    self.init(component: component, modules, config: stored.config, isConfigWhole: true)
    addExtras(others, of: stored)
  }

  private static func sorted(
    _ stored: StoredAdapter, _ method: KohyaMethod
  ) throws(AdapterError) -> (factors: [ExactName: [String: MadeTensor]], others: [TensorEntry]) {
    let file = stored.weights
    var tensors: [ExactName: [String: MadeTensor]] = [:]
    var others: [TensorEntry] = []
    for entry in file.entries {
      guard let name = AdapterName.inModel(entry.name), let part = method.split(name) else {
        others.append(entry)
        continue
      }
      if !entry.dtype.isComputable { throw .adapterDType(path: file.path, tensor: entry.name, dtype: entry.dtype) }
      var found = tensors[part.path] ?? [:]
      if found[part.ending] != nil {
        throw .tensorRepeated(path: file.path, tensor: entry.name, other: "\(part.path).\(part.ending)")
      }
      found[part.ending] = MadeTensor(entry, of: file.file)
      tensors[part.path] = found
    }
    return (tensors, others)
  }

  private static func modules(
    _ tensors: [ExactName: [String: MadeTensor]], _ stored: StoredAdapter
  ) throws(AdapterError) -> [CarriedModule] {
    let scaling = try CarriedScaling(stored.config, path: stored.configPath)
    var modules: [CarriedModule] = []
    for (path, found) in tensors {
      let values = try scaling.values(for: path.text)
      let module = CarriedModule(
        path: path.text, tensors: found, rank: values.rank, alpha: values.alpha, scale: values.scale)
      if stored.config.peftType == .lora { try checkFactors(module, stored) }
      modules.append(module)
    }
    return modules
  }

  private mutating func addExtras(_ entries: [TensorEntry], of stored: StoredAdapter) {
    for entry in entries {
      extras.append(AdapterName.inModel(entry.name).map { Self.extra($0, config) } ?? .unknown(name: entry.name))
      extraTensors[ExactName(entry.name)] = MadeTensor(entry, of: stored.weights.file)
    }
    for module in modules {
      if module[.bias] != nil { extras.append(.factorBias(module: module.path)) }
      if module[.diagonal] != nil { extras.append(.diagonal(module: module.path)) }
    }
  }

  private static func checkFactors(_ module: CarriedModule, _ stored: StoredAdapter) throws(AdapterError) {
    let file = stored.weights.path
    guard let a = module.a else { throw .unpaired(path: file, module: module.path, present: "its other tensors") }
    guard let b = module.b else { throw .unpaired(path: file, module: module.path, present: "lora_A") }
    guard a.shape.count >= 2, b.shape.count >= 2, a.shape[0] == module.rank, b.shape[1] == module.rank else {
      throw .rankMismatch(
        path: file, module: module.path, expectedRank: module.rank, shapeA: a.shape, shapeB: b.shape)
    }
  }

  private static func extra(_ name: String, _ config: PeftConfig) -> Extra {
    let rows = ".token_adapter.trainable_tokens_delta"
    if name.hasSuffix(rows) { return .tokenRows(module: String(name.dropLast(rows.count))) }
    if name.hasSuffix(".base_layer.weight") {
      return .baseCopy(module: String(name.dropLast(".base_layer.weight".count)).replacing(".token_adapter", with: ""))
    }
    let plain = AdapterName.withoutWrappers(name)
    let module = plain.parts().dropLast().joined(separator: ".")
    if !config.savesModule(module), plain.hasSuffix(".bias"), config.bias != "none" { return .bias(name: plain) }
    return name.contains(LoRARole.mark) ? .unknown(name: name) : .whole(name: plain)
  }

  // MARK: Back

  /// PEFT's configuration of these modules: the one that they came with, or one that the modules say.
  ///
  /// Modules are targeted by their whole paths, so that nothing else of any model is.
  var peftConfig: PeftConfig {
    guard !isConfigWhole else { return config }
    var config = config
    let isLoRA = config.peftType == .lora
    let pairs = modules.map { RankAndAlpha(rank: $0.rank, alpha: $0.alpha) }
    let usual = Self.mostFrequent(pairs) ?? RankAndAlpha(rank: 8, alpha: 8)
    let ranks = modules.filter { $0.rank != usual.rank }.map { PatternMap.Entry(Self.pattern($0.path), $0.rank) }
    let alphas = modules.filter { $0.alpha != usual.alpha }
      .map { PatternMap.Entry(Self.pattern($0.path), PythonNumber(shortest: $0.alpha)) }
    config.targetModules = .names(modules.map(\.path))
    // PEFT takes a name for the end of a path too, and blocks of Flux's transformer end in that of its last layer.
    if component == "transformer", modules.contains(where: { $0.path == "proj_out" }) {
      config.targetModules = .pattern(modules.map { $0.path.replacing(".", with: "\\.") }.joined(separator: "|"))
    }
    if isLoRA {
      config.rank = usual.rank
      config.alpha = PythonNumber(shortest: usual.alpha)
      config.rankPattern = PatternMap(ranks)
      config.alphaPattern = PatternMap(alphas)
      config.useDoRA = hasMagnitudes
      config.loraBias = modules.contains { $0[.bias] != nil }
      config.useRSLoRA = false
    } else {
      config.settings["r"] = .integer(usual.rank)
      config.settings["alpha"] = PythonNumber(shortest: usual.alpha).json
      config.settings["rank_pattern"] = PatternMap(ranks).json
      config.settings["alpha_pattern"] = PatternMap(alphas).json
    }
    return config
  }

  /// A key of a pattern for one path: a name alone would match the end of others as well.
  private static func pattern(_ path: String) -> String { path.contains(".") ? path : "^\(path)" }

  private struct RankAndAlpha: Hashable {
    let rank: Int
    let alpha: Double
  }

  /// The tensors by their names in PEFT's file.
  var peftTensors: [NamedTensor] {
    var tensors = extraTensors.map { NamedTensor($0.key.text, $0.value) }
    for module in modules {
      for (ending, tensor) in module.tensors {
        tensors.append(NamedTensor("\(Adapter.prefix)\(module.path).\(ending)", tensor))
      }
    }
    return tensors
  }

  /// The adapter as PEFT's, in memory. Throws as `StoredAdapter.init`.
  func stored(named name: String) throws(AdapterError) -> StoredAdapter {
    let tensors = peftTensors
    let items = tensors.map { AdapterSink.Item(name: $0.name, dtype: $0.tensor.dtype, shape: $0.tensor.shape) }
    return try StoredAdapter(peftConfig, items, named: name) { sink throws(AdapterError) in
      for named in tensors {
        let bytes = try named.tensor.bytes()
        try sink.write(bytes.span.bytes, to: named.name)
      }
    }
  }

  /// The adapter with a configuration that a file in another form keeps: its ranks where more was padded, its scale where
  /// another was folded in. Nil if it is no configuration of these modules.
  func adopting(_ config: PeftConfig) -> CarriedAdapter? {
    guard config.peftType == self.config.peftType else { return nil }
    if config.peftType == .lora, config.useDoRA != hasMagnitudes { return nil }
    var adapter = self
    var folded = 0
    do throws(AdapterError) {
      let scaling = try CarriedScaling(config, path: PeftConfig.fileName)
      for index in modules.indices {
        let values = try scaling.values(for: modules[index].path)
        guard let restored = try modules[index].restored(values, isLoRA: config.peftType == .lora) else { return nil }
        adapter.modules[index] = restored
        if restored.scale != modules[index].scale, Float(restored.scale) != Float(modules[index].scale) { folded += 1 }
      }
    } catch {
      return nil
    }
    if folded > 0 {
      adapter.notes.append(
        "\(folded) module\(folded == 1 ? "" : "s") multiplied back to the scale of PEFT's configuration: within one unit in the "
          + "last place")
    }
    adapter.config = config
    adapter.isConfigWhole = true
    return adapter
  }
}

extension CarriedModule {
  /// The module with a rank and a scale that it had before it was padded and folded; nil if it never had them.
  fileprivate func restored(
    _ values: (rank: Int, alpha: Double, scale: Double), isLoRA: Bool
  ) throws(AdapterError) -> CarriedModule? {
    if !isLoRA { return restoredProduct(values) }
    guard values.rank <= rank else { return nil }
    var restored = self
    if values.rank < rank {
      restored[.a] = self[.a]?.rows(0..<values.rank)
      restored[.embeddingA] = self[.embeddingA]?.rows(0..<values.rank)
      restored[.b] = self[.b]?.columns(0..<values.rank)
      restored[.embeddingB] = self[.embeddingB]?.columns(0..<values.rank)
      guard let b else { return nil }
      let rest = try b.columns(values.rank..<rank).bytes()
      guard rest.allSatisfy({ $0 == 0 }) else { return nil }
      restored.rank = values.rank
    }
    // A scale that a file holds in 32 bits may be off by its rounding alone.
    if Float(values.scale) != Float(scale) { restored = restored.folded(to: values.scale) }
    restored.scale = values.scale
    restored.alpha = values.alpha
    return restored
  }
}

extension CarriedModule {
  /// LoHa and LoKr. Where both factors of a LoKr are whole, their shapes tell no rank, and the scale was multiplied into the first.
  private func restoredProduct(_ values: (rank: Int, alpha: Double, scale: Double)) -> CarriedModule? {
    guard let first = tensors["lokr_w1"], let second = tensors["lokr_w2"] else {
      return values.rank == rank && values.scale == scale ? withAlpha(values) : nil
    }
    let extents = second.shape.prefix(2)
    guard 2 * values.rank >= extents.max() ?? 0, values.scale != 0 else { return nil }
    var restored = withAlpha(values)
    restored.tensors["lokr_w1"] = first.scaled(by: scale / values.scale)
    return restored
  }

  private func withAlpha(_ values: (rank: Int, alpha: Double, scale: Double)) -> CarriedModule {
    CarriedModule(path: path, tensors: tensors, rank: values.rank, alpha: values.alpha, scale: values.scale)
  }
}

/// Rank, alpha and scale of modules of the methods that have other forms than PEFT's.
struct CarriedScaling {
  private let lora: LoRAScaling
  private let isRankStabilised: Bool

  init(_ config: PeftConfig, path: String) throws(AdapterError) {
    var plain = config
    if config.peftType != .lora {
      // LoHa and LoKr keep the same four settings under other keys.
      plain.rank = try Self.setting("r", of: config, path)
      plain.alpha = try Self.setting("alpha", of: config, path) as PythonNumber
      plain.rankPattern = try Self.setting("rank_pattern", of: config, path)
      plain.alphaPattern = try Self.setting("alpha_pattern", of: config, path)
    }
    lora = try LoRAScaling(plain, path: path)
    isRankStabilised = plain.useRSLoRA
  }

  private static func setting<Value: ConfigValue>(
    _ key: String, of config: PeftConfig, _ path: String
  ) throws(AdapterError) -> Value {
    let json = config.settings[key] ?? .null
    guard let value = Value(json: json) else {
      throw .configValue(path: path, key: key, expected: Value.expectation, found: json.compactText)
    }
    return value
  }

  func values(for module: String) throws(AdapterError) -> (rank: Int, alpha: Double, scale: Double) {
    let values = try lora.values(for: module)
    let alpha =
      isRankStabilised ? values.alpha.doubleValue * Double(values.rank).squareRoot() : values.alpha.doubleValue
    return (values.rank, alpha, values.scale)
  }
}

extension PythonNumber {
  /// A whole number where it is one.
  init(shortest value: Double) {
    self = Int(exactly: value).map { .integer($0) } ?? .real(value)
  }
}
