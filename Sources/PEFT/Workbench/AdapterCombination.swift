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
  private let original: StoredAdapter?
  private let saved: SavedTensors
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
  private func changes(of module: CombinedModule) -> [FactoredChange] {
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

  /// Writes the combination. `output` appears whole or not at all.
  ///
  /// - Parameters:
  ///   - replacing: whether something that is already at `output` goes.
  ///   - workers: modules that are decomposed at once.
  /// Memory: the factors of a module in f64, for each of `workers`. Throws `.adapterNotFinite`, `.factorNotFinite`, `.file`.
  public func write(to output: String, replacing: Bool = false, workers: Int = 2) async throws -> WorkbenchReport {
    if let original {
      try original.save(to: output, replacing: replacing)
      return WorkbenchReport(modules: [], notes: ["one adapter with weight 1: its tensors were copied byte for byte"])
    }
    let steps = try await makeSteps(workers: workers)
    let (config, items) = try layout(steps)
    var rows: [WorkbenchReport.Module] = []
    try StoredAdapter.write(
      config, items, to: output, replacing: replacing,
      inputs: inputs.filter { !$0.adapter.isInMemory }.map(\.adapter.directory)
    ) { sink throws(AdapterError) in rows = try fill(sink, steps) }
    return WorkbenchReport(modules: rows, notes: notes)
  }

  private var notes: [String] {
    var notes = saved.notes
    let bases = Set(inputs.compactMap(\.adapter.config.baseModelNameOrPath))
    if bases.count > 1 {
      notes.append("the adapters name different base models: \(bases.sorted().joined(separator: ", "))")
    }
    return notes
  }

  // MARK: Steps

  private func makeSteps(workers: Int) async throws -> [Step] {
    guard let rule = options.rule else { return stepsSideBySide }
    let blas = SingleThreadedBLAS()
    defer { blas.end() }
    var steps = try await withThrowingTaskGroup(of: [(Int, Step)].self) { group in
      for worker in 0..<max(1, workers) {
        group.addTask {
          try stride(from: worker, to: modules.count, by: max(1, workers)).map { index in
            try Task.checkCancellation()
            return (index, try reduced(modules[index], rule))
          }
        }
      }
      var all: [(Int, Step)] = []
      for try await part in group { all += part }
      return all.sorted { $0.0 < $1.0 }.map(\.1)
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
    let changes = changes(of: module)
    for change in changes {
      // Of several with one rank the others may need more than a change's own rule says.
      let found = try change.reduction(by: isShared && changes.count > 1 ? .whole : rule) { values in
        isShared ? values.count : rule.rank(of: values, extent: change.extent)
      }
      guard let found else { throw try notFinite(module) }
      rank = max(rank, found.chosenRank ?? rule.rank(of: found.singularValues, extent: change.extent))
      reductions.append(found)
    }
    return Step(module: module, rank: rank, scale: 1, reductions: reductions)
  }

  private func notFinite(_ module: CombinedModule) throws(AdapterError) -> AdapterError {
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

  // MARK: Writing

  /// The dtype of all factors: the inputs' own, f32 where they differ or where scales would round a half dtype.
  private func dtype(_ steps: [Step]) -> DType {
    let dtypes = Set(inputs.flatMap { $0.modules.flatMap { [$0.a.dtype, $0.b.dtype] } })
    if dtypes.contains(.f64) { return .f64 }
    guard dtypes.count == 1, let dtype = dtypes.first else { return .f32 }
    let isExact = steps.allSatisfy { step in
      step.reductions != nil || step.module.terms.allSatisfy { ($0.scale / step.scale).isPowerOfTwo }
    }
    return isExact ? dtype : .f32
  }

  private func layout(_ steps: [Step]) throws(AdapterError) -> (config: PeftConfig, items: [AdapterSink.Item]) {
    let dtype = dtype(steps)
    var config = try combinedConfig(steps)
    if config.loraBias, let embedding = modules.first(where: { $0.terms[0].module.isEmbedding }) {
      throw .notPossible(
        path: inputs[0].adapter.configPath, what: "a bias of lora_B beside the embedding '\(embedding.path)'",
        reason: "PEFT has no lora_bias for embeddings, so it could not load the combination.")
    }
    var items = saved.items
    for step in steps {
      let names = step.module.names
      items.append(.init(name: names.a, dtype: dtype, shape: step.module.shapeA(rank: step.rank)))
      items.append(.init(name: names.b, dtype: dtype, shape: step.module.shapeB(rank: step.rank)))
      if step.module.hasBias { items.append(.init(name: names.bias, dtype: dtype, shape: [step.module.output])) }
    }
    saved.complete(&config)
    return (config, items)
  }

  private func fill(_ sink: AdapterSink, _ steps: [Step]) throws(AdapterError) -> [WorkbenchReport.Module] {
    try saved.fill(sink)
    let dtypes = Dictionary(
      sink.entries.map { (ExactName($0.name), $0.dtype) }, uniquingKeysWith: { first, _ in first })
    var rows: [WorkbenchReport.Module] = []
    // What loses nothing counts in the whole, if something may.
    let factorType = dtype(steps)
    let measures = steps.contains { step in
      step.reductions != nil || !step.module.canBeCopied(to: factorType, scale: step.scale)
    }
    for step in steps {
      let names = step.module.names
      let dtype = dtypes[ExactName(names.a)] ?? .f32
      let file = LoRAFile(sink: sink, a: names.a, b: names.b)
      if step.module.hasBias, let format = dtype.format {
        let bias = StoredValues(try step.module.bias(scale: step.scale), format)
        try sink.write(bias.bytes.span.bytes, to: names.bias)
      }
      if step.reductions == nil, step.module.canBeCopied(to: dtype, scale: step.scale) {
        try file.copy(step.module, rank: step.rank)
        var squares = measures ? 0.0 : nil
        if measures { for change in step.module.changes { squares? += try change.squares() } }
        rows.append(
          .init(
            path: step.module.path, fromRank: step.module.rank, rank: step.rank, squares: squares, lostSquares: 0))
      } else {
        rows.append(try fill(file, step, dtype))
      }
    }
    return rows
  }

  private func fill(
    _ file: LoRAFile, _ step: Step, _ dtype: DType
  ) throws(AdapterError) -> WorkbenchReport.Module {
    guard let format = dtype.format else { preconditionFailure("factors of \(dtype)") }
    let module = step.module
    var (lost, squares) = (0.0, 0.0)
    var values: [Double] = []
    for (expert, change) in changes(of: module).enumerated() {
      let (b, a) = try change.factors()
      var exact = (b: b, a: a)
      if let reduction = step.reductions?[expert] {
        exact = reduction.factors(b, a, rank: step.rank)
        lost += reduction.lostSquares(rank: step.rank)
        squares += reduction.squares
        values += reduction.singularValues
      } else {
        for index in exact.b.values.indices { exact.b.values[index] /= step.scale }
        squares += FactoredChange.squares(b, a)
        let missing = step.rank - a.rows
        if missing > 0 {
          exact.b = Matrix.sideBySide([exact.b, Matrix(rows: b.rows, columns: missing)], rows: b.rows)
          exact.a = Matrix.stacked([a, Matrix(rows: missing, columns: a.columns)], columns: a.columns)
        }
      }
      let rounded = RoundedFactors(b: exact.b, format, a: exact.a, format)
      guard rounded.b.isFinite, rounded.a.isFinite else {
        throw try notFinite(module)
      }
      try file.write(rounded, expert: expert, of: module.experts, rank: step.rank)
      lost += rounded.lostSquares * step.scale * step.scale
    }
    return .init(
      path: module.path, fromRank: module.rank, rank: step.rank, squares: squares, lostSquares: lost,
      keptSum: nil, greatest: values.max(), spread: nil)
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
