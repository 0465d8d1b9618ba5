internal import TensorFiles
internal import TensorMath

/// Several adapters made one whose change is the weighted sum of theirs.
///
/// Without a rule of ranks the factors are put side by side, which is exact: A's below each other, B's next to each other. Scales that
/// differ are multiplied into B; where that would round a half dtype, all factors are stored in f32. With a rule, the sum's best
/// approximation is computed from the factors.
public struct AdapterCombination: Sendable {
  /// How adapters are combined.
  public struct Options: Sendable {
    /// The ranks of the result; nil to lose nothing.
    public var rule: RankRule?
    /// How the changes are combined; nil for their weighted sum.
    public var method: CombinationMethod?
    /// Where a method's draws begin, as `torch.manual_seed` has it.
    public var seed: UInt64 = 0
    /// True for one rank everywhere, alpha = rank, no patterns, and targets by their last names.
    public var isPlain = false
    /// True to take the weighted mean of heads, biases and rows that several adapters hold in full.
    public var averagesSaved = false
    /// The base model of the adapters, for those whose change is more than factors; it is computed a module at a time.
    public var base: String?
    /// Unknown keys of the configurations that are known to be harmless.
    public var ignoredConfigKeys: Set<String> = []

    public init() {}
  }

  /// An adapter and what its change is multiplied by.
  struct Input: Sendable {
    let adapter: Adapter
    let weight: Double
    /// Of the plain LoRA that the adapter is, or that would have its change.
    let config: PeftConfig
    let modules: [CombinedPart]
    /// The dtypes of its factors.
    let dtypes: Set<DType>

    /// - Parameter base: the adapter's base model, for changes that are more than factors.
    /// Throws `.notPossible` for such a change without the base, and as `ConvertedModule.all`.
    init(
      _ stored: StoredAdapter, _ adapter: Adapter, weight: Double, base: String? = nil,
      ignoredConfigKeys: Set<String> = []
    ) throws(AdapterError) {
      (self.adapter, self.weight) = (adapter, weight)
      do throws(AdapterError) { try adapter.requirePlainLoRA(to: "combining") } catch {
        guard let base else { throw error }
        let modules = try ConvertedModule.all(of: stored, adapter, base: base, ignoredConfigKeys: ignoredConfigKeys)
        config = PeftConfig(loraOf: adapter.config, modules)
        self.modules = modules.map { CombinedPart($0) }
        dtypes = [adapter.factorDType]
        return
      }
      let modules = try LoRAModule.all(of: adapter)
      config = adapter.config
      self.modules = modules.map { CombinedPart($0, of: adapter.file) }
      dtypes = Set(modules.flatMap { [$0.a.dtype, $0.b.dtype] })
    }
  }

  let inputs: [Input]
  let options: Options
  let modules: [CombinedModule]
  /// One adapter with weight 1, which is copied.
  let original: StoredAdapter?
  let saved: SavedTensors
  /// Where the draws of each module begin: one stream serves all, in the natural order of their paths.
  private let generators: [ExactName: TorchGenerator]

  /// - Parameter adapters: each with its weight; at least one.
  /// Throws what `Adapter.init` throws, `.notPossible` for what cannot be added, `.shapeMismatch` where two adapters belong to different
  /// models, `.factorNotFinite` for a weight.
  public init(
    _ adapters: [(adapter: StoredAdapter, weight: Double)], options: Options = Options()
  ) throws(AdapterError) {
    precondition(!adapters.isEmpty, "nothing to combine")
    var inputs: [Input] = []
    for (stored, weight) in adapters {
      guard weight.isFinite else { throw .factorNotFinite(path: stored.name, module: "", factor: weight) }
      let adapter = try Adapter(stored, ignoredConfigKeys: options.ignoredConfigKeys)
      // Alone and unchanged it may be anything that is merged.
      if adapters.count > 1 || weight != 1 || options.isPlain || options.rule != nil || options.method != nil {
        inputs.append(
          try Input(
            stored, adapter, weight: weight, base: options.base, ignoredConfigKeys: options.ignoredConfigKeys))
      }
    }
    original = inputs.isEmpty ? adapters[0].adapter : nil
    self.inputs = inputs
    self.options = options
    modules = try CombinedModule.all(of: inputs)
    saved = try SavedTensors(inputs, averages: options.averagesSaved)
    generators = Self.generators(modules, options, inputs.count)
    try checkMethod()
    for input in inputs.dropFirst() {
      guard input.adapter.config.layerReplication == inputs[0].adapter.config.layerReplication else {
        throw .notPossible(
          path: input.adapter.configPath, what: "combining adapters with layer_replication",
          reason: "the other adapters have another, so that "
            + "their layers are not the same ones.")
      }
    }
  }

  private func checkMethod() throws(AdapterError) {
    guard let method = options.method else { return }
    let path = inputs[0].adapter.configPath
    guard options.rule != nil else {
      throw .optionNeeded(
        path: path, what: "a method of combining without a rule of ranks",
        reason: "what it makes of the changes may have any rank.", option: .giveRanks)
    }
    if method.isPath, inputs.count != 2 || inputs[0].weight + inputs[1].weight == 0 {
      throw .notPossible(
        path: path, what: "the way between \(inputs.count) adapters",
        reason: "it leads from one to another, by weights that do not sum to 0.")
    }
  }

  /// What one module's change is to be, one for each expert.
  func changes(of module: CombinedModule) -> [FactoredChange] {
    guard let method = options.method else { return module.changes }
    return (0..<module.experts).map { expert in
      let shape = module.terms[0].module.changes[expert]
      let parts = inputs.indices.map { input -> FactoredChange? in
        guard let term = module.terms.first(where: { $0.input == input }) else { return nil }
        var change = term.module.changes[expert]
        change.factor *= term.module.scale
        return change
      }
      var generator = generators[ExactName(module.path)] ?? TorchGenerator(seed: options.seed)
      generator.skip(words: expert * method.draws(shape.output * shape.input, of: inputs.count))
      let mixed = MixedChange(
        method: method, weights: inputs.map(\.weight), changes: parts, output: shape.output, input: shape.input,
        generator: generator)
      return FactoredChange(
        output: shape.output, input: shape.input,
        products: [.dense { () throws(AdapterError) in try mixed.matrix() }])
    }
  }

  private static func generators(
    _ modules: [CombinedModule], _ options: Options, _ inputs: Int
  ) -> [ExactName: TorchGenerator] {
    guard let method = options.method else { return [:] }
    var generator = TorchGenerator(seed: options.seed)
    var found: [ExactName: TorchGenerator] = [:]
    for module in modules {
      found[ExactName(module.path)] = generator
      let change = module.terms[0].module.changes[0]
      generator.skip(words: module.experts * method.draws(change.output * change.input, of: inputs))
    }
    return found
  }

  var notes: [String] {
    var notes = saved.notes
    let bases = Set(inputs.compactMap(\.adapter.config.baseModelNameOrPath))
    if bases.count > 1 {
      notes.append("the adapters name different base models: \(bases.sorted().joined(separator: ", "))")
    }
    return notes
  }
}

extension Array where Element: Hashable & Comparable {
  /// The value that occurs most often, of several the greatest; nil without any.
  var mostFrequent: Element? {
    var counts: [Element: Int] = [:]
    for value in self { counts[value, default: 0] += 1 }
    return counts.max { ($0.value, $0.key) < ($1.value, $1.key) }?.key
  }
}

extension Double {
  /// True for 2ⁿ and -2ⁿ, and for zero: a product with it is exact but for what a dtype cannot hold.
  var isPowerOfTwo: Bool { self == 0 || (isFinite && abs(significand) == 1) }
}
