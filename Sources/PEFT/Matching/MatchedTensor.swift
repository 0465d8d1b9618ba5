internal import TensorFiles

/// A tensor as it comes out: what it is made from, and what is done to that.
struct MatchedTensor: Sendable {
  /// Its name in the checkpoint, and its dtype and shape.
  let item: SafetensorsLayout.Item
  /// A tensor of the base, an adapter's own copy of it, or what an adapter holds in its place.
  let source: StoredTensor
  let change: TensorChange

  /// A tensor that stays as it is.
  init(unchanged entry: TensorEntry, in file: SafetensorsFile) {
    item = SafetensorsLayout.Item(name: entry.name, dtype: entry.dtype, shape: entry.shape)
    source = StoredTensor(file: file.file, entry: entry)
    change = .unchanged
  }

  init(item: SafetensorsLayout.Item, source: StoredTensor, change: TensorChange) {
    (self.item, self.source, self.change) = (item, source, change)
  }

  /// True if the change is made to a weight or a bias, rather than that it takes its place.
  var changesSource: Bool {
    switch change {
    case .sums, .sumOnRows, .rules, .biasRule, .biases: true
    case .unchanged, .rows, .replacement: false
    }
  }

  /// The modules that the change belongs to as adapters name them: one for each update of rows, one for any other; of a bias
  /// the tensor's name. None where nothing changes.
  var paths: [String] {
    let name = item.name
    switch change {
    case .unchanged: return []
    case .sums, .sumOnRows: return change.updates.map { $0.terms.first?.owner.path ?? name }
    case .rules(let change): return [change.owners.first?.path ?? name]
    case .biasRule, .biases: return [name]
    case .rows, .replacement: return [name.hasSuffix(".weight") ? String(name.dropLast(".weight".count)) : name]
    }
  }

  /// The same values in another dtype; for a change, before it is rounded to the tensor's own.
  func converted(to dtype: DType) -> MatchedTensor {
    MatchedTensor(
      item: SafetensorsLayout.Item(name: item.name, dtype: dtype, shape: item.shape), source: source, change: change)
  }
}

/// What is done to a tensor.
enum TensorChange: Sendable {
  /// Nothing: its bytes are taken over.
  case unchanged
  /// W + s·B·A. Each update has rows of its own; rows of none stay.
  case sums([LoRAUpdate])
  /// As `sums`, some rows of W replaced first: a LoRA on a head that is tied to an embedding with trained rows.
  case sumOnRows(LoRAUpdate, TokenReplacement)
  /// A weight, changed by the rules of other methods than LoRA.
  case rules(WeightChange)
  /// A bias, changed by such a rule.
  case biasRule(BiasChange)
  /// A bias, others added.
  case biases([AddedBias])
  /// An embedding or a head, some rows replaced.
  case rows(TokenReplacement)
  /// A tensor of the adapter in the base's place, rounded to the dtype that it comes out with.
  case replacement

  /// The LoRA updates of a weight.
  var updates: [LoRAUpdate] {
    switch self {
    case .sums(let updates): updates
    case .sumOnRows(let update, _): [update]
    default: []
    }
  }

  /// The modules whose change it is, as far as it has factors or rules.
  var owners: [ModuleOwner] {
    switch self {
    case .sums, .sumOnRows: updates.flatMap { $0.terms.map(\.owner) }
    case .rules(let change): change.owners
    case .biasRule(let change): [change.owner]
    case .unchanged, .biases, .rows, .replacement: []
    }
  }

  /// True for what is done to a bias.
  var isOfBias: Bool {
    switch self {
    case .biasRule, .biases: true
    default: false
    }
  }

  /// True if nothing is done but adding what does not depend on the tensor.
  var isAdditive: Bool {
    switch self {
    case .unchanged, .biases: true
    case .sums(let updates): updates.allSatisfy(\.isPlain)
    case .rules(let change): change.rules.allSatisfy { $0.rule.isAdditive }
    case .biasRule(let change): change.rule.isAdditive
    case .sumOnRows, .rows, .replacement: false
    }
  }

  var isUnchanged: Bool { if case .unchanged = self { true } else { false } }
}
