internal import TensorFiles
internal import TensorMath

extension AdapterCombination {
  /// Writes the combination. `output` appears whole or not at all.
  ///
  /// - Parameters:
  ///   - replacing: whether something that is already at `output` goes.
  ///   - workers: modules that are decomposed or written at once.
  /// Memory: a few MiB for each of `workers`, and the factors of a module in f64 where something is rounded or decomposed; its whole
  /// change where that has no factors, and room for the result's factors in a temporary file.
  /// Throws `.adapterNotFinite`, `.factorNotFinite`, `.file`.
  public func write(to output: String, replacing: Bool = false, workers: Int = 2) async throws -> WorkbenchReport {
    if let original {
      try original.save(to: output, replacing: replacing)
      return WorkbenchReport(modules: [], notes: ["one adapter with weight 1: its tensors were copied byte for byte"])
    }
    let steps = try await makeSteps(workers: workers)
    let dtype = dtype(steps)
    let (config, items) = try layout(steps, dtype)
    let stored = inputs.map(\.adapter).filter { !$0.isInMemory }
    let made = try AdapterOutput(
      items, at: output, replacing: replacing, inputs: stored.map(\.directory) + (options.base.map { [$0] } ?? []),
      sources: stored.map(\.file.path))
    do {
      let rows = try await fill(made.sink, steps, dtype, workers: workers)
      try made.commit(config)
      return WorkbenchReport(modules: rows, notes: notes)
    } catch {
      made.discard()
      throw error
    }
  }

  /// The dtype of all factors: the inputs' own, f32 where they differ or where scales would round a half dtype.
  private func dtype(_ steps: [Step]) -> DType {
    let dtypes = inputs.reduce(into: Set<DType>()) { $0.formUnion($1.dtypes) }
    if dtypes.contains(.f64) { return .f64 }
    guard dtypes.count == 1, let dtype = dtypes.first else { return .f32 }
    let isExact = steps.allSatisfy { step in
      !step.isSideBySide || step.module.terms.allSatisfy { ($0.scale / step.scale).isPowerOfTwo }
    }
    return isExact ? dtype : .f32
  }

  private func layout(
    _ steps: [Step], _ dtype: DType
  ) throws(AdapterError) -> (config: PeftConfig, items: [AdapterSink.Item]) {
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

  private func fill(
    _ sink: AdapterSink, _ steps: [Step], _ dtype: DType, workers: Int
  ) async throws -> [WorkbenchReport.Module] {
    try saved.fill(sink)
    var rows = try await inParallel(steps.count, workers: workers, state: FactorJoin()) { index, join in
      try fill(sink, steps[index], dtype, &join)
    }
    // What loses nothing counts in the whole, if something may.
    guard rows.contains(where: { $0.squares != nil }) else { return rows }
    let missing = rows.indices.filter { rows[$0].squares == nil }
    let squares = try await inParallel(missing.count, workers: workers, state: ()) { index, _ in
      try steps[missing[index]].module.changes.reduce(0.0) { try $0 + $1.squares() }
    }
    for (index, squares) in zip(missing, squares) { rows[index].squares = squares }
    return rows
  }

  private func fill(
    _ sink: AdapterSink, _ step: Step, _ dtype: DType, _ join: inout FactorJoin
  ) throws(AdapterError) -> WorkbenchReport.Module {
    guard let format = dtype.format else { preconditionFailure("factors of \(dtype)") }
    let (module, names) = (step.module, step.module.names)
    let file = LoRAFile(sink: sink, a: names.a, b: names.b)
    if module.hasBias {
      let bias = StoredValues(try module.bias(scale: step.scale), format)
      try sink.write(bias.bytes.span.bytes, to: names.bias)
    }
    guard step.isSideBySide else { return try fill(file, step, format) }
    let isExact = try join.write(module, rank: step.rank, dtype, scale: step.scale, to: file)
    let (squares, lost) = isExact ? (nil, 0) : try rounding(step, format)
    return .init(path: module.path, fromRank: module.rank, rank: step.rank, squares: squares, lostSquares: lost)
  }

  /// ‖ΔW‖² of factors side by side, and what rounding B and A took from it.
  private func rounding(_ step: Step, _ format: FloatFormat) throws(AdapterError) -> (squares: Double?, lost: Double) {
    var (squares, lost) = (0.0, 0.0)
    for change in step.module.changes {
      var (b, a) = try change.factors()
      squares += FactoredChange.squares(b, a)
      for index in b.values.indices { b.values[index] /= step.scale }
      let rounded = RoundedFactors(b: b, format, a: a, format)
      guard rounded.b.isFinite, rounded.a.isFinite else { throw try notFinite(step.module) }
      lost += rounded.lostSquares * step.scale * step.scale
    }
    return (squares, lost)
  }

  private func fill(
    _ file: LoRAFile, _ step: Step, _ format: FloatFormat
  ) throws(AdapterError) -> WorkbenchReport.Module {
    let module = step.module
    var (lost, squares, greatest) = (0.0, 0.0, 0.0)
    for expert in 0..<module.experts {
      let exact: (b: Matrix<Double>, a: Matrix<Double>)
      switch step.content {
      case .sideBySide: preconditionFailure("'\(module.path)' was not decomposed")
      case .reduced(let reductions):
        let reduction = reductions[expert]
        let (b, a) = try changes(of: module)[expert].factors()
        exact = reduction.factors(b, a, rank: step.rank)
        squares += reduction.squares
        lost += reduction.lostSquares(rank: step.rank)
        greatest = max(greatest, reduction.singularValues.first ?? 0)
      case .kept(let parts):
        exact = try parts[expert].factors(rank: step.rank)
        squares += parts[expert].squares
        lost += parts[expert].lostSquares
        greatest = max(greatest, parts[expert].singularValues.first ?? 0)
      }
      let rounded = RoundedFactors(b: exact.b, format, a: exact.a, format)
      guard rounded.b.isFinite, rounded.a.isFinite else { throw try notFinite(module) }
      try file.write(rounded, expert: expert, of: module.experts, rank: step.rank)
      lost += rounded.lostSquares
    }
    return .init(
      path: module.path, fromRank: module.rank, rank: step.rank, squares: squares, lostSquares: lost,
      greatest: greatest)
  }
}
