internal import TensorFiles
internal import TensorMath

/// A LoRA with the change of an adapter of any method that is merged.
///
/// A change that is a product of known factors is kept whole unless a rule of ranks says otherwise; of any other the best approximation
/// is written. Either has alpha = rank, so that B·A is the change itself. Heads, other saved modules, biases in full and trained tokens
/// are copied; what is added to a bias becomes lora_B's.
/// Source of the rule: peft/tuners/lora/conversion.py `convert_to_lora`.
public struct LoRAConversion: Sendable {
  private let adapter: Adapter
  private let rule: RankRule
  private let modules: [ConvertedModule]
  private let base: String?

  /// - Parameters:
  ///   - base: the adapter's base model: needed where the change depends on the weights.
  ///   - rule: the ranks; nil to keep each change whole, which needs changes of low rank.
  ///   - ignoredConfigKeys: unknown keys of the configuration that are known to be harmless.
  /// Throws what `Adapter.init` and `MergePlan.init` throw, `.notPossible` for what no LoRA can hold or for what needs the base or a
  /// rule.
  public init(
    _ stored: StoredAdapter, base: String? = nil, rule: RankRule? = nil, ignoredConfigKeys: Set<String> = []
  ) throws(AdapterError) {
    adapter = try Adapter(stored, ignoredConfigKeys: ignoredConfigKeys)
    self.base = base
    if let base {
      var options = MergeOptions()
      options.ignoredConfigKeys = ignoredConfigKeys
      options.allowRepeated = true
      let match = try AdapterMatch(base: base, adapters: [MergePlan.Input(stored)], options: options)
      modules = try ConvertedModule.all(of: adapter, in: match)
    } else {
      if AdapterMethod.named(stored.config.peftType) == nil {
        try adapter.requirePlainLoRA(to: "a LoRA without the base of")
      }
      modules = try ConvertedModule.all(of: adapter)
    }
    guard !modules.isEmpty else {
      throw .notPossible(
        path: adapter.configPath, what: "a LoRA of peft_type \(adapter.config.peftType.rawValue)",
        reason: "it replaces tensors and changes no weight by a sum, so that no LoRA holds it.")
    }
    if rule == nil, let module = modules.first(where: { !$0.change.hasKnownRank }) {
      throw .notPossible(
        path: adapter.configPath,
        what: "a LoRA of peft_type \(adapter.config.peftType.rawValue) without a rule of ranks",
        reason:
          "its change of '\(module.path)' may have the full rank \(module.change.extent). Give --rank or --energy.")
    }
    self.rule = rule ?? .whole
  }

  private struct Step: Sendable {
    let module: ConvertedModule
    let rank: Int
    let reduction: LowRankReduction
  }

  /// Writes the LoRA. `output` appears whole or not at all.
  ///
  /// - Parameters:
  ///   - replacing: whether something that is already at `output` goes.
  ///   - workers: modules that are decomposed at once.
  /// Memory: for each of `workers` the factors of a module in f64, or the whole weight where its change has none.
  /// Throws `.adapterNotFinite`, `.file`.
  public func write(to output: String, replacing: Bool = false, workers: Int = 2) async throws -> WorkbenchReport {
    let steps = try await makeSteps(workers: workers)
    let (config, items) = try layout(steps)
    var rows: [WorkbenchReport.Module] = []
    try StoredAdapter.write(
      config, items, to: output, replacing: replacing,
      inputs: (adapter.isInMemory ? [] : [adapter.directory]) + (base.map { [$0] } ?? [])
    ) { sink throws(AdapterError) in rows = try fill(sink, steps) }
    return WorkbenchReport(modules: rows, notes: [])
  }

  /// The LoRA in memory. Throws as `write`.
  public func converted(workers: Int = 2) async throws -> (adapter: StoredAdapter, report: WorkbenchReport) {
    let steps = try await makeSteps(workers: workers)
    let (config, items) = try layout(steps)
    var rows: [WorkbenchReport.Module] = []
    let adapter = try StoredAdapter(config, items, named: adapter.directory) { sink throws(AdapterError) in
      rows = try fill(sink, steps)
    }
    return (adapter, WorkbenchReport(modules: rows, notes: []))
  }

  private func makeSteps(workers: Int) async throws -> [Step] {
    let blas = SingleThreadedBLAS()
    defer { blas.end() }
    return try await withThrowingTaskGroup(of: [(Int, Step)].self) { group in
      for worker in 0..<max(1, workers) {
        group.addTask {
          try stride(from: worker, to: modules.count, by: max(1, workers)).map { index in
            try Task.checkCancellation()
            return (index, try step(modules[index]))
          }
        }
      }
      var all: [(Int, Step)] = []
      for try await part in group { all += part }
      return all.sorted { $0.0 < $1.0 }.map(\.1)
    }
  }

  private func step(_ module: ConvertedModule) throws(AdapterError) -> Step {
    let found = try module.change.reduction(by: rule) { rule.rank(of: $0, extent: module.change.extent) }
    guard let found else {
      try adapter.checkFinite()
      throw .factorNotFinite(path: adapter.file.path, module: module.path, factor: .infinity)
    }
    return Step(
      module: module,
      rank: found.chosenRank ?? rule.rank(of: found.singularValues, extent: module.change.extent), reduction: found)
  }

  /// The dtype of the factors: that of the adapter's first tensor of its method.
  private var dtype: DType {
    let entries =
      adapter.modules.map(\.b) + adapter.methodParts.flatMap { $0.tensors.sorted { $0.key < $1.key }.map(\.value) }
    return entries.first { $0.dtype.isComputable }?.dtype ?? .f32
  }

  private func layout(_ steps: [Step]) throws(AdapterError) -> (config: PeftConfig, items: [AdapterSink.Item]) {
    let source = adapter.config
    var config = PeftConfig()
    config.baseModelNameOrPath = source.baseModelNameOrPath
    config.revision = source.revision
    config.taskType = source.taskType
    config.autoMapping = source.autoMapping
    config.inferenceMode = source.inferenceMode
    config.fanInFanOut = source.fanInFanOut
    config.bias = source.peftType == .lora ? source.bias : "none"
    config.modulesToSave = source.modulesToSave
    config.trainableTokenIndices = source.trainableTokenIndices
    config.loraBias = steps.contains { $0.module.bias != nil }
    (config.targetModules, config.excludeModules) = (source.targetModules, source.excludeModules)
    (config.layersToTransform, config.layersPattern) = (source.layersToTransform, source.layersPattern)
    config.layerReplication = source.layerReplication
    if config.targetModules == nil || source.targetParameters != nil {
      config.targetModules = .names(steps.map(\.module.path))
      (config.excludeModules, config.layersToTransform, config.layersPattern) = (nil, nil, nil)
    }
    config.alpha = .integer(8)
    try config.setRanks(
      steps.map { ModuleRank(key: $0.module.path, rank: $0.rank, scale: 1) }, path: "the LoRA of \(adapter.directory)")
    var items = copies.map { AdapterSink.Item(name: $0.name, dtype: $0.entry.dtype, shape: $0.entry.shape) }
    for step in steps {
      let names = step.module.names
      items.append(.init(name: names.a, dtype: dtype, shape: step.module.shapeA(rank: step.rank)))
      items.append(.init(name: names.b, dtype: dtype, shape: step.module.shapeB(rank: step.rank)))
      if step.module.bias != nil {
        items.append(.init(name: names.bias, dtype: dtype, shape: [step.module.change.output]))
      }
    }
    return (config, items)
  }

  /// What is copied as it is.
  private var copies: [(name: String, entry: TensorEntry)] {
    adapter.replacements.map { (Adapter.prefix + $0.name, $0.entry) }
      + adapter.tokenRows.map { ("\(Adapter.prefix)\($0.path).token_adapter.trainable_tokens_delta", $0.entry) }
      + adapter.baseCopies.sorted { $0.key < $1.key }.map {
        (AdapterName.withoutForeignParts($0.value.name).name, $0.value)
      }
  }

  private func fill(_ sink: AdapterSink, _ steps: [Step]) throws(AdapterError) -> [WorkbenchReport.Module] {
    for copy in copies { try sink.copy(copy.entry, of: adapter.file, to: copy.name) }
    guard let format = dtype.format else { preconditionFailure("factors of \(dtype)") }
    var rows: [WorkbenchReport.Module] = []
    for step in steps {
      let (names, reduction) = (step.module.names, step.reduction)
      let (b, a) = try step.module.change.factors()
      let exact = reduction.factors(b, a, rank: step.rank)
      let rounded = RoundedFactors(b: exact.b, format, a: exact.a, format)
      guard rounded.b.isFinite, rounded.a.isFinite else {
        throw .factorNotFinite(
          path: adapter.file.path, module: step.module.path, factor: reduction.singularValues.first ?? .infinity)
      }
      try LoRAFile(sink: sink, a: names.a, b: names.b).write(rounded, expert: 0, of: 1, rank: step.rank)
      if let bias = step.module.bias {
        try sink.write(StoredValues(try bias.values(), format).bytes.span.bytes, to: names.bias)
      }
      rows.append(
        .init(
          path: step.module.path, fromRank: b.columns, rank: step.rank, squares: reduction.squares,
          lostSquares: reduction.lostSquares(rank: step.rank) + rounded.lostSquares,
          greatest: reduction.singularValues.first))
    }
    return rows
  }
}

extension StoredAdapter {
  /// The adapter itself if it is a LoRA of factors and no more, else the whole of its change as one, in memory.
  ///
  /// Memory: the factors; as large as the weights that it changes where their ranks are full, as those of DoRA are.
  /// Throws as `LoRAConversion`.
  public func asPlainLoRA(
    base: String?, ignoredConfigKeys: Set<String> = []
  ) async throws -> StoredAdapter {
    let adapter = try Adapter(self, ignoredConfigKeys: ignoredConfigKeys)
    guard (try? adapter.requirePlainLoRA(to: "")) == nil else { return self }
    let conversion = try LoRAConversion(self, base: base, rule: .whole, ignoredConfigKeys: ignoredConfigKeys)
    return try await conversion.converted().adapter
  }
}
