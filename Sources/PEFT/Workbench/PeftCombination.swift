internal import TensorFiles
internal import TensorMath

/// What PEFT's `add_weighted_adapter` makes of several LoRAs, errors included: for those who need its numbers.
///
/// A and B are combined in f32, apart in most types, so that the result is not the weighted sum of the changes. What PEFT loses is lost
/// here: biases of lora_B, saved modules, trained rows. Where PEFT's configuration contradicts its tensors, patterns say what was stored,
/// so that the result can be loaded; it computes what PEFT computes before it saves.
/// Source: peft/tuners/lora/model.py `LoraModel.add_weighted_adapter`; peft/utils/merge_utils.py.
public struct PeftCombination: Sendable {
  /// `combination_type`.
  public enum Kind: String, Sendable, CaseIterable {
    case cat, linear, ties, svd
    case dareLinear = "dare_linear"
    case dareTies = "dare_ties"
    case magnitudePrune = "magnitude_prune"
    case tiesSVD = "ties_svd"
    case dareLinearSVD = "dare_linear_svd"
    case dareTiesSVD = "dare_ties_svd"
    case magnitudePruneSVD = "magnitude_prune_svd"

    /// True if it draws random masks, whose places in the stream the base's modules decide.
    public var draws: Bool { [.dareLinear, .dareTies, .dareLinearSVD, .dareTiesSVD].contains(self) }
    /// True if it works on ΔW and decomposes the result.
    var decomposes: Bool { [.svd, .tiesSVD, .dareLinearSVD, .dareTiesSVD, .magnitudePruneSVD].contains(self) }
    /// True if it leaves elements out, for which it needs a density.
    public var prunes: Bool { self != .cat && self != .linear && self != .svd }
    var elects: Bool { [.ties, .tiesSVD, .dareTies, .dareTiesSVD].contains(self) }
  }

  /// The arguments of `add_weighted_adapter`.
  public struct Options: Sendable {
    public var kind: Kind
    /// `svd_rank`; nil for the greatest rank.
    public var rank: Int?
    /// `density`, from 0; needed where the kind prunes.
    public var density: Double?
    /// `majority_sign_method` "frequency" in the place of "total".
    public var countsSigns = false
    /// What `torch.manual_seed` was given before the call.
    public var seed: UInt64 = 0
    /// The base model, which the kinds that draw need.
    public var base: String?
    /// Unknown keys of the configurations that are known to be harmless.
    public var ignoredConfigKeys: Set<String> = []

    public init(_ kind: Kind) { self.kind = kind }
  }

  private let inputs: [AdapterCombination.Input]
  private let options: Options
  private let kind: Kind
  private let rank: Int
  private let modules: [CombinedModule]

  /// Throws `.notPossible` for what PEFT refuses or loses hold of: experts, DoRA and the like, factors of different ranks where it stacks
  /// them; and what `Adapter.init` throws.
  public init(
    _ adapters: [(adapter: StoredAdapter, weight: Double)], options: Options
  ) throws(AdapterError) {
    precondition(!adapters.isEmpty, "nothing to combine")
    var inputs: [AdapterCombination.Input] = []
    for (stored, weight) in adapters {
      let adapter = try Adapter(stored, ignoredConfigKeys: options.ignoredConfigKeys)
      try adapter.requirePlainLoRA(to: "combining")
      guard (adapter.config.targetParameters ?? []).isEmpty else {
        throw .notPossible(
          path: adapter.configPath, what: "PEFT's add_weighted_adapter with target_parameters",
          reason: "PEFT refuses them too.")
      }
      inputs.append(try .init(stored, adapter, weight: weight))
    }
    self.inputs = inputs
    self.options = options
    kind = inputs.count == 1 ? .linear : options.kind
    modules = try CombinedModule.all(of: inputs)
    let ranks = inputs.map { input in
      max(input.adapter.config.rank, input.adapter.config.rankPattern.entries.map(\.value).max() ?? 0)
    }
    rank =
      kind == .cat
      ? ranks.reduce(0, +) : kind.decomposes ? options.rank ?? ranks.max() ?? 1 : ranks[0]
    if kind != .cat, !kind.decomposes {
      let differs = modules.first { module in Set(module.terms.map(\.module.rank)).count > 1 }
      guard Set(ranks).count == 1, differs == nil else {
        throw .notPossible(
          path: inputs[0].adapter.configPath,
          what: "PEFT's \(kind.rawValue) of different ranks\(differs.map { " on '\($0.path)'" } ?? "")",
          reason: "PEFT stacks the factors of all adapters, which must have one rank.")
      }
    }
    if kind.prunes, options.density == nil {
      throw .notPossible(
        path: inputs[0].adapter.configPath, what: "PEFT's \(kind.rawValue) without a density",
        reason: "PEFT needs it too.")
    }
  }

  /// Writes the combination. `output` appears whole or not at all. Throws `.factorNotFinite`, `.file`; for a kind that draws what
  /// `AdapterInitializer.init` throws.
  public func write(to output: String, replacing: Bool = false) throws(AdapterError) -> WorkbenchReport {
    var drawing = try drawing()
    var factors: [ExactName: (a: Matrix<Float>, b: Matrix<Float>)] = [:]
    for (module, isTransposed) in try inOrder() {
      factors[ExactName(module.path)] = try combined(module, isTransposed: isTransposed, &drawing)
    }
    var config = inputs[0].adapter.config
    config.targetModules = targets
    config.modulesToSave = nil
    config.loraBias = false
    (config.trainableTokenIndices, config.bias) = (.null, "none")
    let scale = config.useRSLoRA ? Double(rank).squareRoot() : 1
    try config.setRanks(
      modules.map { ModuleRank(key: $0.key, rank: factors[ExactName($0.path)]?.a.rows ?? rank, scale: scale) },
      path: inputs[0].adapter.configPath)
    var items: [AdapterSink.Item] = []
    for module in modules {
      let rank = factors[ExactName(module.path)]?.a.rows ?? rank
      items.append(.init(name: module.names.a, dtype: .f32, shape: module.shapeA(rank: rank)))
      items.append(.init(name: module.names.b, dtype: .f32, shape: module.shapeB(rank: rank)))
    }
    var rows: [WorkbenchReport.Module] = []
    let stored = inputs.map(\.adapter).filter { !$0.isInMemory }
    try StoredAdapter.write(
      config, items, to: output, replacing: replacing, inputs: stored.map(\.directory), sources: stored.map(\.file.path)
    ) { sink throws(AdapterError) in
      for module in modules {
        guard let (a, b) = factors[ExactName(module.path)] else { continue }
        try sink.write(a.values, to: module.names.a)
        try sink.write(b.values, to: module.names.b)
        rows.append(try row(module, a, b, scale: scale))
      }
    }
    var notes = [
      "the numbers are those of PEFT's add_weighted_adapter, which the errors above hold against the weighted sum"
    ]
    let lost = inputs.contains { input in
      !input.adapter.replacements.isEmpty || !input.adapter.tokenRows.isEmpty
        || input.modules.contains { $0.bias != nil }
    }
    if lost { notes.append("biases, saved modules and trained tokens are lost, as PEFT loses them") }
    return WorkbenchReport(modules: rows, notes: notes)
  }

  /// How far the result is from the weighted sum.
  private func row(
    _ module: CombinedModule, _ a: Matrix<Float>, _ b: Matrix<Float>, scale: Double
  ) throws(AdapterError) -> WorkbenchReport.Module {
    var lost = 0.0
    var squares = 0.0
    for change in module.changes {
      let (exactB, exactA) = try change.factors()
      squares += FactoredChange.squares(exactB, exactA)
      let wideB = Matrix(rows: b.rows, columns: b.columns, values: b.values.map { -scale * Double($0) })
      let wideA = Matrix(rows: a.rows, columns: a.columns, values: a.values.map { Double($0) })
      lost += FactoredChange.squares(
        .sideBySide([exactB, wideB], rows: b.rows), .stacked([exactA, wideA], columns: a.columns))
    }
    return .init(path: module.path, fromRank: module.rank, rank: a.rows, squares: squares, lostSquares: lost)
  }

  private var targets: ModuleRule? {
    let rules = inputs.map(\.adapter.config.targetModules)
    var names: [String] = []
    var patterns: [String] = []
    for rule in rules {
      switch rule {
      case .names(let list)?: for name in list where !names.containsExactly(name) { names.append(name) }
      case .pattern(let pattern)?: patterns.append("(\(pattern))")
      case nil: break
      }
    }
    return patterns.count == rules.count
      ? .pattern(patterns.joined(separator: "|"))
      : .names(
        patterns.isEmpty && !names.isEmpty ? names : modules.map(\.path))
  }

  // MARK: Draws

  /// Torch's generator as it stands when PEFT draws the first mask: the new adapter was initialised before.
  private func drawing() throws(AdapterError) -> TorchGenerator {
    var generator = TorchGenerator(seed: options.seed)
    guard kind.draws else { return generator }
    let maker = try initializer()
    for target in maker.modules { _ = try maker.drawn(target, &generator) }
    return generator
  }

  private func initializer() throws(AdapterError) -> AdapterInitializer {
    guard let path = options.base else {
      throw .optionNeeded(
        path: inputs[0].adapter.configPath, what: "PEFT's \(kind.rawValue) without the base model",
        reason: "the order of its modules decides which random numbers each gets.", option: .giveBase)
    }
    var config = inputs[0].adapter.config
    config.rank = rank
    config.alpha = .integer(rank)
    (config.rankPattern, config.alphaPattern) = (PatternMap(), PatternMap())
    config.targetModules = targets
    config.modulesToSave = nil
    return try AdapterInitializer(
      base: BaseModel(path: path, taskType: config.taskType), config: config, configPath: inputs[0].adapter.configPath,
      seed: options.seed)
  }

  /// The modules in the order in which PEFT visits them, and whether get_delta_weight gives the transpose of the change: both matter only
  /// for draws.
  private func inOrder() throws(AdapterError) -> [(module: CombinedModule, isTransposed: Bool)] {
    guard kind.draws else { return modules.map { ($0, $0.terms[0].module.isEmbedding) } }
    let maker = try initializer()
    let byPath = Dictionary(modules.map { (ExactName($0.path), $0) }, uniquingKeysWith: { first, _ in first })
    let ordered = maker.modules.compactMap { target in
      byPath[ExactName(target.path)].map { ($0, target.isEmbedding || target.isTransposed) }
    }
    guard maker.isInModelOrder, ordered.count == modules.count else {
      throw .notPossible(
        path: inputs[0].adapter.configPath, what: "PEFT's \(kind.rawValue) on this base",
        reason: "the order of its modules is not known, and with it the random numbers that each gets.")
    }
    return ordered
  }

  // MARK: Arithmetic

  private func combined(
    _ module: CombinedModule, isTransposed: Bool, _ drawing: inout TorchGenerator
  ) throws(AdapterError) -> (a: Matrix<Float>, b: Matrix<Float>) {
    var (factorsA, factorsB): ([Matrix<Float>], [Matrix<Float>]) = ([], [])
    for term in module.terms {
      let rank = term.module.rank
      try asAdapterError { () throws(TensorFileError) in
        factorsA.append(try StoredTensor(file: term.file.file, entry: term.factors.a).matrix(rows: rank))
        factorsB.append(try StoredTensor(file: term.file.file, entry: term.factors.b).matrix(rows: module.output))
      }
    }
    let columns = factorsA[0].columns
    switch kind {
    case .cat:
      for (index, term) in module.terms.enumerated() {
        // Two roundings, as PEFT multiplies twice.
        let (weight, scale) = (Float(term.weight), Float(term.module.scale))
        for place in factorsA[index].values.indices { factorsA[index].values[place] *= weight }
        for place in factorsA[index].values.indices { factorsA[index].values[place] *= scale }
      }
      let missing = rank - factorsA.reduce(0) { $0 + $1.rows }
      return (
        .stacked(factorsA + [Matrix(rows: missing, columns: columns)], columns: columns),
        .sideBySide(factorsB + [Matrix(rows: module.output, columns: missing)], rows: module.output)
      )
    case let kind where kind.decomposes:
      var changes: [Matrix<Float>] = []
      for (index, term) in module.terms.enumerated() {
        var change = factorsB[index].times(factorsA[index])
        let scale = Float(term.module.scale)
        for place in change.values.indices { change.values[place] *= scale }
        changes.append(isTransposed ? change.transposed : change)
      }
      let weights = module.terms.map { Float($0.weight) }
      var mixed = Matrix(
        rows: changes[0].rows, columns: changes[0].columns, values: mix(changes.map(\.values), weights, &drawing))
      if isTransposed { mixed = mixed.transposed }
      return try decomposed(mixed, module)
    default:
      let products = module.terms.map { $0.weight * $0.module.scale }
      let weightsB = products.map { Float(abs($0).squareRoot()) }
      let weightsA = zip(products, weightsB).map { $0 >= 0 ? $1 : -$1 }
      let a = mix(factorsA.map(\.values), weightsA, &drawing)
      let b = mix(factorsB.map(\.values), weightsB, &drawing)
      return (
        Matrix(rows: factorsA[0].rows, columns: columns, values: a),
        Matrix(rows: module.output, columns: factorsB[0].columns, values: b)
      )
    }
  }

  private func decomposed(
    _ change: Matrix<Float>, _ module: CombinedModule
  ) throws(AdapterError) -> (a: Matrix<Float>, b: Matrix<Float>) {
    let wide = Matrix(rows: change.rows, columns: change.columns, values: change.values.map { Double($0) })
    guard let found = Decompositions.singularValues(wide) else {
      for input in inputs { try input.adapter.checkFinite() }
      throw .factorNotFinite(path: inputs[0].adapter.file.path, module: module.path, factor: .infinity)
    }
    let kept = min(rank, found.s.count)
    var b = found.u.columns(0..<kept)
    for row in 0..<b.rows { for column in 0..<kept { b[row, column] *= found.s[column] } }
    let a = found.vTransposed.rows(0..<kept)
    return (
      Matrix(rows: kept, columns: a.columns, values: a.values.map { Float($0) }),
      Matrix(rows: b.rows, columns: kept, values: b.values.map { Float($0) })
    )
  }

  /// What merge_utils makes of a stack of tensors, in f32 and in its order of operations.
  private func mix(_ tensors: [[Float]], _ weights: [Float], _ drawing: inout TorchGenerator) -> [Float] {
    var tensors = tensors
    if kind.prunes, let density = options.density, density < 1 {
      for index in tensors.indices {
        tensors[index] = kind.draws ? drawn(tensors[index], density, &drawing) : greatest(tensors[index], density)
      }
    }
    var result = [Float](repeating: 0, count: tensors[0].count)
    for place in result.indices {
      var sum: Float = 0
      guard kind.elects else {
        for index in tensors.indices { sum += tensors[index][place] * weights[index] }
        result[place] = sum
        continue
      }
      var vote: Float = 0
      for tensor in tensors {
        vote += options.countsSigns ? Self.sign(tensor[place]) : tensor[place]
      }
      let elected: Float = vote >= 0 ? 1 : -1
      var count: Float = 0
      for index in tensors.indices where Self.sign(tensors[index][place]) == elected {
        sum += tensors[index][place] * weights[index]
        count += 1
      }
      result[place] = sum / max(1, count)
    }
    return result
  }

  private static func sign(_ value: Float) -> Float { value > 0 ? 1 : value < 0 ? -1 : 0 }

  /// One word an element: kept where its lower 24 bits, as a number below 1, are less than the density in f32.
  private func drawn(_ tensor: [Float], _ density: Double, _ drawing: inout TorchGenerator) -> [Float] {
    let limit = Float(density)
    return tensor.map { value in
      let isKept = Float(drawing.nextBits() & 0xFF_FFFF) * 0x1p-24 < limit
      return value * (isKept ? 1 : 0) / limit
    }
  }

  /// The greatest magnitudes, of equal ones the first.
  private func greatest(_ tensor: [Float], _ density: Double) -> [Float] {
    let kept = Int(density * Double(tensor.count))
    let order = tensor.indices.sorted { left, right in
      let (a, b) = (abs(tensor[left]), abs(tensor[right]))
      return a != b ? a > b : left < right
    }
    var result = [Float](repeating: 0, count: tensor.count)
    for index in order.prefix(kept) { result[index] = tensor[index] }
    return result
  }
}
