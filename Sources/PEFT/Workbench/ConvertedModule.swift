internal import TensorFiles
internal import TensorMath

/// One module's change, whatever method made it, on the way to a LoRA.
struct ConvertedModule: Sendable {
  @ExactName var path: String
  let change: FactoredChange
  /// The kernel's extents; empty for linear layers.
  var kernel: [Int] = []
  var isEmbedding = false
  /// What is added to the layer's bias.
  var bias: Bias?

  /// The change of a bias, computed when it is written.
  struct Bias: Sendable {
    let tensor: MatchedTensor
    var entry: TensorEntry { tensor.source.entry }

    /// Throws `.file`.
    func values() throws(AdapterError) -> [Double] {
      try ConvertedModule.difference(tensor, rows: 1, isTransposed: false).values
    }
  }

  var names: (a: String, b: String, bias: String) {
    let start = Adapter.prefix + path + "."
    let (a, b): (LoRARole, LoRARole) = isEmbedding ? (.embeddingA, .embeddingB) : (.a, .b)
    return (start + a.ending, start + b.ending, start + LoRARole.bias.ending)
  }

  func shapeA(rank: Int) -> [Int] {
    kernel.isEmpty ? [rank, change.input] : [rank, change.input / kernel.reduce(1, *)] + kernel
  }

  func shapeB(rank: Int) -> [Int] { [change.output, rank] + kernel.map { _ in 1 } }
}

extension ConvertedModule {
  /// The modules of an adapter: with its base model as a merge into it changes them, without it as its tensors say.
  ///
  /// Throws what `AdapterMatch.init` throws, `.notPossible` for what no LoRA can hold or for what needs the base.
  static func all(
    of stored: StoredAdapter, _ adapter: Adapter, base: String?, ignoredConfigKeys: Set<String>
  ) throws(AdapterError) -> [ConvertedModule] {
    let modules: [ConvertedModule]
    if let base {
      var options = MergeOptions()
      options.ignoredConfigKeys = ignoredConfigKeys
      options.allowRepeated = true
      modules = try all(
        of: adapter, in: try AdapterMatch(base: base, adapters: [MergePlan.Input(stored)], options: options))
    } else {
      if AdapterMethod.named(stored.config.peftType) == nil {
        try adapter.requirePlainLoRA(to: "a LoRA without the base of")
      }
      modules = try all(of: adapter)
    }
    guard !modules.isEmpty else {
      throw .notPossible(
        path: adapter.configPath, what: "a LoRA of peft_type \(adapter.config.peftType.rawValue)",
        reason: "it replaces tensors and changes no weight by a sum, so that no LoRA holds it.")
    }
    return modules
  }

  /// The modules of an adapter that its tensors alone determine.
  ///
  /// Throws `.notPossible` where the base is needed, and what making a rule throws.
  static func all(of adapter: Adapter) throws(AdapterError) -> [ConvertedModule] {
    guard let method = AdapterMethod.named(adapter.config.peftType), case .rule(let makeRule) = method.merging else {
      return try LoRAModule.all(of: adapter).map { module throws(AdapterError) in
        guard module.experts == 1 else { throw experts(adapter, module.path) }
        var change = module.changes[0]
        change.factor = module.values.scale
        return ConvertedModule(
          path: module.path, change: change, kernel: Array(module.a.shape.dropFirst(2)), isEmbedding: module.isEmbedding
        )
      }
    }
    guard !adapter.methodParts.isEmpty else { throw baseNeeded(adapter, "it stores nothing by module") }
    let (patterns, draws) = (PatternCache(), SharedDraws())
    var modules: [ConvertedModule] = []
    var shapes: [WeightShape] = []
    for part in adapter.methodParts {
      guard
        case .known(let shape, isWhole: true) = method.storedShape(
          StoredModule(
            config: adapter.config, path: part.path, tensors: part.tensors, shared: adapter.sharedTensors))
      else { throw baseNeeded(adapter, "the tensors of '\(part.path)' do not say what weight they belong to") }
      shapes.append(shape)
    }
    let largest = (shapes.map(\.output).max() ?? 0, shapes.map(\.input).max() ?? 0)
    for (part, shape) in zip(adapter.methodParts, shapes) {
      let rule = try makeRule(
        MethodModule(
          config: adapter.config, configPath: adapter.configPath, file: adapter.file.file, path: part.path,
          tensors: part.tensors, shared: adapter.sharedTensors, shape: shape, moduleCount: shapes.count, siblings: nil,
          largest: largest, patterns: patterns, draws: draws))
      guard rule.isAdditive, !rule.changesBias, rule.addedBias == nil else {
        throw baseNeeded(adapter, "its change of '\(part.path)' depends on the weight")
      }
      guard rule.changesWeight else { continue }
      let products = try products([(rule, 1)], shape)
      guard let products else { throw baseNeeded(adapter, "its change of '\(part.path)' depends on the weight") }
      modules.append(
        ConvertedModule(
          path: part.path, change: FactoredChange(output: shape.output, input: shape.input, products: products),
          kernel: shape.kernel, isEmbedding: shape.isEmbedding))
    }
    return modules
  }

  /// The modules of an adapter as a merge into its base changes them.
  ///
  /// Throws `.notPossible` for what no LoRA can hold.
  static func all(of adapter: Adapter, in match: AdapterMatch) throws(AdapterError) -> [ConvertedModule] {
    var modules: [ConvertedModule] = []
    var biases: [ExactName: Bias] = [:]
    let embeddings = Set(exactly: adapter.modules.filter(\.isEmbedding).map(\.path))
    for output in match.changedTensors {
      let entry = output.source.entry
      switch output.change {
      case .unchanged, .replacement, .rows: continue
      case .sumOnRows:
        throw .notPossible(
          path: adapter.file.path,
          what: "a LoRA on '\(entry.name)' beside trained rows of the weight that it is tied to",
          reason: "which of both comes first cannot be said by one LoRA.")
      case .sums(let updates):
        let path = updates[0].terms[0].owner.path
        guard updates.count == 1, updates[0].rows * updates[0].columns == entry.elementCount else {
          throw experts(adapter, path)
        }
        let isEmbedding = embeddings.contains(path)
        modules.append(
          ConvertedModule(
            path: path, change: change(of: updates[0], in: output),
            kernel: Array(entry.shape.dropFirst(2)), isEmbedding: isEmbedding))
      case .rules(let change):
        let path = change.owners.first?.path ?? output.item.name
        modules.append(
          ConvertedModule(
            path: path, change: try self.change(by: change, in: output), kernel: change.shape.kernel,
            isEmbedding: change.shape.isEmbedding))
      case .biasRule(let change):
        biases[ExactName(change.owner.path)] = Bias(tensor: output)
      case .biases:
        let path = entry.name.hasSuffix(".bias") ? String(entry.name.dropLast(".bias".count)) : entry.name
        let owners = adapter.modules.map(\.path) + adapter.methodParts.map(\.path)
        let owner = owners.first { path.endsExactly($0) || $0.endsExactly(path) } ?? path
        biases[ExactName(owner)] = Bias(tensor: output)
      }
    }
    for (index, module) in modules.enumerated() {
      modules[index].bias = biases.removeValue(forKey: ExactName(module.path))
    }
    if let path = biases.keys.sorted().first {
      throw .notPossible(
        path: adapter.file.path, what: "a LoRA of a change of the bias of '\(path)' alone",
        reason: "a LoRA's bias stands beside its factors only.")
    }
    return modules.sorted { naturallyPrecedes($0.path, $1.path) }
  }

  private static func experts(_ adapter: Adapter, _ path: String) -> AdapterError {
    .notPossible(
      path: adapter.file.path, what: "a LoRA of the method on '\(path)'",
      reason: "it acts on experts that share one tensor; 'peft-tool resize' and 'combine' take such a LoRA as it is.")
  }

  private static func baseNeeded(_ adapter: Adapter, _ reason: String) -> AdapterError {
    .optionNeeded(
      path: adapter.configPath, what: "a LoRA of peft_type \(adapter.config.peftType.rawValue) without its base",
      reason: "\(reason).", option: .giveBase)
  }

  /// The change that rules make. A LoRA of an embedding is [dimension, vocabulary], the transpose of what is stored.
  private static func change(
    by change: WeightChange, in tensor: MatchedTensor
  ) throws(AdapterError) -> FactoredChange {
    let shape = change.shape
    let turns = shape.isEmbedding && !shape.isTransposed
    if !turns, let products = try products(change.rules, shape) {
      return FactoredChange(output: shape.output, input: shape.input, products: products)
    }
    return FactoredChange(
      output: turns ? shape.input : shape.output, input: turns ? shape.output : shape.input,
      products: [
        .dense { () throws(AdapterError) in
          try difference(tensor, rows: change.storedRows, isTransposed: turns || shape.isTransposed)
        }
      ])
  }

  /// What rules add; nil if that depends on the weight.
  private static func products(
    _ rules: [(rule: any WeightRule, scale: Double)], _ shape: WeightShape
  ) throws(AdapterError) -> [FactoredChange.Product]? {
    guard rules.allSatisfy(\.rule.isAdditive) else { return nil }
    var products: [FactoredChange.Product] = []
    for (rule, scale) in rules {
      if let rule = rule as? any LowRankRule {
        products.append(.rule(rule, scale: scale))
        continue
      }
      if let rule = rule as? any FactoredRule,
        try asAdapterError({ () throws(TensorFileError) in try rule.changeFactors() != nil })
      {
        products.append(.factors(rule, scale: scale))
        continue
      }
      products.append(
        .dense { () throws(AdapterError) in
          try asAdapterError { () throws(TensorFileError) in
            var block = Matrix<Double>(rows: shape.output, columns: shape.input)
            try rule.makeChange(scale: scale)(0..<shape.output, &block)
            return block
          }
        })
    }
    return products
  }

  /// The change of a LoRA: its factors where it is a sum of products, else the difference of the weights.
  private static func change(
    of update: LoRAUpdate, in tensor: MatchedTensor
  ) -> FactoredChange {
    let isTransposed = update.isTransposed
    var change = FactoredChange(
      output: isTransposed ? update.columns : update.rows, input: isTransposed ? update.rows : update.columns,
      products: [])
    if update.magnitude != nil {
      change.products = [
        .dense { () throws(AdapterError) in
          try difference(tensor, rows: update.rows, isTransposed: isTransposed)
        }
      ]
      return change
    }
    change.products = update.terms.map { term in
      guard isTransposed else { return .stored(term) }
      return .stored(
        LoRAUpdate.Term(
          left: term.right.transposed, right: term.left.transposed, scale: term.scale, diagonal: term.diagonal))
    }
    if let removal = update.removal {
      change.products.append(
        .removed { () throws(AdapterError) in
          let weight = try asAdapterError { () throws(TensorFileError) in
            Matrix(
              rows: update.rows, columns: update.columns,
              values: try tensor.source.values(Double.self))
          }
          guard let component = RemovedComponent(removal, of: weight) else {
            throw .notPossible(
              path: tensor.source.file.path, what: "a LoRA of the change of '\(tensor.source.entry.name)'",
              reason: "it holds values that are infinite or not a number.")
          }
          return isTransposed
            ? RemovedComponent(left: component.right.transposed, right: component.left.transposed) : component
        })
    }
    return change
  }

  /// W' - W in f64 as a matrix `[out, in]`. Throws `.file`.
  fileprivate static func difference(
    _ tensor: MatchedTensor, rows: Int, isTransposed: Bool
  ) throws(AdapterError) -> Matrix<Double> {
    let count = tensor.source.entry.elementCount
    var difference = Matrix<Double>(rows: rows, columns: rows == 0 ? 0 : count / rows)
    try asAdapterError { () throws(TensorFileError) in
      var scratch = MergeScratch(allowsNonFinite: true)
      let before = try tensor.source.values(Double.self)
      let after = Double.decoded(try MemorySink(computing: tensor.converted(to: .f64), &scratch).bytes, .f64)
      for index in 0..<count { difference.values[index] = after[index] - before[index] }
    }
    return isTransposed ? difference.transposed : difference
  }
}
