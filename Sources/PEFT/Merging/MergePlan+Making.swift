internal import TensorFiles

extension MergePlan {
  /// An adapter to be merged, and what its ΔW is multiplied by.
  public struct Input: Sendable {
    private enum Source: Sendable {
      case directory(String)
      case value(StoredAdapter)
    }

    private let source: Source
    public let weight: Double

    /// An adapter's directory, which is opened when the plan is made.
    /// - Parameter weight: any finite number; 1 is the adapter as trained.
    public init(_ directory: String, weight: Double = 1) {
      source = .directory(directory)
      self.weight = weight
    }

    /// An adapter that is at hand.
    /// - Parameter weight: any finite number; 1 is the adapter as trained.
    public init(_ adapter: StoredAdapter, weight: Double = 1) {
      source = .value(adapter)
      self.weight = weight
    }

    /// The directory, or what messages call the adapter.
    public var directory: String {
      switch source {
      case .directory(let path): path
      case .value(let adapter): adapter.name
      }
    }

    func adapter(_ options: MergeOptions) throws(AdapterError) -> Adapter {
      switch source {
      case .directory(let path): try Adapter(directory: path, ignoredConfigKeys: options.ignoredConfigKeys)
      case .value(let adapter): try Adapter(adapter, ignoredConfigKeys: options.ignoredConfigKeys)
      }
    }
  }

  /// A plan for one adapter. See `init(base:adapters:options:)`.
  public init(base: String, adapter: String, options: MergeOptions = MergeOptions()) throws(AdapterError) {
    try self.init(base: base, adapters: [Input(adapter)], options: options)
  }

  /// Resolves every adapter tensor against the base and lays the output out. Reads headers only; writes nothing.
  ///
  /// With several adapters each weight becomes W + Σ weight·ΔW, rounded once, whatever methods the ΔW are of. A tensor that
  /// is replaced in full may belong to one adapter only, and DoRA is merged alone and with weight 1. Traps if there is no
  /// adapter.
  /// Throws: what `Adapter.init` and `BaseModel.init` throw; `.unmatched`, `.ambiguous`, `.collision`, `.conflict`,
  /// `.shapeMismatch`, `.rankMismatch`, `.baseDType`, `.quantizedBase`, `.missingFromAdapter`, `.moduleNotTargeted`, `.replacementShape`, `.shardSize`,
  /// `.adapterNotFinite`, `.factorNotFinite`.
  public init(
    base basePath: String, adapters inputs: [Input], options: MergeOptions = MergeOptions()
  ) throws(AdapterError) {
    try self.init(basePath, inputs, options, unmerges: false)
  }

  /// A plan that takes adapters out of a model that they were merged into: W - weight·ΔW, rounded once.
  ///
  /// The weights are those of the merge. The record in the model's metadata decides: what it does not name, or names with
  /// another weight, is not taken out; `restoration` says what is known of the result. The adapters' own copies of base
  /// weights are not used, and layers are not stacked again.
  /// Throws as the merge, and `.notMerged`, `.configChanged`, `.overwritten`, `.irreversible`.
  public init(
    unmerging path: String, adapters inputs: [Input], options: MergeOptions = MergeOptions()
  ) throws(AdapterError) {
    try self.init(path, inputs, options, unmerges: true)
  }

  private init(
    _ basePath: String, _ inputs: [Input], _ options: MergeOptions, unmerges: Bool
  ) throws(AdapterError) {
    precondition(!inputs.isEmpty, "a merge needs an adapter")
    var adapters: [Adapter] = []
    for input in inputs { adapters.append(try input.adapter(options)) }
    var weights = inputs.map(\.weight)
    let original = try BaseModel(path: basePath, taskType: adapters[0].config.taskType)
    let unmerging = unmerges ? try Unmerging(adapters, weights: weights, from: original) : nil
    if let unmerging { (adapters, weights) = (unmerging.adapters, unmerging.weights) }
    let match = try AdapterMatch(
      base: unmerges ? original : try original.stacked(as: adapters), adapters: adapters, weights: weights,
      options: options, unmerges: unmerges)
    try unmerging?.checkNothingIsLost(Set(match.tensors.changes.keys), in: original)
    if !options.allowNonFinite {
      for adapter in adapters { try adapter.checkFinite() }
    }
    let editedConfig = Self.editedConfig(match, original: original.config)
    let record = Change(
      overwritten: unmerges ? [] : try match.overwrittenNames().sorted().map(\.text),
      configKeys: unmerges ? [] : Self.changedKeys(original.config, editedConfig))
    let provenance = try Self.provenance(original, adapters, weights, options, record)
    let shards = try Self.shards(of: match, provenance: provenance, limit: options.maxShardBytes)
    let sideFiles = try asAdapterError { () throws(TensorFileError) in
      try SideFiles(
        base: match.base.directory, adapters: unmerges ? [] : adapters.filter { !$0.isInMemory }.map(\.directory))
    }
    self.init(
      match: match, options: options, shards: shards, editedConfig: editedConfig, sideFiles: sideFiles,
      restoration: unmerging?.restoration(unused: match.unusedCopies),
      notes: match.notes + sideFiles.notes + (unmerging?.notes(unused: match.unusedCopies) ?? []))
  }

  /// What a pass does beside adding, for the record.
  private struct Change {
    let overwritten: [String]
    let configKeys: [String]
  }

  private static func changedKeys(_ old: JSONValue?, _ new: JSONValue?) -> [String] {
    guard let old, let new else { return [] }
    return Set((new.members ?? []).map(\.key)).filter { new[$0] != old[$0] }.sorted()
  }

  /// The base's own record with this merge added. Throws `.alreadyMerged`.
  private static func provenance(
    _ base: BaseModel, _ adapters: [Adapter], _ weights: [Double], _ options: MergeOptions, _ change: Change
  ) throws(AdapterError) -> Provenance {
    let earlier = Provenance(of: base.checkpoint)
    let fingerprint = try base.fingerprint()
    var steps = earlier.steps
    let pass = (steps.last?.pass ?? 0) + 1
    for (adapter, weight) in zip(adapters, weights) {
      let digest = try adapter.digest()
      if !options.allowRepeated { try earlier.requireAbsent(adapter, digest: digest, weight: weight, in: base) }
      steps.append(
        Provenance.Step(
          adapter: digest, name: FileSystem.lastComponent(adapter.directory), weight: weight, base: fingerprint,
          version: Provenance.version, pass: pass, config: try adapter.configDigest(), overwritten: change.overwritten,
          configKeys: change.configKeys))
    }
    return Provenance(steps: steps)
  }
}
