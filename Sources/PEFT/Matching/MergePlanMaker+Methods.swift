internal import TensorFiles

extension MergePlanMaker {
  /// Adds what an adapter of another method than LoRA changes. Returns the names of the weights.
  mutating func matchMethod(
    _ method: AdapterMethod, _ resolver: NameResolver, unmatched: inout [String]
  ) throws(AdapterError) -> Set<ExactName> {
    switch method.merging {
    case .none(let reason):
      throw .unsupported(path: adapter.configPath, what: "peft_type \(method.type.rawValue)", reason: reason)
    case .replacement(let infix):
      for part in adapter.methodParts {
        for (role, entry) in part.tensors {
          let name = "\(part.path).\(role.text.replacing("\(infix).", with: ""))"
          guard let found = try resolver.resolve(name) else {
            unmatched.append(name)
            continue
          }
          mergedModules.insert(owner(part.path))
          try claim(found, for: Adapter.Replacement(name: name, entry: entry, isSavedModule: true))
        }
      }
      return []
    case .rows(let tensor, let setting):
      let listed = adapter.config.settings[setting]?.elements ?? []
      var all: [TrainedRows] = []
      for part in adapter.methodParts {
        guard let entry = part.tensors[tensor] else {
          throw .tensorMissing(path: adapter.file.path, module: part.path, tensor: tensor)
        }
        all.append(TrainedRows(path: part.path, entry: entry, listed: listed, key: setting))
      }
      let missing = try addRows(all, resolver)
      for rows in all where !missing.contains(rows.path) { mergedModules.insert(owner(rows.path)) }
      unmatched += missing
      return []
    case .rule(let makeRule): return try matchRules(makeRule, resolver, &unmatched)
    }
  }

  private mutating func matchRules(
    _ makeRule: (MethodModule) throws(AdapterError) -> any WeightRule, _ resolver: NameResolver,
    _ unmatched: inout [String]
  ) throws(AdapterError) -> Set<ExactName> {
    var found: [(part: Adapter.MethodPart, weight: TensorEntry, shape: WeightShape)] = []
    let parts = try parts()
    for part in parts {
      let stored: TensorEntry?
      if part.path == tiedHead?.path {
        // The head gets a weight of its own: what its adapter computes while it is apart.
        stored = storedWeight("\(part.path).weight").map {
          TensorEntry(name: "\(part.path).weight", dtype: $0.dtype, shape: $0.shape, byteRange: $0.byteRange)
        }
      } else {
        stored = try resolver.resolve("\(part.path).weight").flatMap { base.checkpoint[$0]?.entry }
      }
      guard let entry = stored else {
        unmatched.append(part.path)
        continue
      }
      let name = entry.name
      guard entry.dtype.isComputable else { throw .baseDType(base: base.path, tensor: name, dtype: entry.dtype) }
      found.append((part, entry, try weightShape(entry, part, moduleCount: parts.count)))
    }
    let order = base.registrationOrder(found.map(\.part.path))
    let shapes = Dictionary(found.map { ($0.part.path, $0.shape) }, uniquingKeysWith: { first, _ in first })
    let siblings = order?.map { path in
      MethodModule.Sibling(path: path, output: shapes[path]?.output ?? 0, input: shapes[path]?.input ?? 0)
    }
    let largest = (found.map(\.shape.output).max() ?? 0, found.map(\.shape.input).max() ?? 0)
    let (patterns, draws) = (PatternCache(), SharedDraws())
    var matched: Set<ExactName> = []
    ruleCount += adapter.methodParts.isEmpty ? found.count : 0
    for (part, weight, shape) in found {
      guard matched.insert(weight.name).inserted else {
        throw .collision(base: base.path, tensor: weight.name, modules: [owners[weight.name]?.module ?? "", part.path])
      }
      let module = MethodModule(
        config: adapter.config, configPath: adapter.configPath, file: adapter.file.file, path: part.path,
        tensors: part.tensors, shared: adapter.sharedTensors, shape: shape, moduleCount: found.count,
        siblings: siblings,
        largest: largest, patterns: patterns, draws: draws)
      try add(try makeRule(module), of: part, weight: weight, shape)
    }
    return matched
  }

  /// The modules that the file names, or, where a method stores nothing for its modules, those that the configuration
  /// targets.
  private func parts() throws(AdapterError) -> [Adapter.MethodPart] {
    guard adapter.methodParts.isEmpty, !adapter.sharedTensors.isEmpty else { return adapter.methodParts }
    return try base.linearTargets(of: adapter.config).map { Adapter.MethodPart(path: $0.path, tensors: [:]) }
  }

  /// How the weight is seen as a matrix.
  private mutating func weightShape(
    _ entry: TensorEntry, _ part: Adapter.MethodPart, moduleCount: Int
  ) throws(AdapterError) -> WeightShape {
    let shape = entry.shape
    guard shape.count >= 2 else {
      throw .targetNotLinear(base: base.path, module: part.path, shape: shape)
    }
    let rest = shape.dropFirst().reduce(1, *)
    guard shape.count == 2 else {
      return WeightShape(
        output: shape[0], input: rest, kernel: Array(shape.dropFirst(2)), isEmbedding: false, isTransposed: false)
    }
    let isEmbedding = part.tensors.keys.contains { $0.text.contains("embedding") }
    let isTransposed =
      isEmbedding
      ? AdapterMethod.named(adapter.config.peftType)?.transposesEmbeddings ?? false
      : try self.isTransposed(entry, path: part.path, moduleCount: moduleCount)
    return WeightShape(
      output: isTransposed ? shape[1] : shape[0], input: isTransposed ? shape[0] : shape[1], kernel: [],
      isEmbedding: isEmbedding, isTransposed: isTransposed)
  }
}
