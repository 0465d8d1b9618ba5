internal import TensorFiles

/// The steps of making a plan.
struct MergePlanMaker {
  let base: BaseModel
  let adapter: Adapter
  let options: MergeOptions

  /// Updates by the name of the output tensor.
  var updates: [String: LoRAUpdate] = [:]
  /// Biases to be added, by the name of the output tensor.
  var biases: [String: LoRABias] = [:]
  /// Replaced rows by the name of the output tensor.
  var tokens: [String: TokenReplacement] = [:]
  /// Replacing adapter tensors by the name of the output tensor.
  var replacements: [String: Adapter.Replacement] = [:]
  /// Output tensors that the base does not have, in order.
  var added: [String] = []
  /// True if config.json must say that the head is not tied.
  var unties = false
  /// The embedding that a tied head keeps the weight of, while the embedding itself is replaced.
  var keptHead: String?
  var notes: [String] = []

  /// The base's modules by the name of their weight; a tied head has none of its own.
  let kinds: [String: BaseModel.Module.Kind]
  /// The adapter's own copies of base weights, by the name of lora_A.
  let baseCopies: [String: TensorEntry]
  /// The head that the checkpoint does not hold because it is tied.
  let tiedHead: BaseModel.Module?

  init(base: BaseModel, adapter: Adapter, options: MergeOptions) {
    kinds = Dictionary(
      base.modules.filter { !$0.isTiedHead }.map { ($0.weightName, $0.kind) }, uniquingKeysWith: { first, _ in first })
    tiedHead = base.modules.first(where: \.isTiedHead)
    baseCopies = Dictionary(
      adapter.modules.compactMap { module in adapter.baseCopies[module.path].map { (module.a.name, $0) } },
      uniquingKeysWith: { first, _ in first })
    self.base = base
    self.adapter = adapter
    self.options = options
  }

  /// Resolves every module and replacement to one name each, and checks shapes, ranks and dtypes.
  mutating func match() throws(AdapterError) {
    let resolver = NameResolver(base)
    let scaling = try LoRAScaling(adapter.config, path: adapter.configPath)
    var unmatched: [String] = []
    var owners: [String: String] = [:]
    for module in adapter.modules {
      // A head that is tied on purpose carries the embedding's factors a second time.
      if adapter.config.ensureWeightTying, module.path == tiedHead?.path { continue }
      guard let name = try weightName(of: module, resolver) else {
        unmatched.append(module.path)
        continue
      }
      if let other = owners.updateValue(module.path, forKey: name) {
        throw .collision(base: base.path, tensor: name, modules: [other, module.path])
      }
      updates[name] = try update(module, weight: name, scaling)
      if let bias = module.bias { try addBias(bias, of: module, weight: name, scaling, &owners) }
    }
    for rows in adapter.tokenRows {
      guard let name = try resolver.resolve("\(rows.path).weight") else {
        unmatched.append(rows.path)
        continue
      }
      if let other = owners.updateValue(rows.path, forKey: name) {
        throw .collision(base: base.path, tensor: name, modules: [other, rows.path])
      }
      tokens[name] = try tokenReplacement(rows, weight: name)
    }
    for replacement in adapter.replacements {
      if let name = try resolver.resolve(replacement.name) {
        try claim(name, for: replacement, &owners)
      } else if replacement.isSavedModule {
        try claim(replacement.name, for: replacement, &owners)
        added.append(replacement.name)
      } else {
        unmatched.append(replacement.name)
      }
    }
    guard unmatched.isEmpty else {
      let total = adapter.modules.count + adapter.replacements.count + adapter.tokenRows.count
      throw .unmatched(
        base: base.path, modules: unmatched, matched: total - unmatched.count, total: total,
        nearest: resolver.nearest(unmatched[0]))
    }
    try untie(resolver)
  }

  /// Gives a tied head a weight of its own where only one side of the tie changes.
  ///
  /// PEFT does the same for saved modules; for a LoRA on one side it changes both, although its model ran with one.
  mutating func untie(_ resolver: NameResolver) throws(AdapterError) {
    guard base.isTied, let family = base.family, let head = family.head, let embedding = family.embedding,
      let embeddingName = try resolver.resolve("\(embedding).weight")
    else { return }
    let headName = try resolver.resolve("\(head).weight") ?? "\(head).weight"
    let changesHead = updates[headName] != nil || replacements[headName] != nil
    let changesEmbedding =
      replacements[embeddingName] != nil
      || (updates[embeddingName] != nil && !adapter.config.ensureWeightTying)
    guard changesHead || changesEmbedding else { return }
    if !changesHead && base.checkpoint[headName] == nil {
      added.append(headName)
      keptHead = embeddingName
    }
    unties = !family.tiesMore
    notes.append(
      unties
        ? "the head and the input embedding are no longer tied"
        : "the head has a weight of its own; transformers before 5 would tie it to the embedding again")
  }

  /// The output tensor that a module's update belongs to: a tensor of the base, or a tied head's own.
  mutating func weightName(
    of module: Adapter.Module, _ resolver: NameResolver
  ) throws(AdapterError) -> String? {
    if let tied = tiedHead, tied.path == module.path {
      let name = "\(tied.path).weight"
      added.append(name)
      return name
    }
    return try resolver.resolve("\(module.path).weight")
  }

  mutating func claim(
    _ name: String, for replacement: Adapter.Replacement, _ owners: inout [String: String]
  ) throws(AdapterError) {
    if let other = owners.updateValue(replacement.name, forKey: name) {
      throw .collision(base: base.path, tensor: name, modules: [other, replacement.name])
    }
    if let entry = base.checkpoint[name]?.entry {
      guard entry.dtype.isComputable else { throw .baseDType(base: base.path, tensor: name, dtype: entry.dtype) }
      guard entry.shape == replacement.entry.shape else {
        throw .replacementShape(
          base: base.path, tensor: name, found: entry.shape, replacement: replacement.entry.shape)
      }
    }
    replacements[name] = replacement
  }

  // MARK: Agreement with the configuration

  /// Checks both ways that the file holds what the configuration targets.
  func checkAgainstConfig() throws(AdapterError) {
    guard !adapter.modules.isEmpty || !(adapter.config.targetModules == nil) else { return }
    var config = adapter.config
    if config.targetModules == nil {
      guard let modelType = base.modelType, let rule = DefaultTargets.lora(modelType: modelType) else { return }
      config.targetModules = rule
    }
    if config.targetModules?.isAllLinear == true { config = try base.expandingTargets(of: config) }
    let matcher = try TargetMatcher(config)
    let present = Set(adapter.modules.map(\.path))
    if !options.allowUntargeted {
      for module in adapter.modules where try matcher.verdict(module.path) != .targeted {
        throw .moduleNotTargeted(
          path: adapter.file.path, module: module.path,
          targets: config.targetModules?.description ?? "nothing")
      }
    }
    guard !options.allowMissing else { return }
    var missing: [String] = []
    for module in base.modules where module.kind != .other && !present.contains(module.path) {
      if try matcher.verdict(module.path) == .targeted, updates[module.weightName] == nil {
        missing.append(module.path)
      }
    }
    guard missing.isEmpty else { throw .missingFromAdapter(path: adapter.file.path, modules: missing) }
  }
}
