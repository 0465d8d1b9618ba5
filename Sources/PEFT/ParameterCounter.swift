internal import TensorFiles

/// Counts what PEFT would train of one adapter on one base.
struct ParameterCounter {
  let base: BaseModel
  let config: PeftConfig
  let configPath: String
  /// The adapter's weights.
  let file: SafetensorsFile?
  /// Rows that embedding and head had when the adapter was trained, if the adapter shows them to be others than the base's.
  private let vocabulary: Int?
  /// Elements of modules that the adapter stores in full, by path.
  private let savedByModule: [String: Int]

  init(base: BaseModel, config: PeftConfig, configPath: String, file: SafetensorsFile?) {
    self.base = base
    self.config = config
    self.configPath = configPath
    self.file = file
    vocabulary = Self.vocabulary(base, file)
    var saved: [String: Int] = [:]
    for entry in file?.entries ?? []
    where entry.name.hasPrefix(Adapter.prefix) && !entry.name.contains(".lora_")
      && !entry.name.contains(".modules_to_save.") && !entry.name.contains(".original_module.")
    {
      let path = entry.name.dropFirst(Adapter.prefix.count).split(separator: ".").dropLast().joined(separator: ".")
      if config.savesModule(path) { saved[path, default: 0] += entry.elementCount }
    }
    savedByModule = saved
  }

  /// LoRA, by its configuration; by its stored tensors where that does not tell what is trained.
  func lora() throws(AdapterError) -> ParameterCount {
    let scaling = try LoRAScaling(config, path: configPath)
    let targets = try base.targets(of: config)
    var (trained, frozen) = (0, 0)
    if config.storesWhatItsTargetsDoNotTell {
      guard let file else {
        throw .uncountable(
          path: configPath, what: "this LoRA",
          reason: "it is counted by its stored weights; give the adapter's directory.")
      }
      trained = file.entries.filter { $0.name.contains(".lora_") }.reduce(0) { $0 + $1.elementCount }
    } else {
      for module in targets {
        let rank = try scaling.values(for: module.path, leastExtent: module.shape.min() ?? 0).rank
        trained += loraCount(module, rank: rank)
        if case .string("mica") = config.initLoRAWeights {
          // MiCA trains A alone. Source: peft/tuners/lora/variants.py `MiCALinearVariant.init`.
          let b = rank * (module.kind == .embedding ? module.inFeatures : outFeatures(module))
          (trained, frozen) = (trained - b, frozen + b)
        }
      }
    }
    if config.montecloraConfig != .null {
      // Source: peft/tuners/lora/monteclora.py `MontecloraSampler.__init__`.
      let samples = config.montecloraConfig["num_samples"]?.integerValue ?? 8
      for module in targets { trained += try scaling.values(for: module.path).rank + samples }
    }
    var trainableBase = 0
    switch config.bias {
    case "all": trainableBase = biases.reduce(0) { $0 + $1.count }
    case "lora_only":
      let paths = Set(targets.map(\.path))
      trainableBase = biases.filter { paths.contains($0.path) }.reduce(0) { $0 + $1.count }
    default: break
    }
    return count(trained: trained + tokenCount, frozen: frozen, trainableBase: trainableBase)
  }

  /// Another method, by its stored tensors.
  func stored(_ method: AdapterMethod) throws(AdapterError) -> ParameterCount {
    guard let file else { return count(trained: 0, frozen: 0, trainableBase: 0) }
    var modules: [String: [String: TensorEntry]] = [:]
    var shared = 0
    for entry in file.entries {
      let inner = AdapterName.withoutForeignParts(entry.name).name
      let plain = inner.hasPrefix(Adapter.prefix) ? String(inner.dropFirst(Adapter.prefix.count)) : inner
      let parts = (method.split(plain)?.role ?? plain.replacing("base_model.", with: "")).split(separator: ".")
      if parts.contains(where: { method.buffers.contains(String($0)) }) { continue }
      if let (path, role) = method.split(plain) {
        // A tied head's rows are the embedding's.
        if weight(of: path) == nil && base.isTied && method.type.rawValue == "TRAINABLE_TOKENS" { continue }
        modules[path, default: [:]][role] = entry
      } else if method.prefixes.contains(where: { parts.first?.hasPrefix($0) ?? false }) {
        // Tensors of the whole adapter have no module; saved modules and copies of the base are counted below or not at all.
        shared += entry.elementCount
      }
    }
    var trained = shared + modules.values.reduce(0) { $0 + $1.values.reduce(0) { $0 + $1.elementCount } }
    var frozen = 0
    switch method.type.rawValue {
    case "ADALORA":
      // Each module's rank is a parameter, too; PEFT's cast of adapters on half-precision models leaves it to be trained.
      let halves = modules.keys.filter { weight(of: $0).map { $0.dtype == .bf16 || $0.dtype == .f16 } ?? false }.count
      trained += halves
      frozen = modules.count - halves
    case "CARTRIDGE":
      let (all, still) = (try integer("num_virtual_tokens"), try integer("num_frozen_tokens"))
      if all >= still, all > 0 {
        frozen = trained - trained / all * (all - still)
        trained -= frozen
      }
    case "CPT": frozen = trained  // The prompt's embedding, beside what is learnt to be added to it.
    case "P_TUNING": trained += try promptEncoder()
    case "PREFIX_TUNING" where config.settings["prefix_projection"] == .bool(true): trained = try prefixEncoder()
    case "LILY": trained = try lily(modules)
    case "VBLORA" where config.settings["save_only_topk_weights"] == .bool(true):
      let vectors = try integer("num_vectors")
      for (role, entry) in modules.values.joined() {
        if role.hasSuffix("_topk_indices") { trained += entry.shape.dropLast().reduce(1, *) * vectors }
        if role.contains("_topk_") { trained -= entry.elementCount }
      }
    default: break
    }
    return count(trained: trained, frozen: frozen, trainableBase: 0)
  }

  private func count(trained: Int, frozen: Int, trainableBase: Int) -> ParameterCount {
    let saved = savedCounts
    return ParameterCount(
      trainable: trained + trainableBase + saved.copies,
      all: baseCount + trained + frozen + saved.copies + saved.missing)
  }

  private func integer(_ key: String) throws(AdapterError) -> Int {
    let found = config.settings[key] ?? .null
    guard let value = found.integerValue, (0...1 << 40).contains(value) else {
      throw .configValue(path: configPath, key: key, expected: "a whole number from 0", found: found.compactText)
    }
    return value
  }

  // MARK: What is trained but not stored

  /// The network before the stored prompt. Source: peft/tuners/p_tuning/model.py `PromptEncoder.__init__`.
  private func promptEncoder() throws(AdapterError) -> Int {
    let (size, hidden) = (try integer("token_dim"), try integer("encoder_hidden_size"))
    guard config.settings["encoder_reparameterization_type"]?.stringValue == "LSTM" else {
      return (size + 1) * hidden + (hidden + 1) * hidden + (hidden + 1) * size
    }
    var lstm = 0
    for layer in 0..<min(try integer("encoder_num_layers"), 1000) {
      // Two directions of four gates, each with two biases.
      lstm += 2 * 4 * hidden * ((layer == 0 ? size : 2 * hidden) + hidden + 2)
    }
    return lstm + (2 * hidden + 1) * 2 * hidden + (2 * hidden + 1) * size
  }

  /// The network whose output is stored. Source: peft/tuners/prefix_tuning/model.py `PrefixEncoder.__init__`.
  private func prefixEncoder() throws(AdapterError) -> Int {
    let (size, hidden) = (try integer("token_dim"), try integer("encoder_hidden_size"))
    return try integer("num_virtual_tokens") * size + (size + 1) * hidden + (hidden + 1) * integer("num_layers") * 2
      * size
  }

  /// Layers share their A in runs, and B all together, though each stores its own.
  ///
  /// Source: peft/tuners/lily/model.py `LilyModel._post_injection_hook`.
  private func lily(_ modules: [String: [String: TensorEntry]]) throws(AdapterError) -> Int {
    struct Group: Hashable {
      let suffix: String
      let shape: [Int]
    }
    let stride = max(1, try integer("stride_A"))
    var members: [Group: Int] = [:]
    var total = 0
    for path in modules.keys.sorted(by: naturallyPrecedes) {
      guard let tensors = modules[path], let a = tensors["lily_A.weight"], let b = tensors["lily_B.weight"] else {
        continue
      }
      var suffix = ""
      if case .names(let names)? = config.targetModules { suffix = names.last { path.hasSuffix($0) } ?? "" }
      let group = Group(suffix: suffix, shape: a.shape + b.shape)
      let index = members[group, default: 0]
      members[group] = index + 1
      if index == 0 { total += b.elementCount }
      if index % stride == 0 { total += a.elementCount }
      total += tensors["lily_router.weight"]?.elementCount ?? 0
    }
    return total
  }

  // MARK: Modules

  private func weight(of path: String) -> TensorEntry? {
    base.fileNames["\(path).weight"].flatMap { base.checkpoint[$0]?.entry }
  }

  /// Rows of the embedding or head in the adapter, where they differ from the base's.
  private static func vocabulary(_ base: BaseModel, _ file: SafetensorsFile?) -> Int? {
    let paths = [base.family?.embedding, base.family?.head].compactMap { $0 }
    for path in paths {
      guard let module = base.modules.first(where: { $0.path == path }), let rows = module.shape.first else { continue }
      for ending in ["base_layer.weight", "token_adapter.base_layer.weight", "weight", "modules_to_save.weight"] {
        if let found = file?["\(Adapter.prefix)\(path).\(ending)"]?.shape.first, found != rows { return found }
      }
    }
    return nil
  }

  private func isVocabularySized(_ module: BaseModel.Module) -> Bool {
    module.path == base.family?.embedding || module.path == base.family?.head
  }

  /// The weight's shape, with the rows that it had when the adapter was trained.
  private func shape(_ module: BaseModel.Module) -> [Int] {
    guard let vocabulary, isVocabularySized(module) else { return module.shape }
    return [vocabulary] + module.shape.dropFirst()
  }

  private func outFeatures(_ module: BaseModel.Module) -> Int {
    module.kind == .transposedLinear ? module.outFeatures : shape(module).first ?? 1
  }

  private func loraCount(_ module: BaseModel.Module, rank: Int) -> Int {
    let kernel = module.kind == .convolution ? module.shape.dropFirst(2).reduce(1, *) : 1
    let magnitude = config.useDoRA ? (module.kind == .embedding ? module.inFeatures : outFeatures(module)) : 0
    let bias = config.loraBias ? outFeatures(module) : 0
    return rank * (module.inFeatures * kernel + outFeatures(module)) + magnitude + bias
  }

  /// Biases by the path of their module.
  private var biases: [(path: String, count: Int)] {
    base.modules.compactMap { module in
      guard !module.isTiedHead else { return nil }
      let name = module.weightName.dropLast("weight".count) + "bias"
      return base.checkpoint[String(name)].map { (module.path, $0.entry.elementCount) }
    }
  }

  /// Parameters of saved modules: their copies, and the originals that the checkpoint lacks.
  private var savedCounts: (copies: Int, missing: Int) {
    var copies = 0
    var found: Set<String> = []
    for module in base.modules where config.savesModule(module.path) {
      let bias = String(module.weightName.dropLast("weight".count) + "bias")
      copies += shape(module).reduce(1, *)
      if !module.isTiedHead { copies += base.checkpoint[bias]?.entry.elementCount ?? 0 }
      found.insert(module.path)
    }
    var missing = 0
    for (path, count) in savedByModule where !found.contains(path) {
      copies += count
      missing += count
    }
    return (copies, missing)
  }

  private var tokenCount: Int {
    let setting = config.trainableTokenIndices
    return base.modules.reduce(0) { sum, module in
      guard !module.isTiedHead else { return sum }
      let listed =
        setting.members?.first { TargetMatcher.matches([Substring($0.key)], module.path) }?.value.elements
        ?? (module.path == base.family?.embedding ? setting.elements : nil)
      return sum + (listed?.count ?? 0) * (module.shape.last ?? 0)
    }
  }

  /// Parameters of the base: the checkpoint's tensors but buffers, second names of tied weights, and a head that the task
  /// does not use.
  private var baseCount: Int {
    let (family, checkpoint) = (base.family, base.checkpoint)
    let headless = !BaseModel.hasLanguageHead(taskType: config.taskType, config: base.config)
    let ignored = [family?.head].compactMap { $0 }.flatMap { head in
      [head, family?.fileNames[head] ?? head].map { "\($0)." }
    }
    // A tied head is the embedding's second name, unless the checkpoint holds it alone.
    let isSecondName = base.isTied && family?.embedding.map { base.storedName("\($0).weight") == nil } != true
    var count = 0
    for shard in checkpoint.shards {
      for entry in shard.entries where !Self.isBuffer(entry.name, entry.shape) {
        let isHead = ignored.contains { entry.name.hasPrefix($0) }
        if isHead && (headless || (isSecondName && entry.name.hasSuffix(".weight"))) { continue }
        if base.isTied && Self.isTiedSecondName(entry.name, checkpoint) { continue }
        count += entry.elementCount
      }
    }
    if !headless, !base.isTied, let head = family?.head,
      let embedding = family?.embedding, !base.modules.contains(where: { $0.path == head }),
      let source = base.modules.first(where: { $0.path == embedding })
    {
      count += source.shape.reduce(1, *)
    }
    for module in base.modules where isVocabularySized(module) && !module.isTiedHead {
      if headless && module.path == family?.head { continue }
      if base.isTied && module.path != family?.embedding { continue }
      count += shape(module).reduce(1, *) - module.shape.reduce(1, *)
    }
    return count
  }

  /// Names under which encoder-decoder checkpoints may store the shared embedding again.
  private static func isTiedSecondName(_ name: String, _ checkpoint: Checkpoint) -> Bool {
    let hasShared = checkpoint["shared.weight"] != nil || checkpoint["model.shared.weight"] != nil
    return hasShared
      && (name.hasSuffix("encoder.embed_tokens.weight") || name.hasSuffix("decoder.embed_tokens.weight"))
  }

  private static func isBuffer(_ name: String, _ shape: [Int]) -> Bool {
    let endings = [
      "rotary_emb.inv_freq", "position_ids", ".running_mean", ".running_var", ".num_batches_tracked",
      "final_logits_bias", "e_score_correction_bias", ".masked_bias", "attn.causal_mask", "embed_positions.weights",
      "relative_position_index", "maybe_rotary.inv_freq", "encoder.version", "decoder.version",
    ]
    if endings.contains(where: { name.hasSuffix($0) }) { return true }
    // Causal masks of early GPT checkpoints: attn.bias, attention.bias of shape [1, 1, n, n].
    return name.hasSuffix(".bias") && shape.count == 4
  }
}

extension PeftConfig {
  /// True where modules or ranks are not those of `target_modules` and `r` alone: target_parameters, replicated layers, block-diagonal
  /// factors, KaSA's diagonal. What is trained is then what is stored.
  fileprivate var storesWhatItsTargetsDoNotTell: Bool {
    !(targetParameters ?? []).isEmpty || !layerReplication.isEmptyOrFalse || !useBDLoRA.isEmptyOrFalse
      || kasaConfig != .null
  }
}
