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
    /// Unknown keys of the configurations that are known to be harmless.
    public var ignoredConfigKeys: Set<String> = []

    public init() {}
  }

  /// An adapter and what its change is multiplied by.
  struct Input: Sendable {
    let adapter: Adapter
    let weight: Double
    let modules: [LoRAModule]
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
        try adapter.requirePlainLoRA(to: "combining")
        inputs.append(Input(adapter: adapter, weight: weight, modules: try LoRAModule.all(of: adapter)))
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
      throw .notPossible(
        path: path, what: "a method of combining without a rule of ranks",
        reason: "what it makes of the changes may have any rank. Give --rank or --energy.")
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
        change.factor = term.module.values.scale
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

  /// How one module is written.
  struct Step: Sendable {
    let module: CombinedModule
    let rank: Int
    /// What alpha and rank say.
    let scale: Double
    /// The best approximation's parts, one an expert; nil for factors side by side.
    var reductions: [LowRankReduction]?
  }

  var notes: [String] {
    var notes = saved.notes
    let bases = Set(inputs.compactMap(\.adapter.config.baseModelNameOrPath))
    if bases.count > 1 {
      notes.append("the adapters name different base models: \(bases.sorted().joined(separator: ", "))")
    }
    return notes
  }

  // MARK: Steps

  func makeSteps(workers: Int) async throws -> [Step] {
    guard let rule = options.rule else { return stepsSideBySide }
    var steps = try await inParallel(modules.count, workers: workers, state: ()) { index, _ in
      try reduced(modules[index], rule)
    }
    var ranks: [String: Int] = [:]
    for step in steps { ranks[step.module.key] = max(step.rank, ranks[step.module.key] ?? 0) }
    let widest = steps.map(\.rank).max() ?? 1
    steps = steps.map { step in
      Step(
        module: step.module, rank: options.isPlain ? widest : ranks[step.module.key] ?? step.rank, scale: 1,
        reductions: step.reductions)
    }
    return steps
  }

  private func reduced(_ module: CombinedModule, _ rule: RankRule) throws(AdapterError) -> Step {
    let isShared = !rule.isFixed
    var reductions: [LowRankReduction] = []
    var rank = 1
    for change in changes(of: module) {
      let (b, a) = try change.factors()
      let found = LowRankReduction(b: b, a: a) { values in
        isShared ? values.count : rule.rank(of: values, extent: change.extent)
      }
      guard let found else { throw try notFinite(module) }
      rank = max(rank, rule.rank(of: found.singularValues, extent: change.extent))
      reductions.append(found)
    }
    return Step(module: module, rank: rank, scale: 1, reductions: reductions)
  }

  func notFinite(_ module: CombinedModule) throws(AdapterError) -> AdapterError {
    for input in inputs { try input.adapter.checkFinite() }
    return .factorNotFinite(path: inputs[0].adapter.file.path, module: module.path, factor: .infinity)
  }

  /// Factors side by side: each module's scale is one that most of its parts have already, so that these are copied.
  private var stepsSideBySide: [Step] {
    let all = modules.flatMap { $0.terms.map { abs($0.scale) } }.filter { $0 > 0 }
    let usual = options.isPlain ? 1 : all.mostFrequent ?? 1
    let widest = modules.map(\.rank).max() ?? 1
    var scales: [String: Double] = [:]
    for module in modules {
      let own = module.terms.map { abs($0.scale) }.filter { $0 > 0 }
      let scale = options.isPlain || own.contains(usual) ? usual : own.mostFrequent ?? usual
      if scales[module.key] == nil { scales[module.key] = scale }
    }
    return modules.map { module in
      Step(
        module: module, rank: options.isPlain ? widest : module.rank, scale: scales[module.key] ?? usual,
        reductions: nil)
    }
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
