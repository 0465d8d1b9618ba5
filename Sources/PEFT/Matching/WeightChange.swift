internal import TensorFiles
internal import TensorMath

/// The rules that change one weight, one after the other, and how the weight is stored.
struct WeightChange: Sendable {
  var rules: [(rule: any WeightRule, scale: Double)]
  /// Whose the rules are.
  var owners: [ModuleOwner] = []
  let shape: WeightShape

  /// Rows and columns as stored.
  var storedRows: Int { shape.isTransposed ? shape.input : shape.output }
  var storedColumns: Int { shape.isTransposed ? shape.output : shape.input }

  /// True if all rows must be held at once.
  var needsWholeWeight: Bool { shape.isTransposed || rules.contains { $0.rule.needsWholeWeight } }

  /// Changes a range of the stored rows; all of them where the whole weight is needed.
  ///
  /// What is only added is summed before it meets the weight, so that W + ΔW is one sum whose ΔW can be taken away again.
  func apply<Scalar: FactorElement>(
    _ rows: Range<Int>, _ block: inout Matrix<Scalar>, _ changes: [RowChange<Scalar>]
  ) throws(TensorFileError) {
    if shape.isTransposed { block = block.transposed }
    if rules.allSatisfy(\.rule.isAdditive) {
      let weight = block
      block = Matrix(rows: weight.rows, columns: weight.columns)
      for change in changes { try change(shape.isTransposed ? 0..<shape.output : rows, &block) }
      for index in block.values.indices { block.values[index] += weight.values[index] }
      if shape.isTransposed { block = block.transposed }
      return
    }
    for change in changes { try change(shape.isTransposed ? 0..<shape.output : rows, &block) }
    if shape.isTransposed { block = block.transposed }
  }

  /// What each rule does, its tensors read.
  func changes<Scalar: FactorElement>(_ type: Scalar.Type) throws(TensorFileError) -> [RowChange<Scalar>] {
    var changes: [RowChange<Scalar>] = []
    for (rule, scale) in rules { changes.append(try rule.makeChange(scale: Scalar(scale))) }
    return changes
  }
}

/// A module of an adapter.
struct ModuleOwner: Hashable, Sendable {
  /// The adapter's place among those that are merged; one may stand there twice.
  var adapter = 0
  /// The module's path as the adapter names it.
  var path = ""
}

/// The rule that changes a bias, and the weight beside it.
struct BiasChange: Sendable {
  let rule: any WeightRule
  /// Whose the rule is.
  var owner = ModuleOwner()
  /// The weight before the change.
  let weight: StoredTensor
  let shape: WeightShape

  /// The new values.
  func changed(_ bias: [Double]) throws(TensorFileError) -> [Double] {
    try rule.changedBias(bias) { () throws(TensorFileError) in
      let stored: Matrix<Double> = try weight.matrix(rows: shape.isTransposed ? shape.input : shape.output)
      return shape.isTransposed ? stored.transposed : stored
    }
  }
}
