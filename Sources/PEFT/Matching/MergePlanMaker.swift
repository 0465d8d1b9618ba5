internal import TensorFiles

/// The steps of making a plan.
struct MergePlanMaker {
  let base: BaseModel
  let adapters: [Adapter]
  let weights: [Double]
  /// The adapter that is being matched, and its weight.
  var adapter: Adapter
  var adapterWeight = 1.0
  var adapterIndex = 0
  let options: MergeOptions
  /// True if the adapters are taken out of the base, which then is a merged model.
  let unmerges: Bool

  /// Updates by the name of the output tensor.
  var updates: [ExactName: [LoRAUpdate]] = [:]
  /// What is added to biases, by the name of the output tensor.
  var biases: [ExactName: [AddedBias]] = [:]
  /// What other methods than LoRA change, by the name of the output tensor.
  var changes: [ExactName: WeightChange] = [:]
  var biasChanges: [ExactName: BiasChange] = [:]
  /// Replaced rows by the name of the output tensor.
  var tokens: [ExactName: TokenReplacement] = [:]
  /// Replacing adapter tensors by the name of the output tensor.
  var replacements: [ExactName: (file: SafetensorsFile, replacement: Adapter.Replacement)] = [:]
  /// Paths of the modules of the adapter that is being matched.
  var modulePaths: Set<ExactName> = []
  /// True if `ensure_weight_tying` had an effect: PEFT then stores both sides of the tie.
  private var tiesOnPurpose = false
  /// Output tensors that the base does not have, in order.
  var added: [String] = []
  /// Rows of output tensors that have more than the base's: embeddings and heads of a larger vocabulary.
  var grownRows: [ExactName: Int] = [:]
  /// An embedding or head of which the adapter has fewer rows than the base.
  var shrunk: String?
  /// True if config.json must say that the head is not tied.
  var unties = false
  /// The embedding that a tied head keeps the weight of, while the embedding itself is replaced.
  var keptHead: String?
  var notes: [String] = []
  /// Modules with a square weight whose orientation only `fan_in_fan_out` tells.
  var squaresByFlag: [(path: String, isTransposed: Bool)] = []
  /// Modules that are a tied weight's second name.
  var secondNames: Set<ExactName> = []
  /// True if a tied head changes as its embedding does.
  var headFollows = false
  /// Modules that an adapter's shared tensors act on, of which its file names none.
  var ruleCount = 0
  /// Modules that are merged otherwise than by an update or a rule: stored in full, or as a tied weight's second name.
  var mergedModules: Set<ModuleOwner> = []

  /// The base's modules by the name of their weight; a tied head has none of its own.
  let baseModules: [ExactName: BaseModel.Module]
  /// Adapters' own copies of base weights, by the name of the weight.
  var baseCopies: [ExactName: (file: SafetensorsFile, entry: TensorEntry)] = [:]
  /// Rows of output tensors that the adapter in work updates.
  var updatedRows: [ExactName: [Range<Int>]] = [:]
  /// The adapter and module that an output tensor belongs to.
  var owners: [ExactName: (adapter: String, module: String)] = [:]
  /// The head that the checkpoint does not hold because it is tied.
  let tiedHead: BaseModel.Module?

  /// Adapters' own copies of weights that a merge takes for the base's, and unmerging leaves aside.
  var unusedCopies: [String] = []

  init(base: BaseModel, adapters: [Adapter], weights: [Double], options: MergeOptions, unmerges: Bool = false) {
    baseModules = Dictionary(
      base.modules.filter { !$0.isTiedHead }.map { ($0.weightName, $0) }, uniquingKeysWith: { first, _ in first })
    tiedHead = base.modules.first(where: \.isTiedHead)
    self.base = base
    self.adapters = adapters
    self.weights = weights
    adapter = adapters[0]
    self.options = options
    self.unmerges = unmerges
  }

  /// Resolves every module and replacement to one name each, and checks shapes, ranks and dtypes.
  mutating func match() throws(AdapterError) {
    let resolver = NameResolver(base)
    for (index, (adapter, weight)) in zip(adapters, weights).enumerated() {
      adapterIndex = index
      self.adapter = adapter
      adapterWeight = weight
      let matched = try locatingPatterns(in: adapter.configPath) { () throws(AdapterError) in
        do throws(AdapterError) {
          return try matchAdapter(resolver)
        } catch {
          throw base.explained(error)
        }
      }
      try locatingPatterns(in: adapter.configPath) { () throws(AdapterError) in try checkAgainstConfig(matched) }
    }
    noteSquares()
    try untie(resolver)
    try checkGrowth(resolver)
  }

  /// Returns the names of the weights that the adapter updates.
  private mutating func matchAdapter(_ resolver: NameResolver) throws(AdapterError) -> Set<ExactName> {
    let scaling = try LoRAScaling(adapter.config, path: adapter.configPath)
    modulePaths = Set(exactly: adapter.modules.map(\.path))
    tiesOnPurpose = storesBothSidesOfTie
    headFollows = headFollows || tiesOnPurpose
    var unmatched: [String] = []
    updatedRows = [:]
    var matched: Set<ExactName> = []
    if let method = AdapterMethod.named(adapter.config.peftType) {
      matched = try matchMethod(method, resolver, unmatched: &unmatched)
    }
    for module in adapter.modules {
      // A head that is tied on purpose carries the embedding's factors a second time.
      if tiesOnPurpose, module.path == tieHead {
        mergedModules.insert(owner(module.path))
        continue
      }
      if isHiddenByAttention(module) {
        mergedModules.insert(owner(module.path))
        notes.append("'\(module.path)': the attention is adapted as a whole, beside which PEFT does not use this LoRA")
        continue
      }
      if try addExperts(module, resolver, scaling) { continue }
      guard let name = try weightName(of: module, resolver) else {
        if try addExpertOfFusedTensor(module, resolver, scaling) { continue }
        unmatched.append(module.path)
        continue
      }
      try add(try update(module, weight: name, scaling), to: name, of: module)
      if let bias = module.bias { try addBias(bias, of: module, weight: name, scaling) }
    }
    let key = "trainable_token_indices"
    let tokens = ListedTokens(adapter.config)
    unmatched += try addRows(
      adapter.tokenRows.map {
        TrainedRows(path: $0.path, entry: $0.entry, listed: tokens.forAll ?? tokens.named($0.path) ?? [], key: key)
      },
      resolver)
    for replacement in adapter.replacements {
      if try isSecondNameOfTiedEmbedding(replacement) { continue }
      if let name = try resolver.resolve(replacement.name) {
        try claim(name, for: replacement)
      } else if isHead(replacement) {
        try claim(replacement.name, for: replacement)
        added.append(replacement.name)
      } else {
        unmatched.append(replacement.name)
      }
    }
    guard unmatched.isEmpty else {
      if adapter.config.autoMapping["parent_library"]?.stringValue?.hasPrefix("lerobot") ?? false {
        throw .foreignAdapter(path: adapter.configPath, format: .leRobot)
      }
      // Norms and the like are matched tensor by tensor.
      let missing = unmatched.count
      let total = max(adapter.moduleCount + adapter.replacements.count + adapter.tokenRows.count, missing)
      throw .unmatched(
        base: base.path, modules: unmatched, matched: total - missing, total: total,
        nearest: resolver.nearest(unmatched[0]))
    }
    if !adapter.foreignPrefixes.isEmpty {
      notes.append(
        "\(adapter.file.path): names of tensors had \(adapter.foreignPrefixes.joined(separator: ", ")) in them, which "
          + "wrappers of a model leave there; PEFT would not load these")
    }
    return matched.union(updatedRows.keys)
  }

  /// The head that config.json ties to the input embedding, whether the checkpoint stores it or not: PEFT goes by the
  /// configuration. Nil where there is none, or its place is not known.
  var tieHead: String? {
    guard base.asksForTie, base.family?.embedding != nil,
      BaseModel.hasLanguageHead(taskType: adapters[0].config.taskType, config: base.config)
    else { return nil }
    return base.family?.head
  }

  private var storesBothSidesOfTie: Bool {
    guard adapter.config.ensureWeightTying, let head = tieHead, let embedding = base.family?.embedding else {
      return false
    }
    let paths = adapter.modules.map(\.path) + adapter.replacements.map { String($0.name.dropLast(".weight".count)) }
    return paths.containsExactly(head) && paths.containsExactly(embedding)
  }

  /// True for a head that the base ties, of which the adapter stores a second copy of its embedding.
  private mutating func isSecondNameOfTiedEmbedding(
    _ replacement: Adapter.Replacement
  ) throws(AdapterError) -> Bool {
    guard let head = tieHead, replacement.name == "\(head).weight", let embedding = base.family?.embedding,
      let other = adapter.replacements.first(where: { $0.name == "\(embedding).weight" })
    else { return false }
    let file = adapter.file.file
    let isSame = try asAdapterError { () throws(TensorFileError) in
      try file.holdsSameBytes(replacement.entry.byteRange, other.entry.byteRange)
    }
    headFollows = headFollows || isSame
    return isSame
  }

  /// True for a tensor that may be added to the base: a head, which the base can lack, or the second name of a tied bias.
  /// A module inside a layer is not: the base has it under a name that is not known here.
  private func isHead(_ replacement: Adapter.Replacement) -> Bool {
    let parts = replacement.name.parts()
    guard !parts.contains(where: { Int($0) != nil }) else { return false }
    // An input embedding is no head, nor is anything that the base holds under a shorter name.
    if parts.dropLast().last.map({ ModelFamily.embeddingNames.contains(String($0)) }) ?? true { return false }
    for start in parts.indices.dropFirst() where base.checkpoint[parts[start...].joined(separator: ".")] != nil {
      return false
    }
    return replacement.isSavedModule || (adapter.config.bias != "none" && replacement.name.hasSuffix(".bias"))
  }

  /// Notes who changes a tensor; nobody else may, but for what can be added up.
  mutating func own(_ name: String, _ module: String) throws(AdapterError) {
    guard let other = owners.updateValue((adapter.directory, module), forKey: name) else { return }
    guard other.adapter == adapter.directory else {
      throw .conflict(base: base.path, tensor: name, adapters: [other.adapter, adapter.directory])
    }
    throw .collision(base: base.path, tensor: name, modules: [other.module, module])
  }

  /// A module of the adapter that is being matched.
  func owner(_ path: String) -> ModuleOwner { ModuleOwner(adapter: adapterIndex, path: path) }

  /// Gives a tied head a weight of its own where only one side of the tie changes.
  ///
  /// PEFT does the same for saved modules; for a LoRA on one side it changes both, although its model ran with one.
  mutating func untie(_ resolver: NameResolver) throws(AdapterError) {
    // A model that is still tied was changed on both sides, and is changed back on both.
    if unmerges, tiedHead != nil { return }
    try refuseUnknownTies()
    guard let head = tieHead, let family = base.family, let embedding = family.embedding,
      let embeddingName = try resolver.resolve("\(embedding).weight")
    else { return }
    let headName = try resolver.resolve("\(head).weight") ?? "\(head).weight"
    let changesHead =
      updates[headName] != nil || replacements[headName] != nil || changes[headName] != nil || tokens[headName] != nil
    let changesEmbedding =
      (replacements[embeddingName] != nil || updates[embeddingName] != nil || changes[embeddingName] != nil)
      && !headFollows
    // With rows of its own on the head, PEFT ties the embedding's rows to no other module.
    let changesEmbeddingAlone = changesEmbedding || (tokens[embeddingName] != nil && tokens[headName] != nil)
    try follow(embeddingName, headName)
    guard changesHead || changesEmbedding else { return }
    if !changesHead && base.checkpoint[headName] == nil {
      added.append(headName)
      keptHead = embeddingName
    }
    if changesEmbeddingAlone, embedding == "shared" || embedding == "model.shared" {
      throw .unsupported(
        path: adapters[0].file.path, what: "a change of '\(embedding)' alone",
        reason:
          "encoder and decoder keep the old embedding while the adapter is apart, which this model's files cannot say.")
    }
    // A head that the checkpoint stores apart is not tied, whatever config.json asks for.
    guard base.isTied else { return }
    unties = !family.tiesMore
    notes.append(
      unties
        ? "the head and the input embedding are no longer tied"
        : "the head has a weight of its own; transformers before 5 would tie it to the embedding again")
  }

  /// Refuses to change an embedding or a head of a tied model whose type is not known: the other side would follow, or be
  /// lost.
  private func refuseUnknownTies() throws(AdapterError) {
    guard base.isTied, base.family == nil else { return }
    let names = Set(updates.keys).union(replacements.keys).union(changes.keys).union(tokens.keys)
    for name in names.sorted().map(\.text) {
      let module = name.parts().dropLast().last.map(String.init) ?? ""
      guard ModelFamily.embeddingNames.contains(module) || module == "lm_head" else { continue }
      throw .unsupported(
        path: base.path, what: "a change of '\(name)'",
        reason: "the model ties its head, and for its type '\(base.modelType ?? "unknown")' it is not known to what.")
    }
  }

  /// The output tensor that a module's update belongs to: a tensor of the base, or a tied head's own.
  mutating func weightName(
    of module: Adapter.Module, _ resolver: NameResolver
  ) throws(AdapterError) -> String? {
    if let tied = tiedHead, tied.path.isExactly(module.path) {
      if unmerges { return tied.weightName }
      let name = "\(tied.path).weight"
      if !added.containsExactly(name) { added.append(name) }
      return name
    }
    if let name = try resolver.resolve("\(module.path).weight") { return name }
    // torch's MultiheadAttention holds three projections in one parameter, and PEFT wraps its output within.
    if let name = try resolver.resolve("\(module.path).in_proj_weight") { return name }
    let plain = module.path.replacing(".base_layer.", with: ".")
    return plain.isExactly(module.path) ? nil : try resolver.resolve("\(plain).weight")
  }

  mutating func claim(
    _ name: String, for replacement: Adapter.Replacement
  ) throws(AdapterError) {
    try requireWhole(
      "'\(replacement.name)'", because: "a tensor that is stored in full replaces the base's and has no weight.",
      lost: "a tensor that is stored in full has taken the base's place, which the model no longer holds.")
    // A bias that the adapter stores and adds to as well: PEFT adds to the stored one.
    let isAddedTo = biases[name] != nil || biasChanges[name] != nil
    if !isAddedTo || owners[name]?.adapter != adapter.directory { try own(name, replacement.name) }
    if let entry = base.checkpoint[name]?.entry {
      // Whole numbers, such as a norm's count of batches, are taken over as they are.
      guard entry.dtype.isComputable || entry.dtype == replacement.entry.dtype else {
        throw .baseDType(base: base.path, tensor: name, dtype: entry.dtype)
      }
      if entry.shape != replacement.entry.shape {
        try resize(entry, by: replacement, name)
        if tokens[name] != nil { return }
      }
    }
    replacements[name] = (adapter.file, replacement)
  }

  // MARK: Agreement with the configuration

  /// Checks both ways that the file holds what the configuration targets.
  func checkAgainstConfig(_ matched: Set<ExactName>) throws(AdapterError) {
    guard adapter.moduleCount > 0 || !(adapter.config.targetModules == nil) else { return }
    var config = adapter.config
    if config.targetModules == nil {
      guard config.peftType == .lora, let modelType = base.modelType,
        let rule = DefaultTargets.lora(modelType: modelType)
      else { return }
      config.targetModules = rule
    }
    if config.targetModules?.isAllLinear == true { config = try base.expandingTargets(of: config) }
    let matcher = try TargetMatcher(config)
    let paths = adapter.modules.map(\.path) + adapter.methodParts.map(\.path)
    let present = Set(exactly: paths)
    if !options.allowUntargeted {
      for path in paths where !secondNames.contains(path) {
        if try isTargeted(path, matcher) { continue }
        throw .moduleNotTargeted(
          path: adapter.file.path, module: path,
          targets: config.targetModules?.description ?? "nothing")
      }
    }
    guard !options.allowMissing else { return }
    var heldParameters: Set<Int> = []
    for module in adapter.modules {
      heldParameters.formUnion(config.parameterTargets.places(in: Self.unwrapped(module.path).path))
    }
    var missing = (config.targetParameters ?? []).enumerated().filter { !heldParameters.contains($0.offset) }.map(
      \.element)
    // transformers 5 holds a layer's experts as one parameter, which target_modules does not reach.
    let adaptsExperts = paths.contains(where: Self.isInExpert)
    let method = AdapterMethod.named(adapter.config.peftType)
    for module in base.modules where module.kind != .other && !present.contains(module.path) {
      if Self.isInExpert(module.path) && !adaptsExperts { continue }
      if module.kind != .linear, method?.passesOverOthers ?? false { continue }
      if try matcher.verdict(module.path) == .targeted, !matched.contains(module.weightName) {
        missing.append(module.path)
      }
    }
    guard missing.isEmpty else { throw .missingFromAdapter(path: adapter.file.path, modules: missing) }
  }

  /// True if the configuration names the module, the module that it is a part of, or a parameter in it.
  private func isTargeted(_ path: String, _ matcher: TargetMatcher) throws(AdapterError) -> Bool {
    if try matcher.verdict(path) == .targeted { return true }
    if tiesOnPurpose, path == tieHead || path == base.family?.embedding { return true }
    let outer = path.firstRange(of: ".base_layer").map { String(path[..<$0.lowerBound]) } ?? path
    if !adapter.config.targetedParameters(in: outer).isEmpty { return true }
    return try matcher.verdict(outer) == .targeted
  }

  /// True for a module of one of several experts: `…experts.3.up_proj`.
  private static func isInExpert(_ path: String) -> Bool {
    guard path.holds(".experts."), let range = path.firstRange(of: ".experts.") else { return false }
    return path[range.upperBound...].first?.isNumber ?? false
  }
}
