internal import TensorFiles
internal import TensorMath

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
