internal import TensorFiles
internal import TensorMath

/// Changes of one tensor by several adapters: sums are added up, everything else is refused.
extension MergePlanMaker {
  /// Notes an update of a weight's rows, beside those that other adapters make.
  mutating func add(_ update: LoRAUpdate, to name: String, of module: Adapter.Module) throws(AdapterError) {
    for term in update.terms { try requireFinite(term.scale, for: name, of: module.path) }
    let rows = update.firstRow..<update.firstRow + update.rows
    var update = update
    for index in update.terms.indices { update.terms[index].owner = owner(module.path) }
    if let other = updatedRows[name] {
      guard !other.contains(where: { $0.overlaps(rows) }) else {
        throw .collision(base: base.path, tensor: name, modules: [owners[name]?.module ?? "", module.path])
      }
    } else if updates[name] == nil, changes[name] == nil {
      try own(name, module.path)
    }
    updatedRows[name, default: []].append(rows)
    if var change = changes[name] {
      change.owners.append(owner(module.path))
      change.rules += try rules([update], in: change.shape, weight: name, beside: change.rules.map(\.rule), module.path)
      changes[name] = change
      return
    }
    guard let index = updates[name]?.firstIndex(where: { ($0.firstRow..<$0.firstRow + $0.rows).overlaps(rows) }),
      let earlier = updates[name]?[index]
    else {
      updates[name, default: []].append(update)
      return
    }
    let sum = try sum(earlier, update, of: module)
    updates[name]?[index] = sum
  }

  private func sum(
    _ earlier: LoRAUpdate, _ update: LoRAUpdate, of module: Adapter.Module
  ) throws(AdapterError) -> LoRAUpdate {
    guard earlier.isPlain, update.isPlain else {
      throw notAdditive("DoRA, PiSSA, OLoRA or KaSA", module.path)
    }
    guard earlier.firstRow == update.firstRow, earlier.rows == update.rows else {
      throw .unsupported(
        path: adapter.file.path, what: "'\(module.path)' together with another adapter",
        reason: "the two change different rows of one weight. Merge them one after the other.")
    }
    var sum = earlier
    sum.terms += update.terms
    return sum
  }

  /// Notes a rule that changes a weight, beside what other adapters add to it.
  mutating func add(
    _ rule: any WeightRule, of part: Adapter.MethodPart, weight: TensorEntry, _ shape: WeightShape
  ) throws(AdapterError) {
    if !rule.isAdditive {
      try requireWhole(
        "\(adapter.config.peftType.rawValue) on '\(part.path)'",
        because: "its change depends on the base weight and has no multiple.",
        lost: "its change depends on the base weight, which the model no longer holds.")
    }
    try requireFinite(adapterWeight, for: weight.name, of: part.path)
    if rule.changesWeight {
      var rules = changes[weight.name]?.rules ?? []
      var owners = changes[weight.name]?.owners ?? []
      if let earlier = updates.removeValue(forKey: ExactName(weight.name)) {
        rules = try self.rules(earlier, in: shape, weight: weight.name, beside: [rule], part.path)
        owners = earlier.flatMap { $0.terms.map(\.owner) }
      } else if rules.isEmpty {
        try own(weight.name, part.path)
        if base.checkpoint[weight.name] == nil, !added.containsExactly(weight.name) { added.append(weight.name) }
      }
      guard rules.isEmpty || (rule.isAdditive && rules.allSatisfy({ $0.rule.isAdditive })) else {
        throw notAdditive(adapter.config.peftType.rawValue, part.path)
      }
      changes[weight.name] = WeightChange(
        rules: rules + [(rule, adapterWeight)], owners: owners + [owner(part.path)], shape: shape)
    }
    let name = String(weight.name.dropLast("weight".count) + "bias")
    guard let bias = base.checkpoint[name] else {
      guard rule.addedBias != nil else { return }
      throw .unsupported(
        path: adapter.file.path, what: "'\(part.path)'",
        reason: "the base layer has no bias to change; PEFT refuses too.")
    }
    guard rule.changesBias || rule.addedBias != nil else { return }
    guard bias.entry.dtype.isComputable, bias.entry.shape == [shape.output] else {
      throw .shapeMismatch(base: base.path, tensor: name, found: bias.entry.shape, expected: [shape.output])
    }
    if let added = rule.addedBias {
      try add(AddedBias(source: added, scale: adapterWeight), to: name, of: part.path)
      mergedModules.insert(owner(part.path))
      return
    }
    guard let location = base.checkpoint[weight.name] else { return }
    try own(name, part.path)
    biasChanges[name] = BiasChange(
      rule: rule, owner: owner(part.path),
      weight: StoredTensor(file: base.checkpoint.shards[location.shard].file, entry: weight), shape: shape)
  }

  /// Notes what is added to a bias, beside what other adapters add.
  mutating func add(_ addend: AddedBias, to name: String, of path: String) throws(AdapterError) {
    try requireFinite(addend.scale, for: name, of: path)
    if biases[name] == nil { try own(name, path) }
    biases[name, default: []].append(addend)
  }

  /// LoRA updates of a weight as rules beside those of other methods.
  private func rules(
    _ updates: [LoRAUpdate], in shape: WeightShape, weight name: String, beside others: [any WeightRule],
    _ path: String
  ) throws(AdapterError) -> [(rule: any WeightRule, scale: Double)] {
    guard others.allSatisfy(\.isAdditive) else { throw notAdditive("LoRA", path) }
    guard updates.count == 1, updates[0].isPlain else { throw notAdditive("DoRA, PiSSA, OLoRA or KaSA", path) }
    let update = updates[0]
    let change = WeightChange(rules: [], shape: shape)
    guard update.firstRow == 0, update.rows == change.storedRows, update.columns == change.storedColumns,
      baseCopies[name].map({ $0.entry.shape == storedWeight(name)?.shape }) ?? true
    else {
      throw .unsupported(
        path: adapter.file.path, what: "'\(path)' together with another adapter",
        reason: "the two change different rows of one weight. Merge them one after the other.")
    }
    return update.terms.map { (LoRARule(term: $0, isTransposed: shape.isTransposed), $0.scale) }
  }

  private func notAdditive(_ what: String, _ path: String) -> AdapterError {
    .unsupported(
      path: adapter.file.path, what: "\(what) together with another adapter on '\(path)'",
      reason: "only sums can be added up: a change that depends on the weight was trained with the weight of the base. "
        + "Merge it alone.")
  }
}

extension LoRAUpdate {
  /// True for W + s·B·A without more.
  var isPlain: Bool { magnitude == nil && removal == nil }
}

/// A term of a plain LoRA as a rule, so that it can stand beside the rules of other methods.
struct LoRARule: LowRankRule {
  let term: LoRAUpdate.Term
  /// True if rules see the stored weight transposed.
  let isTransposed: Bool

  func factors<Scalar: FactorElement>(
    _ type: Scalar.Type
  ) throws(TensorFileError) -> (left: Matrix<Scalar>, right: Matrix<Scalar>) {
    var cache = FactorCache()
    let left = Matrix<Scalar>(rows: term.left.rows, columns: term.rank, values: try term.left.values(&cache))
    var right = Matrix<Scalar>(rows: term.rank, columns: term.right.columns, values: try term.right.values(&cache))
    if let diagonal = term.diagonal {
      let factors: [Scalar] = try diagonal.values(&cache)
      for (row, factor) in factors.enumerated() { right.scaleRow(row, by: factor) }
    }
    return isTransposed ? (right.transposed, left.transposed) : (left, right)
  }
}
