internal import TensorFiles
internal import TensorMath

extension AdapterCombination {
  /// How one module is written.
  struct Step: Sendable {
    let module: CombinedModule
    var rank: Int
    /// What alpha and rank say.
    let scale: Double
    let content: Content

    /// Where its factors come from; of what is decomposed one part an expert.
    enum Content: Sendable {
      /// The terms' own, beside each other.
      case sideBySide
      /// Products of the terms' own, which are read again.
      case reduced([LowRankReduction])
      /// Computed ones, which are kept.
      case kept([KeptFactors])
    }

    /// True if the terms' own factors are written.
    var isSideBySide: Bool { if case .sideBySide = content { true } else { false } }
  }

  /// Finds out all ranks. Without a rule stored factors stay as they are; changes that are computed are decomposed whole.
  ///
  /// Memory: for each of `workers` one module's factors in f64, or its whole change where that has none.
  func makeSteps(workers: Int) async throws -> [Step] {
    let places = modules.indices.filter { options.rule != nil || modules[$0].isComputed }
    let rule = options.rule ?? .whole
    let reduced = try await inParallel(places.count, workers: workers, state: KeptFactors.Store()) { index, store in
      try step(modules[places[index]], rule, &store)
    }
    var steps = stepsSideBySide
    for (place, step) in zip(places, reduced) { steps[place] = step }
    var ranks: [String: Int] = [:]
    for step in steps { ranks[step.module.key] = max(step.rank, ranks[step.module.key] ?? 0) }
    let widest = steps.map(\.rank).max() ?? 1
    for index in steps.indices {
      let step = steps[index]
      steps[index].rank = options.isPlain ? widest : step.isSideBySide ? step.rank : ranks[step.module.key] ?? step.rank
    }
    return steps
  }

  private func step(
    _ module: CombinedModule, _ rule: RankRule, _ store: inout KeptFactors.Store
  ) throws(AdapterError) -> Step {
    let changes = changes(of: module)
    var reductions: [LowRankReduction] = []
    var kept: [KeptFactors] = []
    var rank = 1
    for change in changes {
      let (b, a) = try change.factors()
      let found = change.reduction(of: b, a, by: rule) { values in
        // What shares its rank with others may get more than its own rule says.
        change.isStored && !rule.isFixed ? values.count : rule.rank(of: values, extent: change.extent)
      }
      guard let found else { throw try notFinite(module) }
      let own = found.chosenRank ?? rule.rank(of: found.singularValues, extent: change.extent)
      rank = max(rank, own)
      if change.isStored {
        reductions.append(found)
      } else {
        let (b, a) = found.factors(b, a, rank: min(own, found.kept))
        kept.append(try store.keep(b, a, singularValues: found.singularValues))
      }
    }
    return Step(module: module, rank: rank, scale: 1, content: kept.isEmpty ? .reduced(reductions) : .kept(kept))
  }

  func notFinite(_ module: CombinedModule) throws(AdapterError) -> AdapterError {
    for input in inputs { try input.adapter.checkFinite() }
    return .factorNotFinite(path: inputs[0].adapter.file.path, module: module.path, factor: .infinity)
  }

  /// Factors side by side: each module's scale is one that most of its parts have already, so that these are copied.
  private var stepsSideBySide: [Step] {
    let all = modules.filter { !$0.isComputed }.flatMap { $0.terms.map { abs($0.scale) } }.filter { $0 > 0 }
    let usual = options.isPlain ? 1 : all.mostFrequent ?? 1
    var scales: [String: Double] = [:]
    for module in modules {
      let own = module.terms.map { abs($0.scale) }.filter { $0 > 0 }
      let scale = options.isPlain || own.contains(usual) ? usual : own.mostFrequent ?? usual
      if scales[module.key] == nil { scales[module.key] = scale }
    }
    return modules.map { module in
      Step(module: module, rank: module.rank, scale: scales[module.key] ?? usual, content: .sideBySide)
    }
  }
}
