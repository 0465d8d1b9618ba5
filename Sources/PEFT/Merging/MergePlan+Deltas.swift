internal import TensorFiles
internal import TensorMath

extension MergePlan {
  /// Where a module's change stands: an output, and which of the updates of its rows.
  struct DeltaPlace: Sendable {
    let tensor: MatchedTensor
    var update = 0
  }

  /// The places of every module's change, by its path; of a bias and of a replaced tensor by that of the tensor. As in `moduleChanges`.
  func deltaPlaces() -> [ExactName: [DeltaPlace]] {
    var places: [ExactName: [DeltaPlace]] = [:]
    for tensor in shards.flatMap(\.outputs) {
      let name = tensor.item.name
      switch tensor.change {
      case .unchanged: continue
      case .sums, .sumOnRows:
        for (index, update) in tensor.change.updates.enumerated() {
          places[Self.path(update, name), default: []].append(DeltaPlace(tensor: tensor, update: index))
        }
      case .rules(let change): places[Self.path(change, name), default: []].append(DeltaPlace(tensor: tensor))
      case .biasRule, .biases: places[name, default: []].append(DeltaPlace(tensor: tensor))
      case .rows, .replacement: places[Self.module(name), default: []].append(DeltaPlace(tensor: tensor))
      }
    }
    return places
  }

  /// ΔW of a module, a block a place: W' - W before rounding, by its factors where it is a product.
  ///
  /// Nil for no places, where the base has no such tensor, and for what has no factors and is larger than is held whole or has a
  /// lesser extent over `greatestExtent`. Shape: `[out, in]`, however it is stored. Precision: f64. Throws `.file`.
  func delta(at places: [DeltaPlace], greatestExtent: Int = .max) throws(AdapterError) -> ModuleDelta? {
    guard !places.isEmpty else { return nil }
    var blocks: [ModuleDelta.Block] = []
    var elements = 0
    for place in places {
      let product = try asAdapterError { () throws(TensorFileError) in try Self.product(place) }
      if let product {
        blocks.append(product)
        continue
      }
      let (rows, columns) = Self.extents(place)
      let (count, overflow) = rows.multipliedReportingOverflow(by: columns)
      elements += overflow ? ModuleDelta.greatestDense + 1 : count
      guard elements <= ModuleDelta.greatestDense, min(rows, columns) <= greatestExtent else { return nil }
      var scratch = MergeScratch(allowsNonFinite: true)
      let change = try changes(of: place.tensor, &scratch, keeps: true)
      guard change.indices.contains(place.update), let values = change[place.update].difference, values.count == count
      else { return nil }
      let stored = Matrix(rows: rows, columns: columns, values: values)
      blocks.append(.dense(Self.isTransposed(place) ? stored.transposed : stored))
    }
    return ModuleDelta(blocks: blocks)
  }

  private static func extents(_ place: DeltaPlace) -> (rows: Int, columns: Int) {
    switch place.tensor.change {
    case .sums, .sumOnRows:
      let update = place.tensor.change.updates[place.update]
      return (update.rows, update.columns)
    case .rules(let change): return (change.storedRows, change.storedColumns)
    case .unchanged, .biasRule, .biases, .rows, .replacement:
      let shape = place.tensor.item.shape
      return shape.count < 2 ? (1, shape.first ?? 1) : (shape[0], shape.dropFirst().reduce(1, *))
    }
  }

  /// The change as a product of factors; nil where it is none.
  private static func product(_ place: DeltaPlace) throws(TensorFileError) -> ModuleDelta.Block? {
    let (rule, scale): (any LowRankRule, Double)
    switch place.tensor.change {
    case .sums, .sumOnRows:
      let update = place.tensor.change.updates[place.update]
      guard update.isPlain, update.terms.count == 1 else { return nil }
      (rule, scale) = (LoRARule(term: update.terms[0], isTransposed: update.isTransposed), update.terms[0].scale)
    case .rules(let change):
      guard change.rules.count == 1, let product = change.rules[0].rule as? any LowRankRule else { return nil }
      (rule, scale) = (product, change.rules[0].scale)
    default: return nil
    }
    var (left, right) = try rule.factors(Double.self)
    for index in left.values.indices { left.values[index] *= scale }
    return .product(left: left, right: right)
  }

  private static func isTransposed(_ place: DeltaPlace) -> Bool {
    switch place.tensor.change {
    case .sums, .sumOnRows: place.tensor.change.updates[place.update].isTransposed
    case .rules(let change): change.shape.isTransposed
    default: false
    }
  }
}
