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
    modules = try ConvertedModule.all(of: stored, adapter, base: base, ignoredConfigKeys: ignoredConfigKeys)
    if rule == nil, let module = modules.first(where: { !$0.change.hasKnownRank }) {
      throw .optionNeeded(
        path: adapter.configPath,
        what: "a LoRA of peft_type \(adapter.config.peftType.rawValue) without a rule of ranks",
        reason:
          "its change of '\(module.path)' may have the full rank \(module.change.extent).", option: .giveRanks)
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
      inputs: (adapter.isInMemory ? [] : [adapter.directory]) + (base.map { [$0] } ?? []),
      sources: adapter.isInMemory ? [] : [adapter.file.path]
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

  private func layout(_ steps: [Step]) throws(AdapterError) -> (config: PeftConfig, items: [AdapterSink.Item]) {
    let dtype = adapter.factorDType
    var config = PeftConfig(loraOf: adapter.config, steps.map(\.module))
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
    let wrapped = Set(modules.map { ExactName($0.path) })
    return adapter.replacements.map { (Adapter.prefix + $0.storedName(beside: wrapped), $0.entry) }
      + adapter.tokenRows.map { ("\(Adapter.prefix)\($0.path).token_adapter.trainable_tokens_delta", $0.entry) }
      + adapter.baseCopies.sorted { $0.key < $1.key }.map {
        (AdapterName.withoutForeignParts($0.value.name).name, $0.value)
      }
  }

  private func fill(_ sink: AdapterSink, _ steps: [Step]) throws(AdapterError) -> [WorkbenchReport.Module] {
    for copy in copies { try sink.copy(copy.entry, of: adapter.file, to: copy.name) }
    let dtype = adapter.factorDType
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

extension Adapter {
  /// The dtype of the factors of a LoRA with the adapter's change: that of the first tensor of its method.
  var factorDType: DType {
    let entries = modules.map(\.b) + methodParts.flatMap { $0.tensors.sorted { $0.key < $1.key }.map(\.value) }
    return entries.first { $0.dtype.isComputable }?.dtype ?? .f32
  }
}

extension PeftConfig {
  /// The configuration of a plain LoRA on the modules that an adapter of any method changes. Ranks are still to be set.
  init(loraOf source: PeftConfig, _ modules: [ConvertedModule]) {
    self.init()
    baseModelNameOrPath = source.baseModelNameOrPath
    revision = source.revision
    taskType = source.taskType
    autoMapping = source.autoMapping
    inferenceMode = source.inferenceMode
    fanInFanOut = source.fanInFanOut
    bias = source.peftType == .lora ? source.bias : "none"
    modulesToSave = source.modulesToSave
    trainableTokenIndices = source.trainableTokenIndices
    loraBias = modules.contains { $0.bias != nil }
    (targetModules, excludeModules) = (source.targetModules, source.excludeModules)
    (layersToTransform, layersPattern) = (source.layersToTransform, source.layersPattern)
    layerReplication = source.layerReplication
    if targetModules == nil || source.targetParameters != nil {
      targetModules = .names(modules.map(\.path))
      (excludeModules, layersToTransform, layersPattern) = (nil, nil, nil)
    }
    alpha = .integer(8)
  }
}
