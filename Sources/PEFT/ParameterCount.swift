public import TensorFiles

/// Trainable and all parameters, counted and printed as PEFT does.
public struct ParameterCount: Sendable, Hashable {
  /// Parameters that training changes.
  public let trainable: Int
  /// Parameters of the model with its adapter; tied weights count once, buffers not at all.
  public let all: Int

  public init(trainable: Int, all: Int) {
    self.trainable = trainable
    self.all = all
  }
}

extension ParameterCount: CustomStringConvertible {
  /// PEFT's line. Source: peft/peft_model.py `PeftModel.print_trainable_parameters`.
  public var description: String {
    let percent = all == 0 ? 0 : 100 * Double(trainable) / Double(all)
    return "trainable params: \(grouped(trainable)) || all params: \(grouped(all)) || trainable%: \(fixed(percent, 4))"
  }
}

/// A whole number with a comma between thousands.
public func grouped(_ number: Int) -> String {
  var text = ""
  for (index, digit) in String(number.magnitude).reversed().enumerated() {
    if index > 0 && index % 3 == 0 { text.append(",") }
    text.append(digit)
  }
  return (number < 0 ? "-" : "") + String(text.reversed())
}

/// A number with a fixed count of decimals, rounded to nearest, ties of the exact binary value to even.
public func fixed(_ value: Double, _ decimals: Int) -> String {
  guard value.isFinite, abs(value) < 1e15 else { return "\(value)" }
  var scale = 1
  for _ in 0..<decimals { scale *= 10 }
  let product = value.magnitude * Double(scale)
  var units = Int(product.rounded(.down))
  // The product's rounding error tells which side of a tie the exact value lies on.
  let rest = (-Double(units)).addingProduct(value.magnitude, Double(scale))
  if rest > 0.5 || (rest == 0.5 && units % 2 == 1) { units += 1 }
  let sign = value < 0 && units > 0 ? "-" : ""
  guard decimals > 0 else { return sign + String(units) }
  let fraction = String(units % scale)
  return sign + "\(units / scale)." + String(repeating: "0", count: decimals - fraction.count) + fraction
}

extension BaseModel {
  /// What PEFT counts after it has put a LoRA of this configuration on this base.
  ///
  /// - Parameter weights: the adapter's file, if there is one: tells the size of saved modules that the base lacks.
  /// Source: peft/peft_model.py `PeftModel.get_nb_trainable_parameters`.
  /// Throws what `targets(of:)` and `LoRAScaling` throw, and `.uncountable` for another method: see `parameterCount(of:storedIn:)`.
  public func parameterCount(
    of config: PeftConfig, configPath: String, weights: Adapter.SavedSizes = .none
  ) throws(AdapterError) -> ParameterCount {
    guard config.peftType == .lora else {
      throw .uncountable(
        path: configPath, what: "peft_type \(config.peftType.rawValue)",
        reason: "it is counted by its stored weights; give the adapter's directory.")
    }
    let scaling = try LoRAScaling(config, path: configPath)
    var adapterCount = 0
    var trainableBase = 0
    let targets = try targets(of: config)
    if config.storesWhatItsTargetsDoNotTell {
      guard let stored = weights.loraCount else {
        throw .uncountable(
          path: configPath, what: "this LoRA",
          reason: "it is counted by its stored weights; give the adapter's directory.")
      }
      adapterCount = stored
    } else if config.montecloraConfig != .null {
      throw .uncountable(
        path: configPath, what: "MonteCLoRA", reason: "what is stored is not what is trained.")
    } else {
      for module in targets {
        adapterCount += try loraCount(module, rank: scaling.values(for: module.path).rank, config)
      }
    }
    switch config.bias {
    case "all": trainableBase = biases.reduce(0) { $0 + $1.count }
    case "lora_only":
      let paths = Set(targets.map(\.path))
      trainableBase = biases.filter { paths.contains($0.path) }.reduce(0) { $0 + $1.count }
    default: break
    }
    let saved = savedCounts(config, weights)
    let trainable = adapterCount + trainableBase + saved.copies + tokenCount(config)
    return ParameterCount(
      trainable: trainable,
      all: baseCount(taskType: config.taskType) + adapterCount + saved.copies + saved.missing + tokenCount(config))
  }

  /// What PEFT counts for an adapter of another method than LoRA: the stored parameters, and the base's.
  ///
  /// Throws `.uncountable` for LoRA, and where the trained parameters are not those that are stored, such as encoders of prompts.
  public func parameterCount(
    of config: PeftConfig, storedIn file: SafetensorsFile
  ) throws(AdapterError) -> ParameterCount {
    let name = config.peftType.rawValue
    guard let method = AdapterMethod.named(config.peftType) else {
      throw .uncountable(path: file.path, what: "peft_type \(name)", reason: "it is counted by its configuration.")
    }
    if name == "P_TUNING" || (name == "PREFIX_TUNING" && config.settings["prefix_projection"] == .bool(true))
      || config.settings["save_only_topk_weights"] == .bool(true) || name == "LILY"
    {
      throw .uncountable(
        path: file.path, what: name, reason: "what is stored is not what is trained.")
    }
    var (stored, modules) = (0, Set<String>())
    for entry in file.entries {
      let inner = AdapterName.withoutForeignParts(entry.name).name
      let plain = inner.hasPrefix(Adapter.prefix) ? String(inner.dropFirst(Adapter.prefix.count)) : inner
      let parts = (method.split(plain)?.role ?? plain.replacing("base_model.", with: "")).split(separator: ".")
      if parts.contains(where: { method.buffers.contains(String($0)) }) { continue }
      guard let (path, _) = method.split(plain) else {
        // Tensors of the whole adapter have no module; saved modules and copies of the base are counted below or not at all.
        if method.prefixes.contains(where: { parts.first?.hasPrefix($0) ?? false }) { stored += entry.elementCount }
        continue
      }
      // A tied head's rows are the embedding's.
      if base(of: path) == nil && isTied && name == "TRAINABLE_TOKENS" { continue }
      stored += entry.elementCount
      modules.insert(path)
    }
    let saved = savedCounts(config, Adapter.savedSizes(config, in: file))
    // AdaLoRA holds each module's rank as a parameter that is not trained.
    var untrained = name == "ADALORA" ? modules.count : 0
    var trained = stored
    if name == "CARTRIDGE", let frozen = config.settings["num_frozen_tokens"]?.integerValue,
      let tokens = config.settings["num_virtual_tokens"]?.integerValue, tokens >= frozen, frozen >= 0, tokens > 0
    {
      trained = stored / tokens * (tokens - frozen)
      untrained = stored - trained
    }
    // CPT keeps the prompt's embedding beside what it learns to add to it.
    if name == "CPT" { untrained = stored }
    return ParameterCount(
      trainable: trained + saved.copies,
      all: baseCount(taskType: config.taskType) + trained + untrained + saved.copies + saved.missing)
  }

  private func base(of path: String) -> TensorEntry? {
    fileNames["\(path).weight"].flatMap { checkpoint[$0]?.entry }
  }

  private func loraCount(_ module: Module, rank: Int, _ config: PeftConfig) -> Int {
    let kernel = module.kind == .convolution ? module.shape.dropFirst(2).reduce(1, *) : 1
    let embedding = module.kind == .embedding
    let magnitude = config.useDoRA ? (embedding ? module.inFeatures : module.outFeatures) : 0
    let bias = config.loraBias ? module.outFeatures : 0
    return rank * (module.inFeatures * kernel + module.outFeatures) + magnitude + bias
  }

  /// Biases by the path of their module.
  private var biases: [(path: String, count: Int)] {
    modules.compactMap { module in
      guard !module.isTiedHead else { return nil }
      let name = module.weightName.dropLast("weight".count) + "bias"
      return checkpoint[String(name)].map { (module.path, $0.entry.elementCount) }
    }
  }

  /// Parameters of saved modules: their copies, and the originals that the checkpoint lacks.
  private func savedCounts(
    _ config: PeftConfig, _ sizes: Adapter.SavedSizes
  ) -> (copies: Int, missing: Int) {
    var copies = 0
    var found: Set<String> = []
    for module in modules where config.savesModule(module.path) {
      let bias = String(module.weightName.dropLast("weight".count) + "bias")
      copies += module.shape.reduce(1, *)
      if !module.isTiedHead { copies += checkpoint[bias]?.entry.elementCount ?? 0 }
      found.insert(module.path)
    }
    var missing = 0
    for (path, count) in sizes.countByModule where !found.contains(path) {
      copies += count
      missing += count
    }
    return (copies, missing)
  }

  private func tokenCount(_ config: PeftConfig) -> Int {
    let setting = config.trainableTokenIndices
    let embedding = family?.embedding
    return modules.reduce(0) { sum, module in
      guard !module.isTiedHead else { return sum }
      let listed =
        setting.members?.first { TargetMatcher.matches([Substring($0.key)], module.path) }?.value.elements
        ?? (module.path == embedding ? setting.elements : nil)
      return sum + (listed?.count ?? 0) * (module.shape.last ?? 0)
    }
  }

  /// Parameters of the base: the checkpoint's tensors but buffers, second names of tied weights, and a head that the task
  /// does not use.
  private func baseCount(taskType: String?) -> Int {
    let headless = !Self.hasLanguageHead(taskType: taskType, config: config)
    let ignored = [family?.head].compactMap { $0 }.flatMap { head in
      [head, family?.fileNames[head] ?? head].map { "\($0)." }
    }
    var count = 0
    for shard in checkpoint.shards {
      for entry in shard.entries where !Self.isBuffer(entry.name, entry.shape) {
        let isHead = ignored.contains { entry.name.hasPrefix($0) }
        if isHead && (headless || (isTied && entry.name.hasSuffix(".weight"))) { continue }
        if isTied && Self.isTiedSecondName(entry.name, checkpoint) { continue }
        count += entry.elementCount
      }
    }
    if !headless, !isTied, let head = family?.head,
      let embedding = family?.embedding, !modules.contains(where: { $0.path == head }),
      let source = modules.first(where: { $0.path == embedding })
    {
      count += source.shape.reduce(1, *)
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

extension Adapter {
  /// Sizes of modules that an adapter stores in full.
  public struct SavedSizes: Sendable {
    /// Elements by module path.
    public let countByModule: [String: Int]
    /// Elements of all LoRA tensors; nil without a file.
    public let loraCount: Int?
    /// Nothing known.
    public static let none = SavedSizes(countByModule: [:], loraCount: nil)
  }

  /// The sizes of the modules in `file` that `config` names in `modules_to_save`.
  public static func savedSizes(_ config: PeftConfig, in file: SafetensorsFile) -> SavedSizes {
    var counts: [String: Int] = [:]
    for entry in file.entries
    where entry.name.hasPrefix(prefix) && !entry.name.contains(".lora_")
      && !entry.name.contains(".modules_to_save.")
    {
      let path = entry.name.dropFirst(prefix.count).split(separator: ".").dropLast().joined(separator: ".")
      if config.savesModule(path) {
        counts[path, default: 0] += entry.elementCount
      }
    }
    let lora = file.entries.filter { $0.name.contains(".lora_") }.reduce(0) { $0 + $1.elementCount }
    return SavedSizes(countByModule: counts, loraCount: lora)
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
