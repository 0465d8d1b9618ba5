internal import TensorFiles
internal import TensorMath

extension AdapterMatch {
  /// Where a module's change stands: a tensor, and which of its `paths`.
  struct DeltaPlace: Sendable {
    let tensor: MatchedTensor
    let index: Int
  }

  /// The places of every module's change, by its path; of a bias and of a replaced tensor by that of the tensor. As in `moduleChanges`.
  func deltaPlaces() -> [ExactName: [DeltaPlace]] {
    var places: [ExactName: [DeltaPlace]] = [:]
    for tensor in changedTensors {
      for (index, path) in tensor.paths.enumerated() {
        places[path, default: []].append(DeltaPlace(tensor: tensor, index: index))
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
      let stored = StoredDelta(place)
      if let product = stored.product {
        blocks.append(try asAdapterError { () throws(TensorFileError) in try product.block() })
        continue
      }
      let (count, overflow) = stored.rows.multipliedReportingOverflow(by: stored.columns)
      elements += overflow ? ModuleDelta.greatestDense + 1 : count
      guard elements <= ModuleDelta.greatestDense, min(stored.rows, stored.columns) <= greatestExtent else {
        return nil
      }
      var scratch = MergeScratch(allowsNonFinite: true)
      let change = try changes(of: place.tensor, &scratch, keeps: true)
      guard change.indices.contains(place.index), let values = change[place.index].difference, values.count == count
      else { return nil }
      let matrix = Matrix(rows: stored.rows, columns: stored.columns, values: values)
      blocks.append(.dense(stored.isTransposed ? matrix.transposed : matrix))
    }
    return ModuleDelta(blocks: blocks)
  }
}

/// ΔW of a place as a matrix, as it is stored.
private struct StoredDelta {
  /// ΔW where it is a product of factors.
  struct Product {
    let rule: any LowRankRule
    let scale: Double

    func block() throws(TensorFileError) -> ModuleDelta.Block {
      var (left, right) = try rule.factors(Double.self)
      for index in left.values.indices { left.values[index] *= scale }
      return .product(left: left, right: right)
    }
  }

  let rows: Int
  let columns: Int
  var isTransposed = false
  var product: Product?

  init(_ place: AdapterMatch.DeltaPlace) {
    switch place.tensor.change {
    case .sums, .sumOnRows:
      let update = place.tensor.change.updates[place.index]
      (rows, columns, isTransposed) = (update.rows, update.columns, update.isTransposed)
      guard update.isPlain, update.terms.count == 1, let term = update.terms.first else { return }
      product = Product(rule: LoRARule(term: term, isTransposed: isTransposed), scale: term.scale)
    case .rules(let change):
      (rows, columns, isTransposed) = (change.storedRows, change.storedColumns, change.shape.isTransposed)
      guard change.rules.count == 1, let rule = change.rules[0].rule as? any LowRankRule else { return }
      product = Product(rule: rule, scale: change.rules[0].scale)
    case .unchanged, .biasRule, .biases, .rows, .replacement:
      let shape = place.tensor.item.shape
      (rows, columns) = shape.count < 2 ? (1, shape.first ?? 1) : (shape[0], shape.dropFirst().reduce(1, *))
    }
  }
}
