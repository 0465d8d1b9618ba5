internal import TensorFiles

extension ParameterCounter {
  /// By what the adapter stores, and by what its method trains without storing it.
  ///
  /// Throws `.uncountable` if the file lacks modules that the configuration targets.
  func byWeights(_ file: SafetensorsFile) throws(AdapterError) -> ParameterCount {
    guard let method = AdapterMethod.named(config.peftType) else { return try lora(file) }
    return try stored(method, file)
  }

  // MARK: LoRA

  /// Tensors of LoRA's variants that are buffers: MonteCLoRA's covariance and weights, VeLoRA's projections.
  private static let loraBuffers: Set<String> = ["gaussian_var_prior", "expert_weights"]

  private func lora(_ file: SafetensorsFile) throws(AdapterError) -> ParameterCount {
    if config.arrowConfig != .null || file.entries.contains(where: { $0.name.contains(".lora_arrow") }) {
      throw .uncountable(
        path: configPath, what: "an Arrow router",
        reason: "they are those of the adapters that it mixes, which lie elsewhere.")
    }
    var (trained, frozen) = (0, 0)
    var adapted: Set<ExactName> = []
    let freezesB = config.initLoRAWeights.stringValue?.lowercased() == "mica"
    for entry in file.entries {
      let (name, _) = AdapterName.withoutForeignParts(entry.name)
      let plain = name.hasPrefix(Adapter.prefix) ? String(name.dropFirst(Adapter.prefix.count)) : name
      if plain.hasSuffix(".trainable_tokens_delta") && !isTiedToEmbedding(plain) { trained += entry.elementCount }
      let parts = plain.parts()
      guard let index = parts.firstIndex(where: { $0.hasPrefix("lora_") }) else { continue }
      if Self.loraBuffers.contains(lastPart(plain)) || parts[index].hasPrefix("lora_velora") { continue }
      adapted.insert(AdapterName.withoutWrappers(parts[..<index].joined(separator: ".")))
      // MiCA trains A alone. Source: peft/tuners/lora/variants.py `MiCALinearVariant`, `MiCAEmbeddingVariant`.
      let isB = parts[index] == "lora_B" && entry.shape.count == 2 && parts.last == "weight"
      if freezesB && (isB || parts[index] == "lora_embedding_B") {
        frozen += entry.elementCount
      } else {
        trained += entry.elementCount
      }
    }
    try checkTargets(adapted, file)
    try checkBase(adapted, file)
    return count(trained: trained, frozen: frozen, adapted: adapted)
  }

  /// Whether a tied head's rows are the embedding's, as they are unless the configuration lists rows for each.
  private func isTiedToEmbedding(_ name: String) -> Bool {
    guard let head = parameters.head, parameters.isTied, config.trainableTokenIndices.members == nil else {
      return false
    }
    return name.hasPrefix("\(head).")
  }

  /// PEFT puts LoRA on all that the configuration targets, whatever the file holds.
  private func checkTargets(_ adapted: Set<ExactName>, _ file: SafetensorsFile) throws(AdapterError) {
    guard (config.targetParameters ?? []).isEmpty, config.layerReplication.isEmptyOrFalse else { return }
    let matcher = try TargetMatcher(base.expandingTargets(of: config))
    let endings = Set(exactly: adapted.flatMap { [String(Self.withoutFirst($0.text)), $0.text] })
    var lacking: [String] = []
    for module in base.modules
    where module.kind != .other && !module.isTiedHead && !module.path.holds(".experts.") {
      guard try matcher.verdict(module.path) == .targeted, !adapted.contains(module.path) else { continue }
      // The file's names may have another wrapper before them than the model's.
      if !endings.contains(String(Self.withoutFirst(module.path))) && !endings.contains(module.path) {
        lacking.append(module.path)
      }
    }
    guard let first = lacking.first, !parameters.list.allSatisfy({ $0.path != first }) else { return }
    throw .uncountable(
      path: file.path, what: "an incomplete adapter",
      reason:
        "it lacks \(lacking.count) of the modules that the configuration targets, the first being '\(first)'. Save the "
        + "adapter again.")
  }

  private static func withoutFirst(_ path: String) -> Substring {
    path.firstIndex(of: ".").map { path[path.index(after: $0)...] } ?? path[...]
  }

  /// PEFT leaves unread what an adapter holds for modules that the model lacks.
  private func checkBase(_ adapted: Set<ExactName>, _ file: SafetensorsFile) throws(AdapterError) {
    guard config.layerReplication.isEmptyOrFalse else { return }
    let resolver = NameResolver(base)
    let owners = parameters.list.map(\.path) + base.modules.map(\.path)
    let hasExperts = owners.contains { $0.holds(".experts.") || $0.hasPrefix("experts.") || $0.endsExactly(".experts") }
    // Models keep a layer's experts in one tensor, checkpoints often each apart.
    let paths = adapted.map(\.text).inExactOrder().filter { !($0.contains("experts") && hasExperts) }
    let names = NameEndings(paths)
    let renamed = NameEndings(
      base.family.map { family in paths.map { String(family.renaming.modelName("\($0).").dropLast()) } } ?? [])
    var held: Set<Int> = []
    for owner in owners {
      held.formUnion(names.places(in: owner))
      held.formUnion(renamed.places(in: owner))
    }
    for (place, path) in paths.enumerated() where !held.contains(place) {
      let isFound = try resolver.resolve("\(path).weight") != nil
      if isFound || parameters.isSecondName("\(path).weight") { continue }
      throw .uncountable(
        path: file.path, what: "this adapter",
        reason: "it holds module '\(path)', which the base \(base.path) does not hold under that name. "
          + "Give the base that it was trained on.")
    }
  }

  // MARK: Other methods

  private func stored(_ method: AdapterMethod, _ file: SafetensorsFile) throws(AdapterError) -> ParameterCount {
    var modules: [ExactName: [ExactName: TensorEntry]] = [:]
    var shared = 0
    let names = file.entries.map { entry in
      let inner = AdapterName.withoutForeignParts(entry.name).name
      return inner.hasPrefix(Adapter.prefix) ? String(inner.dropFirst(Adapter.prefix.count)) : inner
    }
    let hasEmbedding = names.contains { name in
      method.split(name).map { !parameters.isSecondName("\($0.path).weight") } ?? false
    }
    for (entry, plain) in zip(file.entries, names) {
      let parts = (method.split(plain)?.role ?? plain.replacing("base_model.", with: "")).parts()
      if parts.contains(where: { method.buffers.contains(String($0)) }) || isSecondNameInShadow(plain) { continue }
      if let (path, role) = method.split(plain) {
        // A tied head's rows are the embedding's, where the embedding has some.
        if method.type.rawValue == "TRAINABLE_TOKENS" && hasEmbedding && parameters.isSecondName("\(path).weight") {
          continue
        }
        modules[path, default: [:]][role] = entry
      } else if method.prefixes.contains(where: { parts.first?.hasPrefix($0) ?? false }) {
        // Tensors of the whole adapter have no module; saved modules and copies of the base are counted elsewhere or not at all.
        shared += entry.elementCount
      }
    }
    var trained = shared + modules.values.reduce(0) { $0 + $1.values.reduce(0) { $0 + $1.elementCount } }
    var frozen = 0
    switch method.type.rawValue {
    case "ADALORA":
      // Each module's rank is a parameter, too; PEFT's cast of adapters on half-precision models leaves it to be trained.
      let halves = modules.keys.filter { isHalf($0.text) }.count
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
        if role.text.hasSuffix("_topk_indices") {
          trained += try product(entry.elementCount / max(1, entry.shape.last ?? 1), vectors)
        }
        if role.text.contains("_topk_") { trained -= entry.elementCount }
      }
    default: break
    }
    return count(trained: trained, frozen: frozen, adapted: Set(modules.keys))
  }

  /// Whether a tensor of SHADOW's second network is one that the network, tied as the base is, has under another name.
  private func isSecondNameInShadow(_ name: String) -> Bool {
    guard let range = name.firstRange(of: "shadow_backbone.") else { return false }
    let rest = String(name[range.upperBound...])
    let inner = rest.parts().dropFirst().joined(separator: ".")
    return parameters.isSecondName(rest) || parameters.isSecondName(inner)
  }

  /// Whether transformers loads a module's weight in half precision; it keeps T5's last projection from float16.
  private func isHalf(_ path: String) -> Bool {
    guard let name = base.storedName("\(path).weight"), let entry = base.checkpoint[name]?.entry else { return false }
    if entry.dtype == .f16 && path.hasSuffix(".wo") && base.modelType?.hasSuffix("t5") == true { return false }
    return entry.dtype == .bf16 || entry.dtype == .f16
  }

  // MARK: What is trained but not stored

  /// The network before the stored prompt. Source: peft/tuners/p_tuning/model.py `PromptEncoder.__init__`.
  private func promptEncoder() throws(AdapterError) -> Int {
    let (size, hidden) = (try integer("token_dim"), try integer("encoder_hidden_size"))
    guard config.settings["encoder_reparameterization_type"]?.stringValue == "LSTM" else {
      return try product(size + 1, hidden) + product(hidden + 1, hidden) + product(hidden + 1, size)
    }
    var lstm = 0
    for layer in 0..<min(try integer("encoder_num_layers"), 1000) {
      // Two directions of four gates, each with two biases.
      lstm += try product(2 * 4, hidden, (layer == 0 ? size : 2 * hidden) + hidden + 2)
    }
    return try lstm + product(2 * hidden + 1, 2 * hidden) + product(2 * hidden + 1, size)
  }

  /// The network whose output is stored. Source: peft/tuners/prefix_tuning/model.py `PrefixEncoder.__init__`.
  private func prefixEncoder() throws(AdapterError) -> Int {
    let (size, hidden) = (try integer("token_dim"), try integer("encoder_hidden_size"))
    let layers = try integer("num_layers")
    guard layers <= 1 << 16 else {
      throw .configValue(
        path: configPath, key: "num_layers", expected: "a whole number from 0 to \(1 << 16)", found: "\(layers)")
    }
    return try product(integer("num_virtual_tokens"), size) + product(size + 1, hidden)
      + product(hidden + 1, layers, 2, size)
  }

  /// Layers share their A in runs, and B all together, though each stores its own: see `LilyGroups`.
  private func lily(_ modules: [ExactName: [ExactName: TensorEntry]]) throws(AdapterError) -> Int {
    let stride = max(1, try integer("stride_A"))
    let groups = LilyGroups(config)
    var members: [LilyGroups.Group: Int] = [:]
    var total = 0
    for path in modules.keys.map(\.text).sorted(by: naturallyPrecedes) {
      guard let tensors = modules[path], let a = tensors["lily_A.weight"], let b = tensors["lily_B.weight"] else {
        continue
      }
      let group = groups.group(path, shape: a.shape + b.shape)
      let index = members[group, default: 0]
      members[group] = index + 1
      if index == 0 { total += b.elementCount }
      if index % stride == 0 { total += a.elementCount }
      total += tensors["lily_router.weight"]?.elementCount ?? 0
    }
    return total
  }
}
