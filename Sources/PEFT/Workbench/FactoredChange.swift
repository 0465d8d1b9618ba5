internal import TensorFiles
internal import TensorMath

/// ΔW of one weight `[out, in]` as a sum of products, read when it is asked for.
struct FactoredChange: Sendable {
  /// One of the products.
  enum Product: Sendable {
    /// scale · left · right: the factors of a LoRA, B `[out, r]` and A `[r, in]`.
    case stored(LoRAUpdate.Term)
    /// What a method of low rank adds, times a factor.
    case rule(any LowRankRule, scale: Double)
    /// The same, of a method that has factors beside the way in which it is merged.
    case factors(any FactoredRule, scale: Double)
    /// A change whose rank is not known, computed when it is read.
    case dense(@Sendable () throws(AdapterError) -> Matrix<Double>)
    /// What an initialisation took out of a weight.
    case removed(@Sendable () throws(AdapterError) -> RemovedComponent)
  }

  /// Rows: output features.
  let output: Int
  /// Columns: inputs, kernels counted.
  let input: Int
  var products: [Product]
  /// Multiplies all of it.
  var factor = 1.0

  /// The lesser extent: no rank is greater.
  var extent: Int { min(output, input) }

  /// True if the rank of every product is known from its factors.
  var hasKnownRank: Bool {
    products.allSatisfy { if case .dense = $0 { false } else { true } }
  }

  /// True if reading the factors takes no arithmetic but that of their scales.
  var isStored: Bool {
    products.allSatisfy { if case .stored = $0 { true } else { false } }
  }

  /// The same change multiplied, as one of the terms of a sum.
  func products(times weight: Double) -> [Product] {
    products.map { product in
      let scale = factor * weight
      switch product {
      case .stored(let term):
        return .stored(
          LoRAUpdate.Term(
            left: term.left, right: term.right, scale: term.scale * scale, owner: term.owner, diagonal: term.diagonal))
      case .rule(let rule, let own): return .rule(rule, scale: own * scale)
      case .factors(let rule, let own): return .factors(rule, scale: own * scale)
      case .dense(let make): return .dense { () throws(AdapterError) in Self.scaled(try make(), scale) }
      case .removed(let make):
        return .removed { () throws(AdapterError) in
          let component = try make()
          return RemovedComponent(left: Self.scaled(component.left, scale), right: component.right)
        }
      }
    }
  }

  /// B `[out, r]` and A `[r, in]` with ΔW = B·A, all products side by side, scales multiplied into B. With a product that has no
  /// factors they are ΔW itself and the identity.
  ///
  /// Precision: f64. Throws `.file`, and what computing a dense change throws.
  func factors() throws(AdapterError) -> (b: Matrix<Double>, a: Matrix<Double>) {
    if !hasKnownRank {
      let sum = try matrix()
      return output <= input ? (.identity(output), sum) : (sum, .identity(input))
    }
    var parts: [(b: Matrix<Double>, a: Matrix<Double>)] = []
    for product in products {
      let (b, a) = try factors(product)
      precondition(b.rows == output && a.columns == input && b.columns == a.rows, "factors of another weight")
      parts.append((Self.scaled(b, factor), a))
    }
    return (Matrix.sideBySide(parts.map(\.b), rows: output), Matrix.stacked(parts.map(\.a), columns: input))
  }

  /// The best approximation of the change by a rule. A change that is not a product is not decomposed whole where few of its directions
  /// are wanted. Nil if an element is not finite. Throws as `factors`.
  ///
  /// - Parameter keeping: how many directions to keep at hand where all are found.
  func reduction(by rule: RankRule, keeping: ([Double]) -> Int) throws(AdapterError) -> LowRankReduction? {
    let (b, a) = try factors()
    return reduction(of: b, a, by: rule, keeping: keeping)
  }

  /// As `reduction(by:keeping:)`, of the factors that `factors` gave.
  func reduction(
    of b: Matrix<Double>, _ a: Matrix<Double>, by rule: RankRule, keeping: ([Double]) -> Int
  ) -> LowRankReduction? {
    if !hasKnownRank, let found = LowRankReduction(b: b, a: a, isLeftIdentity: output <= input, rule: rule) {
      return found
    }
    return LowRankReduction(b: b, a: a, keeping: keeping)
  }

  /// ΔW itself. Throws as `factors`.
  func matrix() throws(AdapterError) -> Matrix<Double> {
    var sum: Matrix<Double>?
    for product in products {
      let change: Matrix<Double>
      if case .dense(let make) = product {
        change = try make()
      } else {
        let (b, a) = try factors(product)
        change = b.times(a)
      }
      precondition(change.rows == output && change.columns == input, "the change of another weight")
      if sum == nil {
        sum = change
      } else {
        for index in change.values.indices { sum?.values[index] += change.values[index] }
      }
    }
    return Self.scaled(sum ?? Matrix(rows: output, columns: input), factor)
  }

  /// ‖ΔW‖². Throws as `factors`.
  func squares() throws(AdapterError) -> Double {
    let (b, a) = try factors()
    return Self.squares(b, a)
  }

  /// ‖b·a‖², as a sum over the products of the columns of b and those of the rows of a.
  static func squares(_ b: Matrix<Double>, _ a: Matrix<Double>) -> Double {
    let (left, right) = (b.times(b, transposingSelf: true), a.times(a, transposingOther: true))
    return max(0, zip(left.values, right.values).reduce(0) { $0 + $1.0 * $1.1 })
  }

  private func factors(_ product: Product) throws(AdapterError) -> (b: Matrix<Double>, a: Matrix<Double>) {
    switch product {
    case .stored(let term):
      return try asAdapterError { () throws(TensorFileError) in
        var cache = FactorCache()
        let rank = term.right.rows
        let b = Matrix<Double>(rows: output, columns: rank, values: try term.left.values(&cache))
        var a = Matrix<Double>(rows: rank, columns: input, values: try term.right.values(&cache))
        if let diagonal = term.diagonal {
          let factors: [Double] = try diagonal.values(&cache)
          for row in 0..<rank { a.scaleRow(row, by: factors[row]) }
        }
        return (Self.scaled(b, term.scale), a)
      }
    case .rule(let rule, let scale):
      return try asAdapterError { () throws(TensorFileError) in
        let (left, a) = try rule.factors(Double.self)
        return (Self.scaled(left, scale), a)
      }
    case .factors(let rule, let scale):
      let found = try asAdapterError { () throws(TensorFileError) in try rule.changeFactors() }
      guard let (left, a) = found else { preconditionFailure("a rule without factors") }
      return (Self.scaled(left, scale), a)
    case .dense: preconditionFailure("a change without factors")
    case .removed(let make):
      let component = try make()
      return (component.left, component.right)
    }
  }

  private static func scaled(_ matrix: Matrix<Double>, _ factor: Double) -> Matrix<Double> {
    factor == 1
      ? matrix : Matrix(rows: matrix.rows, columns: matrix.columns, values: matrix.values.map { $0 * factor })
  }
}
