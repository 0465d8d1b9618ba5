internal import TensorFiles

extension MergePlanMaker {
  /// Adds what an adapter of another method than LoRA changes. Returns the names of the weights.
  mutating func matchMethod(
    _ method: AdapterMethod, _ resolver: NameResolver, unmatched: inout [String]
  ) throws(AdapterError) -> Set<String> {
    switch method.merging {
    case .none(let reason):
      throw .unsupported(path: adapter.configPath, what: "peft_type \(method.type.rawValue)", reason: reason)
    case .replacement(let infix):
      for part in adapter.methodParts {
        for (role, entry) in part.tensors {
          let name = "\(part.path).\(role.replacing("\(infix).", with: ""))"
          guard let found = try resolver.resolve(name) else {
            unmatched.append(name)
            continue
          }
          try claim(found, for: Adapter.Replacement(name: name, entry: entry, isSavedModule: true))
        }
      }
      return []
    case .rows(let tensor, let setting):
      for part in adapter.methodParts {
        guard let entry = part.tensors[tensor], let name = try resolver.resolve("\(part.path).weight") else {
          // A tied weight's rows are stored once more under its second name.
          if base.isTied, let entry = part.tensors[tensor], try isStoredElsewhere(entry, tensor) {
            secondNames.insert(part.path)
            continue
          }
          unmatched.append(part.path)
          continue
        }
        try own(name, part.path)
        let listed = adapter.config.settings[setting]?.elements ?? []
        let rows = Adapter.TokenRows(path: part.path, entry: entry)
        tokens[name] = try tokenReplacement(rows, weight: name, listed: listed, key: setting)
      }
      return []
    case .rule(let makeRule): return try matchRules(makeRule, resolver, &unmatched)
    }
  }

  private func isStoredElsewhere(_ entry: TensorEntry, _ role: String) throws(AdapterError) -> Bool {
    let file = adapter.file.file
    for part in adapter.methodParts {
      guard let other = part.tensors[role], other.name != entry.name else { continue }
      let isSame = try asAdapterError { () throws(TensorFileError) in
        try file.holdsSameBytes(entry.byteRange, other.byteRange)
      }
      if isSame { return true }
    }
    return false
  }

  private mutating func matchRules(
    _ makeRule: (MethodModule) throws(AdapterError) -> any WeightRule, _ resolver: NameResolver,
    _ unmatched: inout [String]
  ) throws(AdapterError) -> Set<String> {
    var found: [(part: Adapter.MethodPart, weight: TensorEntry, shape: WeightShape)] = []
    for part in try parts() {
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
      found.append((part, entry, try weightShape(entry, part)))
    }
    let order = base.registrationOrder(found.map(\.part.path))
    let shapes = Dictionary(found.map { ($0.part.path, $0.shape) }, uniquingKeysWith: { first, _ in first })
    let siblings = order?.map { path in
      MethodModule.Sibling(path: path, output: shapes[path]?.output ?? 0, input: shapes[path]?.input ?? 0)
    }
    let largest = (found.map(\.shape.output).max() ?? 0, found.map(\.shape.input).max() ?? 0)
    let patterns = PatternBudget()
    var matched: Set<String> = []
    ruleCount += adapter.methodParts.isEmpty ? found.count : 0
    for (part, weight, shape) in found {
      guard matched.insert(weight.name).inserted else {
        throw .collision(base: base.path, tensor: weight.name, modules: [owners[weight.name]?.module ?? "", part.path])
      }
      let module = MethodModule(
        config: adapter.config, configPath: adapter.configPath, file: adapter.file.file, path: part.path,
        tensors: part.tensors, shared: adapter.sharedTensors, shape: shape, siblings: siblings, largest: largest,
        patterns: patterns)
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

  private mutating func add(
    _ rule: any WeightRule, of part: Adapter.MethodPart, weight: TensorEntry, _ shape: WeightShape
  ) throws(AdapterError) {
    guard adapterWeight == 1 || rule.isAdditive else {
      throw .unsupported(
        path: adapter.file.path, what: "\(adapter.config.peftType.rawValue) with weight \(adapterWeight)",
        reason: "its change depends on the base weight and has no multiple.")
    }
    if rule.changesWeight {
      if var earlier = changes[weight.name] {
        guard rule.isAdditive, earlier.rules.allSatisfy({ $0.rule.isAdditive }) else {
          throw .unsupported(
            path: adapter.file.path,
            what: "\(adapter.config.peftType.rawValue) together with another adapter on '\(part.path)'",
            reason: "its change would be computed from another weight than it was trained with. Merge it alone.")
        }
        earlier.rules.append((rule, adapterWeight))
        changes[weight.name] = earlier
      } else {
        try own(weight.name, part.path)
        if base.checkpoint[weight.name] == nil, !added.contains(weight.name) { added.append(weight.name) }
        changes[weight.name] = WeightChange(rules: [(rule, adapterWeight)], shape: shape)
      }
    }
    guard rule.changesBias else { return }
    let name = String(weight.name.dropLast("weight".count) + "bias")
    guard let bias = base.checkpoint[name] else {
      guard rule.needsBias else { return }
      throw .unsupported(
        path: adapter.file.path, what: "'\(part.path)'",
        reason: "the base layer has no bias to change; PEFT refuses too.")
    }
    guard bias.entry.dtype.isComputable, bias.entry.shape == [shape.output] else {
      throw .shapeMismatch(base: base.path, tensor: name, found: bias.entry.shape, expected: [shape.output])
    }
    guard let location = base.checkpoint[weight.name] else { return }
    try own(name, part.path)
    biasChanges[name] = BiasChange(
      rule: rule, weightFile: base.checkpoint.shards[location.shard].file, weight: weight, shape: shape)
  }

  /// How the weight is seen as a matrix.
  private func weightShape(_ entry: TensorEntry, _ part: Adapter.MethodPart) throws(AdapterError) -> WeightShape {
    let shape = entry.shape
    guard shape.count >= 2 else {
      throw .targetNotLinear(base: base.path, module: part.path, shape: shape)
    }
    let rest = shape.dropFirst().reduce(1, *)
    guard shape.count == 2 else {
      return WeightShape(
        output: shape[0], input: rest, kernel: Array(shape.dropFirst(2)), isEmbedding: false, isTransposed: false)
    }
    let isEmbedding = part.tensors.keys.contains { $0.contains("embedding") }
    // HiRA's factors of an embedding are those of the transposed table.
    let isTransposed = part.tensors["hira_embedding_A"] != nil || kinds[entry.name] == .transposedLinear
    return WeightShape(
      output: isTransposed ? shape[1] : shape[0], input: isTransposed ? shape[0] : shape[1], kernel: [],
      isEmbedding: isEmbedding, isTransposed: isTransposed)
  }
}
