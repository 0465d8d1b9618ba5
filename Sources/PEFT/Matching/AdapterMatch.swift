internal import TensorFiles

/// Which tensors of a base some adapters change, and how: what a merge writes, what runs, what statistics measure.
///
/// Invariant: every tensor of the adapters has one place here; anything else was an error. Nothing here depends on how a
/// result is laid out in files.
package struct AdapterMatch: Sendable {
  /// What becomes of the tie between the head and the input embedding.
  enum Tie: Sendable {
    /// Both are what they were to each other.
    case kept
    /// The head changes as its embedding does: an adapter holds the change of both.
    case followed
    /// The head has a weight of its own.
    ///
    /// - keeping: the embedding whose old weight it has; nil where the head itself changes.
    /// - inConfig: true if config.json must say so.
    case parted(keeping: String?, inConfig: Bool)
  }

  let base: BaseModel
  /// The adapters in the order in which they are added.
  package let adapters: [Adapter]
  /// What each adapter's ΔW is multiplied by.
  let weights: [Double]
  var tensors = TensorChanges()
  var tie = Tie.kept
  /// Modules in all adapters: those that their files name, or that shared tensors act on.
  private(set) var moduleCount: Int
  /// Modules whose change is in no update and no rule: stored in full, or as a tied weight's second name.
  private(set) var otherModules: Set<ModuleOwner> = []
  /// Adapters' own copies of weights that a merge takes for the base's, and unmerging leaves aside.
  private(set) var unusedCopies: [String] = []
  /// Things worth a word that do not stop a merge.
  var notes: [String] = []

  /// A base that nothing is done to.
  init(unchanged base: BaseModel) {
    (self.base, adapters, weights, moduleCount) = (base, [], [], 0)
  }

  /// Resolves every module and replacement to one name each, and checks shapes, ranks and dtypes. Reads headers, and
  /// values only where two tensors may be one.
  ///
  /// - Parameter unmerges: true if the adapters are taken out of the base, which then is a merged model.
  /// Throws `.unmatched`, `.ambiguous`, `.collision`, `.conflict`, `.shapeMismatch`, `.rankMismatch`, `.baseDType`,
  /// `.quantizedBase`, `.missingFromAdapter`, `.moduleNotTargeted`, `.replacementShape`, `.factorNotFinite`, `.unsupported`,
  /// `.irreversible`, `.configValue`, `.configContradiction`, `.configPattern`, `.file`.
  init(
    base: BaseModel, adapters: [Adapter], weights: [Double], options: MergeOptions = MergeOptions(),
    unmerges: Bool = false
  ) throws(AdapterError) {
    (self.base, self.adapters, self.weights) = (base, adapters, weights)
    moduleCount = adapters.reduce(0) { $0 + $1.moduleCount }
    let matched = MatchedBase(base, taskType: adapters[0].config.taskType, holdsAdapters: unmerges)
    var squares = SquareWeights()
    for (index, adapter) in adapters.enumerated() {
      let part = MatchedAdapter(adapter, weight: weights[index], index: index, of: matched, options)
      try locatingPatterns(in: adapter.configPath) { () throws(AdapterError) in
        let agreement: ConfigAgreement
        do throws(AdapterError) {
          agreement = try add(part, &squares)
        } catch {
          throw base.explained(error)
        }
        try agreement.check()
      }
    }
    if let note = squares.note { notes.append(note) }
    try settleTie(in: matched)
    try checkVocabulary(in: matched)
  }

  // MARK: One adapter

  /// Notes all that an adapter changes.
  private mutating func add(
    _ part: MatchedAdapter, _ squares: inout SquareWeights
  ) throws(AdapterError) -> ConfigAgreement {
    let (adapter, base) = (part.adapter, part.base)
    let scaling = try LoRAScaling(adapter.config, path: adapter.configPath)
    if part.tiesOnPurpose { tie = .followed }
    var agreement = ConfigAgreement(part: part)
    var unmatched: [String] = []
    if let method = AdapterMethod.named(adapter.config.peftType) {
      try add(method, of: part, &squares, &agreement, unmatched: &unmatched)
    }
    let (lora, experts) = (LoRAMatcher(part, scaling), ExpertMatcher(part, scaling))
    for module in adapter.modules {
      // A head that is tied on purpose carries the embedding's factors a second time.
      if part.tiesOnPurpose, module.path == base.tiedHead {
        otherModules.insert(part.owner(module.path))
        continue
      }
      if part.isHiddenByAttention(module) {
        otherModules.insert(part.owner(module.path))
        notes.append("'\(module.path)': the attention is adapted as a whole, beside which PEFT does not use this LoRA")
        continue
      }
      let updates: [MatchedUpdate]
      var weight: String?
      if let found = try experts.updates(of: module) {
        updates = found
      } else if let name = try base.weightName(of: module) {
        updates = [MatchedUpdate(tensor: name, update: try lora.update(module, weight: name, &squares))]
        takeCopy(of: module, weight: name, part)
        weight = name
      } else if let found = try experts.fusedUpdate(of: module) {
        updates = [found]
      } else {
        unmatched.append(module.path)
        continue
      }
      for found in updates {
        try tensors.add(found.update, to: found.tensor, of: module.path, by: part)
        agreement.weights.insert(found.tensor)
      }
      if let weight, let bias = module.bias { try add(bias, of: module, weight: weight, lora, part) }
    }
    let listed = ListedTokens(adapter.config)
    let rows = try RowMatcher(
      adapter.tokenRows.map {
        TrainedRows(
          path: $0.path, entry: $0.entry, listed: listed.forAll ?? listed.named($0.path) ?? [],
          key: "trainable_token_indices")
      }, of: part, to: &tensors)
    agreement.secondNames.formUnion(rows.secondNames)
    unmatched += rows.unmatched
    unmatched += try addReplacements(of: part)
    guard unmatched.isEmpty else { throw part.unmatched(unmatched) }
    if !adapter.foreignPrefixes.isEmpty {
      notes.append(
        "\(adapter.file.path): names of tensors had \(adapter.foreignPrefixes.joined(separator: ", ")) in them, which "
          + "wrappers of a model leave there; PEFT would not load these")
    }
    return agreement
  }

  /// Notes what lora_B's bias adds to the layer's.
  private mutating func add(
    _ bias: TensorEntry, of module: Adapter.Module, weight name: String, _ lora: LoRAMatcher, _ part: MatchedAdapter
  ) throws(AdapterError) {
    guard !name.hasSuffix("in_proj_weight") else {
      notes.append("'\(module.path)': PEFT does not use the bias of an attention's lora_B, which is left out here too")
      return
    }
    let target = name.dropLast("weight".count) + "bias"
    try tensors.add(
      try lora.addend(bias, to: String(target), of: module), to: String(target), of: module.path, by: part)
  }

  /// Lets the adapter's own copy of a weight take the base's place.
  private mutating func takeCopy(of module: Adapter.Module, weight name: String, _ part: MatchedAdapter) {
    guard let copy = part.adapter.baseCopies[module.path] else { return }
    if part.base.holdsAdapters {
      if !unusedCopies.contains(name) { unusedCopies.append(name) }
    } else if tensors.sources[name] == nil {
      tensors.sources[name] = part.stored(copy)
    }
  }

  /// Notes what an adapter of another method than LoRA changes.
  private mutating func add(
    _ method: AdapterMethod, of part: MatchedAdapter, _ squares: inout SquareWeights,
    _ agreement: inout ConfigAgreement, unmatched: inout [String]
  ) throws(AdapterError) {
    let adapter = part.adapter
    switch method.merging {
    case .none(let reason):
      throw .unsupported(path: adapter.configPath, what: "peft_type \(method.type.rawValue)", reason: reason)
    case .replacement(let infix):
      for module in adapter.methodParts {
        for (role, entry) in module.tensors {
          let name = "\(module.path).\(role.text.replacing("\(infix).", with: ""))"
          guard let found = try part.base.resolver.resolve(name) else {
            unmatched.append(name)
            continue
          }
          otherModules.insert(part.owner(module.path))
          try replace(found, by: Adapter.Replacement(name: name, entry: entry, isSavedModule: true), part)
        }
      }
    case .rows(let tensor, let setting):
      let listed = adapter.config.settings[setting]?.elements ?? []
      let all = try adapter.methodParts.map { module throws(AdapterError) in
        guard let entry = module.tensors[tensor] else {
          throw AdapterError.tensorMissing(path: adapter.file.path, module: module.path, tensor: tensor)
        }
        return TrainedRows(path: module.path, entry: entry, listed: listed, key: setting)
      }
      let rows = try RowMatcher(all, of: part, to: &tensors)
      for module in all where !rows.unmatched.contains(module.path) { otherModules.insert(part.owner(module.path)) }
      agreement.secondNames = rows.secondNames
      unmatched += rows.unmatched
    case .rule(let makeRule):
      let matcher = try RuleMatcher(part, &squares)
      unmatched += matcher.unmatched
      if adapter.methodParts.isEmpty { moduleCount += matcher.targets.count }
      for target in matcher.targets {
        let path = target.part.path
        guard agreement.weights.insert(target.name).inserted else {
          throw .collision(
            base: base.path, tensor: target.name, modules: [tensors.owner(of: target.name), path])
        }
        let rule = try makeRule(matcher.module(target))
        try tensors.add(rule, to: target.name, target.shape, of: path, by: part)
        if try matcher.addBias(of: rule, target, to: &tensors) { otherModules.insert(part.owner(path)) }
      }
    }
  }
}
