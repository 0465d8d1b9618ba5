internal import TensorFiles
internal import TensorMath

/// Gives the modules of a LoRA other ranks: the best approximation of B·A by fewer, or zeros beside it.
///
/// The scale of each module stays what it was, so alpha changes with the rank. DoRA's magnitudes stay: they are applied to the norm of
/// what W + ΔW becomes.
/// Source of the rules: sd-scripts networks/resize_lora.py; peft/tuners/lora/conversion.py.
public struct AdapterResize: Sendable {
  private let stored: StoredAdapter
  private let adapter: Adapter
  private let modules: [LoRAModule]
  private let rule: RankRule

  /// - Parameter ignoredConfigKeys: unknown keys of the configuration that are known to be harmless.
  /// Throws what `Adapter.init` throws, `.notPossible` where factors alone do not make the change, `.rankMismatch`.
  public init(_ stored: StoredAdapter, rule: RankRule, ignoredConfigKeys: Set<String> = []) throws(AdapterError) {
    self.stored = stored
    self.rule = rule
    adapter = try Adapter(stored, ignoredConfigKeys: ignoredConfigKeys, allowsInvocation: true)
    try adapter.requirePlainLoRA(allowsMagnitudes: true, to: "resizing")
    modules = try LoRAModule.all(of: adapter)
  }

  /// A module with its new rank, and how to come to it; nil where zeros are put beside the factors.
  private struct Step: Sendable {
    let module: LoRAModule
    let rank: Int
    let reductions: [LowRankReduction]?
  }

  /// Writes the resized adapter. `output` appears whole or not at all.
  ///
  /// - Parameters:
  ///   - replacing: whether something that is already at `output` goes.
  ///   - workers: modules that are decomposed at once.
  /// Memory: the factors of a module in f64, for each of `workers`. Throws `.adapterNotFinite`, `.file`.
  public func write(to output: String, replacing: Bool = false, workers: Int = 2) async throws -> WorkbenchReport {
    let steps = try await makeSteps(workers: workers)
    var report = WorkbenchReport(modules: [], notes: notes)
    let layout = try layout(steps)
    try StoredAdapter.write(
      layout.config, layout.items, to: output, replacing: replacing, inputs: stored.directory.map { [$0] } ?? [],
      sources: stored.storedFiles
    ) { sink throws(AdapterError) in report.modules = try fill(sink, steps, layout.copies) }
    return report
  }

  /// The resized adapter in memory. Throws as `write`.
  public func resized(workers: Int = 2) async throws -> (adapter: StoredAdapter, report: WorkbenchReport) {
    let steps = try await makeSteps(workers: workers)
    var report = WorkbenchReport(modules: [], notes: notes)
    let layout = try layout(steps)
    let adapter = try StoredAdapter(layout.config, layout.items, named: stored.name) { sink throws(AdapterError) in
      report.modules = try fill(sink, steps, layout.copies)
    }
    return (adapter, report)
  }

  private var notes: [String] {
    adapter.config.useDoRA
      ? [
        "the magnitudes of DoRA were kept: the norms that they set are exact, the errors above are those of the direction before it"
          + " is scaled"
      ] : []
  }

  // MARK: Ranks

  private func makeSteps(workers: Int) async throws -> [Step] {
    let blas = SingleThreadedBLAS()
    defer { blas.end() }
    let steps = try await withThrowingTaskGroup(of: [(Int, Step)].self) { group in
      for worker in 0..<max(1, workers) {
        group.addTask {
          try stride(from: worker, to: modules.count, by: max(1, workers)).map { index in
            try Task.checkCancellation()
            return (index, try makeStep(modules[index]))
          }
        }
      }
      var all: [(Int, Step)] = []
      for try await part in group { all += part }
      return all.sorted { $0.0 < $1.0 }.map(\.1)
    }
    return sharingKeys(steps)
  }

  /// The parts of an attention have one rank: the greatest that one of them needs.
  private func sharingKeys(_ steps: [Step]) -> [Step] {
    var ranks: [String: Int] = [:]
    for step in steps { ranks[step.module.key] = max(step.rank, ranks[step.module.key] ?? 0) }
    return steps.map { step in
      let rank = ranks[step.module.key] ?? step.rank
      return Step(module: step.module, rank: rank, reductions: rank < step.module.values.rank ? step.reductions : nil)
    }
  }

  private func makeStep(_ module: LoRAModule) throws(AdapterError) -> Step {
    if case .fixed(let rank) = rule.choice, rank >= module.values.rank {
      return Step(module: module, rank: rank, reductions: nil)
    }
    // What shares its rank with others may need more than its own rule says.
    let isShared = module.experts > 1 || modules.count(where: { $0.key == module.key }) > 1
    var reductions: [LowRankReduction] = []
    var rank = 1
    for change in module.changes {
      let (b, a) = try change.factors()
      let found = LowRankReduction(b: b, a: a) { values in
        isShared ? values.count : rule.rank(of: values, extent: change.extent)
      }
      guard let found else { throw try notFinite() }
      rank = max(rank, rule.rank(of: found.singularValues, extent: change.extent))
      reductions.append(found)
    }
    return Step(module: module, rank: rank, reductions: reductions)
  }

  private func notFinite() throws(AdapterError) -> AdapterError {
    try adapter.checkFinite()
    return .factorNotFinite(path: adapter.file.path, module: "", factor: .infinity)
  }

  // MARK: Writing

  private func layout(
    _ steps: [Step]
  ) throws(AdapterError) -> (config: PeftConfig, items: [AdapterSink.Item], copies: [(TensorEntry, String)]) {
    var config = stored.config
    // What an initialisation draws or computes for another rank has no part in trained factors.
    if config.initLoRAWeights.stringValue != nil { config.initLoRAWeights = .bool(true) }
    try config.setRanks(
      steps.map { ModuleRank(key: $0.module.key, rank: $0.rank, scale: $0.module.values.scale) },
      path: stored.configPath)
    var items: [AdapterSink.Item] = []
    var written: Set<ExactName> = []
    for step in steps {
      let (a, b) = (step.module.a, step.module.b)
      items.append(.init(name: name(a), dtype: a.dtype, shape: step.module.shapeA(rank: step.rank)))
      items.append(.init(name: name(b), dtype: b.dtype, shape: step.module.shapeB(rank: step.rank)))
      written.insert(ExactName(a.name))
      written.insert(ExactName(b.name))
    }
    var copies: [(TensorEntry, String)] = []
    for entry in stored.weights.entries where !written.contains(ExactName(entry.name)) {
      copies.append((entry, name(entry)))
      items.append(.init(name: name(entry), dtype: entry.dtype, shape: entry.shape))
    }
    return (config, items, copies)
  }

  private func name(_ entry: TensorEntry) -> String { AdapterName.withoutForeignParts(entry.name).name }

  private func fill(
    _ sink: AdapterSink, _ steps: [Step], _ copies: [(TensorEntry, String)]
  ) throws(AdapterError) -> [WorkbenchReport.Module] {
    for (entry, name) in copies { try sink.copy(entry, of: stored.weights, to: name) }
    var rows: [WorkbenchReport.Module] = []
    // What loses nothing counts in the whole, if something does.
    let measures = steps.contains { $0.reductions != nil }
    for step in steps {
      let module = step.module
      let file = LoRAFile(sink: sink, a: name(module.a), b: name(module.b))
      guard let reductions = step.reductions else {
        try file.pad(module, of: stored.weights, rank: step.rank)
        let squares = measures ? try module.squares() * module.values.scale * module.values.scale : nil
        rows.append(
          .init(
            path: module.path, fromRank: module.values.rank, rank: step.rank, squares: squares, lostSquares: 0))
        continue
      }
      rows.append(try fill(file, module, step.rank, reductions))
    }
    return rows
  }

  private func fill(
    _ file: LoRAFile, _ module: LoRAModule, _ rank: Int, _ reductions: [LowRankReduction]
  ) throws(AdapterError) -> WorkbenchReport.Module {
    guard let format = module.b.dtype.format, let formatA = module.a.dtype.format else {
      throw .adapterDType(path: stored.weights.path, tensor: module.b.name, dtype: module.b.dtype)
    }
    var (lost, squares) = (0.0, 0.0)
    for (expert, reduction) in reductions.enumerated() {
      let (b, a) = try module.changes[expert].factors()
      let exact = reduction.factors(b, a, rank: rank)
      let rounded = RoundedFactors(b: exact.b, format, a: exact.a, formatA)
      guard rounded.b.isFinite, rounded.a.isFinite else {
        throw .factorNotFinite(path: stored.weights.path, module: module.path, factor: reduction.singularValues[0])
      }
      try file.write(rounded, expert: expert, of: module.experts, rank: rank)
      lost += reduction.lostSquares(rank: rank) + rounded.lostSquares
      squares += reduction.squares
    }
    let values = reductions.flatMap(\.singularValues).sorted(by: >)
    let kept = reductions.flatMap { $0.singularValues.prefix(rank) }
    let scale = module.values.scale
    var row = WorkbenchReport.Module(
      path: module.path, fromRank: module.values.rank, rank: rank, squares: squares * scale * scale,
      lostSquares: lost * scale * scale)
    if let greatest = values.first, let least = kept.min() {
      row.keptSum = kept.reduce(0, +) / values.reduce(0, +)
      row.greatest = greatest * abs(scale)
      row.spread = greatest / least
    }
    return row
  }
}
