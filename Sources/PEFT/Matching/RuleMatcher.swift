internal import TensorFiles

/// The weights that an adapter of another method than LoRA changes by rules, and what each rule is made of.
struct RuleMatcher {
  /// A module and its weight.
  struct Target {
    let part: Adapter.MethodPart
    let weight: StoredTensor
    /// The name under which the weight comes out; a tied head gets one of its own.
    let name: String
    let shape: WeightShape
  }

  private let part: MatchedAdapter
  private(set) var targets: [Target] = []
  /// Paths of modules that the base does not have.
  private(set) var unmatched: [String] = []
  private let siblings: [MethodModule.Sibling]?
  private let largest: (output: Int, input: Int)
  private let patterns = PatternCache()
  private let draws = SharedDraws()

  init(_ part: MatchedAdapter, _ squares: inout SquareWeights) throws(AdapterError) {
    self.part = part
    let (base, adapter) = (part.base, part.adapter)
    var parts = adapter.methodParts
    // A method that stores nothing for its modules acts on those that the configuration targets.
    if parts.isEmpty, !adapter.sharedTensors.isEmpty {
      parts = try base.model.linearTargets(of: adapter.config).map { Adapter.MethodPart(path: $0.path, tensors: [:]) }
    }
    for module in parts {
      let isAbsentHead = module.path == base.absentHead?.path
      let name = isAbsentHead ? "\(module.path).weight" : try base.resolver.resolve("\(module.path).weight")
      guard let name, let entry = base.stored(name), let weight = base.model.tensor(entry.name) else {
        unmatched.append(module.path)
        continue
      }
      guard entry.dtype.isComputable else { throw .baseDType(base: base.path, tensor: name, dtype: entry.dtype) }
      let shape = try part.weightShape(entry, module, moduleCount: parts.count, &squares)
      targets.append(Target(part: module, weight: weight, name: name, shape: shape))
    }
    let shapes = Dictionary(targets.map { ($0.part.path, $0.shape) }, uniquingKeysWith: { first, _ in first })
    siblings = base.model.registrationOrder(targets.map(\.part.path))?.map { path in
      MethodModule.Sibling(path: path, output: shapes[path]?.output ?? 0, input: shapes[path]?.input ?? 0)
    }
    largest = (targets.map(\.shape.output).max() ?? 0, targets.map(\.shape.input).max() ?? 0)
  }

  /// What the rule of a target is made of.
  func module(_ target: Target) -> MethodModule {
    let adapter = part.adapter
    return MethodModule(
      config: adapter.config, configPath: adapter.configPath, file: adapter.file.file, path: target.part.path,
      tensors: target.part.tensors, shared: adapter.sharedTensors, shape: target.shape, moduleCount: targets.count,
      siblings: siblings, largest: largest, patterns: patterns, draws: draws)
  }

  /// Notes what a rule does to the bias beside its weight. True if it only adds a tensor to it.
  func addBias(of rule: any WeightRule, _ target: Target, to tensors: inout TensorChanges) throws(AdapterError) -> Bool
  {
    let (base, path) = (part.base, target.part.path)
    let name = String(target.name.dropLast("weight".count) + "bias")
    guard let bias = base.checkpoint[name]?.entry else {
      guard rule.addedBias != nil else { return false }
      throw .unsupported(
        path: part.file.path, what: "'\(path)'",
        reason: "the base layer has no bias to change; PEFT refuses too.")
    }
    guard rule.changesBias || rule.addedBias != nil else { return false }
    guard bias.dtype.isComputable, bias.shape == [target.shape.output] else {
      throw .shapeMismatch(base: base.path, tensor: name, found: bias.shape, expected: [target.shape.output])
    }
    if let added = rule.addedBias {
      try tensors.add(AddedBias(source: added, scale: part.weight), to: name, of: path, by: part)
      return true
    }
    guard base.checkpoint[target.name] != nil else { return false }
    try tensors.own(name, path, part)
    tensors.changes[name] = .biasRule(
      BiasChange(rule: rule, owner: part.owner(path), weight: target.weight, shape: target.shape))
    return false
  }
}

extension MatchedAdapter {
  /// How a weight is seen as a matrix.
  fileprivate func weightShape(
    _ entry: TensorEntry, _ module: Adapter.MethodPart, moduleCount: Int, _ squares: inout SquareWeights
  ) throws(AdapterError) -> WeightShape {
    let shape = entry.shape
    guard shape.count >= 2 else { throw .targetNotLinear(base: base.path, module: module.path, shape: shape) }
    guard shape.count == 2 else {
      return WeightShape(
        output: shape[0], input: shape.dropFirst().reduce(1, *), kernel: Array(shape.dropFirst(2)), isEmbedding: false,
        isTransposed: false)
    }
    let isEmbedding = module.tensors.keys.contains { $0.text.contains("embedding") }
    let isTransposed =
      isEmbedding
      ? AdapterMethod.named(config.peftType)?.transposesEmbeddings ?? false
      : try self.isTransposed(entry, path: module.path, moduleCount: moduleCount, &squares)
    return WeightShape(
      output: isTransposed ? shape[1] : shape[0], input: isTransposed ? shape[0] : shape[1], kernel: [],
      isEmbedding: isEmbedding, isTransposed: isTransposed)
  }
}
