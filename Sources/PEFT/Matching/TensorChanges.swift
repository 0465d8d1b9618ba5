internal import TensorFiles

/// What adapters change, tensor by tensor: the account of who changes what.
///
/// Sums are added up, whatever adapters they come from. Everything else belongs to one module of one adapter.
struct TensorChanges: Sendable {
  /// Rows of an embedding or a head that differ in number from the base's.
  enum Vocabulary: Sendable, Equatable {
    /// The tensor has so many, more than the base's.
    case grown(Int)
    /// The adapter has fewer; the base's last rows stay.
    case short
  }

  /// By the name of the tensor that comes out.
  var changes: [ExactName: TensorChange] = [:]
  /// What adapters hold in the place of the base's tensors: replacements, and their own copies of base weights.
  var sources: [ExactName: StoredTensor] = [:]
  var vocabulary: [ExactName: Vocabulary] = [:]
  /// Names that the base does not have, in order.
  var added: [String] = []
  /// The adapter and the module that a tensor belongs to.
  private var owners: [ExactName: (adapter: String, module: String)] = [:]

  /// The module that first changed a tensor.
  func owner(of name: String) -> String { owners[name]?.module ?? "" }

  /// True if a module of this adapter changes the tensor.
  func belongs(_ name: String, to part: MatchedAdapter) -> Bool { owners[name]?.adapter == part.adapter.directory }

  /// Notes who changes a tensor; nobody else may, but for what can be added up. Throws `.conflict`, `.collision`.
  mutating func own(_ name: String, _ path: String, _ part: MatchedAdapter) throws(AdapterError) {
    let (base, directory) = (part.base, part.adapter.directory)
    guard let other = owners.updateValue((directory, path), forKey: name) else {
      if base.checkpoint[name] == nil { added.append(name) }
      return
    }
    guard other.adapter == directory else {
      throw .conflict(base: base.path, tensor: name, adapters: [other.adapter, directory])
    }
    throw .collision(base: base.path, tensor: name, modules: [other.module, path])
  }

  // MARK: Sums

  /// Notes an update of a weight's rows, beside those that other adapters make.
  mutating func add(
    _ update: LoRAUpdate, to name: String, of path: String, by part: MatchedAdapter
  ) throws(AdapterError) {
    for term in update.terms { try part.requireFinite(term.scale, for: name, of: path) }
    var update = update
    for index in update.terms.indices { update.terms[index].owner = part.owner(path) }
    func collision() -> AdapterError {
      .collision(base: part.base.path, tensor: name, modules: [owner(of: name), path])
    }
    switch changes[name] {
    case .sums?:
      // Taken out, so that a long list of experts is not copied for each.
      guard case .sums(var updates)? = changes.removeValue(forKey: ExactName(name)) else { return }
      let overlapping = updates.indices.filter { updates[$0].rowRange.overlaps(update.rowRange) }
      for index in overlapping where updates[index].terms.contains(where: { $0.owner.adapter == part.index }) {
        throw collision()
      }
      if let index = overlapping.first {
        try updates[index].add(update, of: path, by: part)
      } else {
        updates.append(update)
      }
      changes[name] = .sums(updates)
    case .rules(var change)?:
      guard !change.owners.contains(where: { $0.adapter == part.index }) else { throw collision() }
      let others = change.rules.map(\.rule)
      change.owners.append(part.owner(path))
      change.rules += try rules([update], in: change.shape, weight: name, beside: others, path, part)
      changes[name] = .rules(change)
    default:
      try own(name, path, part)
      changes[name] = .sums([update])
    }
  }

  /// Notes what is added to a bias, beside what other adapters add.
  mutating func add(
    _ addend: AddedBias, to name: String, of path: String, by part: MatchedAdapter
  ) throws(AdapterError) {
    try part.requireFinite(addend.scale, for: name, of: path)
    if case .biases(let addends)? = changes[name] {
      changes[name] = .biases(addends + [addend])
    } else {
      try own(name, path, part)
      changes[name] = .biases([addend])
    }
  }

  // MARK: Rules

  /// Notes a rule that changes a weight, beside what other adapters add to it.
  mutating func add(
    _ rule: any WeightRule, to name: String, _ shape: WeightShape, of path: String, by part: MatchedAdapter
  ) throws(AdapterError) {
    let type = part.config.peftType.rawValue
    if !rule.isAdditive {
      try part.requireWhole(
        "\(type) on '\(path)'", because: "its change depends on the base weight and has no multiple.",
        lost: "its change depends on the base weight, which the model no longer holds.")
    }
    try part.requireFinite(part.weight, for: name, of: path)
    guard rule.changesWeight else { return }
    var change = WeightChange(rules: [], shape: shape)
    switch changes[name] {
    case .rules(let earlier)?: (change.rules, change.owners) = (earlier.rules, earlier.owners)
    case .sums(let updates)?:
      change.rules = try rules(updates, in: shape, weight: name, beside: [rule], path, part)
      change.owners = updates.flatMap { $0.terms.map(\.owner) }
    default: try own(name, path, part)
    }
    guard change.rules.isEmpty || (rule.isAdditive && change.rules.allSatisfy({ $0.rule.isAdditive })) else {
      throw part.notAdditive(type, path)
    }
    change.rules.append((rule, part.weight))
    change.owners.append(part.owner(path))
    changes[name] = .rules(change)
  }

  /// LoRA updates of a weight as rules beside those of other methods.
  private func rules(
    _ updates: [LoRAUpdate], in shape: WeightShape, weight name: String, beside others: [any WeightRule],
    _ path: String, _ part: MatchedAdapter
  ) throws(AdapterError) -> [(rule: any WeightRule, scale: Double)] {
    guard others.allSatisfy(\.isAdditive) else { throw part.notAdditive("LoRA", path) }
    guard updates.count == 1, updates[0].isPlain else {
      throw part.notAdditive("DoRA, PiSSA, OLoRA or KaSA", path)
    }
    let update = updates[0]
    let change = WeightChange(rules: [], shape: shape)
    guard update.firstRow == 0, update.rows == change.storedRows, update.columns == change.storedColumns,
      sources[name].map({ $0.shape == part.base.stored(name)?.shape }) ?? true
    else { throw part.otherRows(path) }
    return update.terms.map { (LoRARule(term: $0, isTransposed: shape.isTransposed), $0.scale) }
  }
}

extension LoRAUpdate {
  /// The rows of the stored weight.
  fileprivate var rowRange: Range<Int> { firstRow..<firstRow + rows }

  /// Adds another adapter's update of the same rows.
  fileprivate mutating func add(
    _ other: LoRAUpdate, of path: String, by part: MatchedAdapter
  ) throws(AdapterError) {
    guard isPlain, other.isPlain else { throw part.notAdditive("DoRA, PiSSA, OLoRA or KaSA", path) }
    guard rowRange == other.rowRange else { throw part.otherRows(path) }
    terms += other.terms
  }
}

extension MatchedAdapter {
  fileprivate func otherRows(_ path: String) -> AdapterError {
    .unsupported(
      path: file.path, what: "'\(path)' together with another adapter",
      reason: "the two change different rows of one weight. Merge them one after the other.")
  }

  fileprivate func notAdditive(_ what: String, _ path: String) -> AdapterError {
    .unsupported(
      path: file.path, what: "\(what) together with another adapter on '\(path)'",
      reason: "only sums can be added up: a change that depends on the weight was trained with the weight of the base. "
        + "Merge it alone.")
  }
}
