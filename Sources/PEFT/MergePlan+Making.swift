internal import TensorFiles

extension MergePlan {
  /// Resolves every adapter tensor against the base and lays the output out. Reads headers only; writes nothing.
  ///
  /// Throws: what `Adapter.init` and `BaseModel.init` throw; `.unmatched`, `.ambiguous`, `.collision`, `.shapeMismatch`,
  /// `.rankMismatch`, `.baseDType`, `.missingFromAdapter`, `.moduleNotTargeted`, `.replacementShape`, `.shardSize`.
  public init(base basePath: String, adapter adapterPath: String, options: MergeOptions = MergeOptions())
    throws(AdapterError)
  {
    let adapter = try Adapter(directory: adapterPath, ignoredConfigKeys: options.ignoredConfigKeys)
    let base = try BaseModel(path: basePath, taskType: adapter.config.taskType)
    var maker = MergePlanMaker(base: base, adapter: adapter, options: options)
    try maker.match()
    try maker.checkAgainstConfig()
    let shards = try maker.shards()
    let editedConfig = maker.editedConfig()
    self.init(
      base: base, adapter: adapter, options: options, shards: shards, editedConfig: editedConfig,
      sideFiles: try asAdapterError { () throws(TensorFileError) in
        try SideFiles(base: base.directory, adapter: adapter.directory)
      },
      mergedCount: adapter.modules.count,
      replacedCount: maker.replacements.keys.filter { base.checkpoint[$0] != nil }.count,
      addedCount: maker.added.count, notes: maker.notes)
  }
}

/// The steps of making a plan.
struct MergePlanMaker {
  let base: BaseModel
  let adapter: Adapter
  let options: MergeOptions

  /// Updates by the name of the output tensor.
  private(set) var updates: [String: LoRAUpdate] = [:]
  /// Replacing adapter tensors by the name of the output tensor.
  private(set) var replacements: [String: Adapter.Replacement] = [:]
  /// Output tensors that the base does not have, in order.
  private(set) var added: [String] = []
  /// True if config.json must say that the head is not tied.
  private var unties = false
  /// The embedding that a tied head keeps the weight of, while the embedding itself is replaced.
  private var keptHead: String?
  private(set) var notes: [String] = []

  /// The base's modules by the name of their weight; a tied head has none of its own.
  private let kinds: [String: BaseModel.Module.Kind]
  /// The head that the checkpoint does not hold because it is tied.
  private let tiedHead: BaseModel.Module?

  init(base: BaseModel, adapter: Adapter, options: MergeOptions) {
    kinds = Dictionary(
      base.modules.filter { !$0.isTiedHead }.map { ($0.weightName, $0.kind) }, uniquingKeysWith: { first, _ in first })
    tiedHead = base.modules.first(where: \.isTiedHead)
    self.base = base
    self.adapter = adapter
    self.options = options
  }

  // MARK: Matching

  /// Resolves every module and replacement to one name each, and checks shapes, ranks and dtypes.
  mutating func match() throws(AdapterError) {
    let resolver = NameResolver(base)
    let scaling = try LoRAScaling(adapter.config, path: adapter.configPath)
    var unmatched: [String] = []
    var owners: [String: String] = [:]
    for module in adapter.modules {
      guard let name = try weightName(of: module, resolver) else {
        unmatched.append(module.path)
        continue
      }
      if let other = owners.updateValue(module.path, forKey: name) {
        throw .collision(base: base.path, tensor: name, modules: [other, module.path])
      }
      updates[name] = try update(module, weight: name, scaling)
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
      let total = adapter.modules.count + adapter.replacements.count
      throw .unmatched(
        base: base.path, modules: unmatched, matched: total - unmatched.count, total: total,
        nearest: resolver.nearest(unmatched[0]))
    }
    try untie(resolver)
  }

  /// Gives a tied head a weight of its own where only one side of the tie changes.
  ///
  /// PEFT does the same for saved modules; for a LoRA on one side it changes both, although its model ran with one.
  private mutating func untie(_ resolver: NameResolver) throws(AdapterError) {
    guard base.isTied, let family = base.family, let head = family.head, let embedding = family.embedding,
      let embeddingName = try resolver.resolve("\(embedding).weight")
    else { return }
    let headName = try resolver.resolve("\(head).weight") ?? "\(head).weight"
    let changesHead = updates[headName] != nil || replacements[headName] != nil
    let changesEmbedding = replacements[embeddingName] != nil
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
  private mutating func weightName(
    of module: Adapter.Module, _ resolver: NameResolver
  ) throws(AdapterError) -> String? {
    if let tied = tiedHead, tied.path == module.path {
      let name = "\(tied.path).weight"
      added.append(name)
      return name
    }
    return try resolver.resolve("\(module.path).weight")
  }

  private mutating func claim(
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

  private func update(
    _ module: Adapter.Module, weight name: String, _ scaling: LoRAScaling
  ) throws(AdapterError) -> LoRAUpdate {
    let entry = try weight(name, of: module)
    guard entry.dtype.isComputable else { throw .baseDType(base: base.path, tensor: name, dtype: entry.dtype) }
    let values = try scaling.values(for: module.path)
    guard module.a.shape[0] == values.rank, module.b.shape[1] == values.rank else {
      throw .rankMismatch(
        path: adapter.file.path, module: module.path, expectedRank: values.rank, shapeA: module.a.shape,
        shapeB: module.b.shape)
    }
    let (input, output) = (module.a.shape[1], module.b.shape[0])
    let known = kinds[name]
    guard known != .embedding else {
      throw .unsupported(
        path: adapter.file.path, what: "LoRA on the embedding '\(module.path)'",
        reason: "its factors are stored transposed.")
    }
    let isTransposed = try orientation(
      entry, known: known, input: input, output: output)
    return LoRAUpdate(
      file: adapter.file.file, module: module, scale: values.scale, rank: values.rank, isTransposed: isTransposed)
  }

  /// Whether W is stored `[in, out]`. The shape decides; where it is square, the model type, and where that is unknown
  /// the configuration's fan_in_fan_out.
  private func orientation(
    _ entry: TensorEntry, known: BaseModel.Module.Kind?, input: Int, output: Int
  ) throws(AdapterError) -> Bool {
    if input != output {
      if entry.shape == [output, input] { return false }
      if entry.shape == [input, output], known == .transposedLinear || base.family == nil { return true }
    } else if entry.shape == [output, input] {
      return base.family == nil ? adapter.config.fanInFanOut : known == .transposedLinear
    }
    throw .shapeMismatch(
      base: base.path, tensor: entry.name, found: entry.shape,
      expected: known == .transposedLinear ? [input, output] : [output, input])
  }

  /// W of a module: the adapter's own copy where it has one of the base's dtype and shape, as PEFT loads it.
  private func weight(_ name: String, of module: Adapter.Module) throws(AdapterError) -> TensorEntry {
    guard let stored = storedWeight(name) else {
      throw .unmatched(base: base.path, modules: [module.path], matched: 0, total: 1, nearest: [])
    }
    guard let copy = adapter.baseCopies[module.path] else { return stored }
    guard copy.shape == stored.shape else {
      throw .replacementShape(base: base.path, tensor: name, found: stored.shape, replacement: copy.shape)
    }
    return stored
  }

  /// The base's tensor behind an output name; a tied head's is the embedding's.
  private func storedWeight(_ name: String) -> TensorEntry? {
    if let entry = base.checkpoint[name]?.entry { return entry }
    guard let tied = tiedHead, "\(tied.path).weight" == name else { return nil }
    return base.checkpoint[tied.weightName]?.entry
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
    for module in base.modules where module.isLinear && !present.contains(module.path) {
      if try matcher.verdict(module.path) == .targeted, updates[module.weightName] == nil {
        missing.append(module.path)
      }
    }
    guard missing.isEmpty else { throw .missingFromAdapter(path: adapter.file.path, modules: missing) }
  }

  // MARK: Layout

  /// The output's files: the base's own, or filled anew up to the greatest size.
  func shards() throws(AdapterError) -> [MergePlan.Shard] {
    var shards: [MergePlan.Shard] = []
    for file in base.checkpoint.shards {
      let outputs = file.entries.map { output(file, $0) }
      shards.append(
        MergePlan.Shard(name: FileSystem.lastComponent(file.path), outputs: outputs, metadata: file.metadata))
    }
    if base.checkpoint.index == nil {
      shards[0] = MergePlan.Shard(
        name: Checkpoint.singleName, outputs: shards[0].outputs, metadata: shards[0].metadata)
    }
    let last = shards.removeLast()
    shards.append(
      MergePlan.Shard(name: last.name, outputs: last.outputs + added.compactMap(addition), metadata: last.metadata))
    guard let limit = options.maxShardBytes else { return shards }
    guard limit > 0 else { throw .shardSize(found: "\(limit)") }
    return resharded(shards, limit: limit)
  }

  private func output(_ file: SafetensorsFile, _ entry: TensorEntry) -> MergePlan.Output {
    let item = SafetensorsLayout.Item(name: entry.name, dtype: entry.dtype, shape: entry.shape)
    if let update = updates[entry.name] {
      return MergePlan.Output(item: item, source: mergeSource(file, entry, update))
    }
    if let replacement = replacements[entry.name] {
      return MergePlan.Output(item: item, source: .replace(adapter.file, replacement.entry))
    }
    return MergePlan.Output(item: item, source: .copy(file, entry))
  }

  private func mergeSource(
    _ file: SafetensorsFile, _ entry: TensorEntry, _ update: LoRAUpdate
  ) -> MergePlan.Source {
    if let copy = adapter.baseCopies[update.module.path] { return .merge(adapter.file, copy, update) }
    return .merge(file, entry, update)
  }

  private func addition(_ name: String) -> MergePlan.Output? {
    if let replacement = replacements[name] {
      let dtype = baseDType ?? replacement.entry.dtype
      return MergePlan.Output(
        item: SafetensorsLayout.Item(name: name, dtype: dtype, shape: replacement.entry.shape),
        source: .replace(adapter.file, replacement.entry))
    }
    guard let entry = storedWeight(name) ?? keptHead.flatMap({ base.checkpoint[$0]?.entry }),
      let location = base.checkpoint[entry.name]
    else { return nil }
    guard let update = updates[name] else {
      return MergePlan.Output(
        item: SafetensorsLayout.Item(name: name, dtype: entry.dtype, shape: entry.shape),
        source: .copy(base.checkpoint.shards[location.shard], entry))
    }
    return MergePlan.Output(
      item: SafetensorsLayout.Item(name: name, dtype: entry.dtype, shape: entry.shape),
      source: mergeSource(base.checkpoint.shards[location.shard], entry, update))
  }

  /// The dtype of most of the base's bytes: PEFT creates a module that the checkpoint lacks in the model's dtype.
  private var baseDType: DType? {
    var bytes: [DType: Int] = [:]
    for shard in base.checkpoint.shards {
      for entry in shard.entries where entry.dtype.isComputable {
        bytes[entry.dtype, default: 0] += entry.byteRange.count
      }
    }
    return bytes.max { ($0.value, $0.key.rawValue) < ($1.value, $1.key.rawValue) }?.key
  }

  private func resharded(_ shards: [MergePlan.Shard], limit: Int) -> [MergePlan.Shard] {
    var groups: [[MergePlan.Output]] = [[]]
    var size = 0
    for output in shards.flatMap(\.outputs) {
      if size > 0 && size + output.item.byteCount > limit {
        groups.append([])
        size = 0
      }
      groups[groups.count - 1].append(output)
      size += output.item.byteCount
    }
    let metadata = shards[0].metadata
    if groups.count == 1 {
      return [MergePlan.Shard(name: Checkpoint.singleName, outputs: groups[0], metadata: metadata)]
    }
    func padded(_ number: Int) -> String {
      let digits = String(number)
      return String(repeating: "0", count: max(0, 5 - digits.count)) + digits
    }
    return groups.enumerated().map { index, outputs in
      MergePlan.Shard(
        name: "model-\(padded(index + 1))-of-\(padded(groups.count)).safetensors", outputs: outputs,
        metadata: metadata)
    }
  }

  // MARK: config.json

  /// config.json with the head untied, if the head gets a weight of its own.
  func editedConfig() -> JSONValue? {
    guard unties, var config = base.config, config.members != nil else { return nil }
    config["tie_word_embeddings"] = .bool(false)
    if var text = config["text_config"], text["tie_word_embeddings"] != nil {
      text["tie_word_embeddings"] = .bool(false)
      config["text_config"] = text
    }
    return config
  }
}
