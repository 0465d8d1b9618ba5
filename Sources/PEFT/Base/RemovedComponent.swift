internal import TensorMath

/// The product that is added to a weight to take a component out of it: -component = left · right.
///
/// Shape: left `[rows, rank]`, right `[rank, columns]` for a weight as stored. Precision: f64.
struct RemovedComponent {
  let left: Matrix<Double>
  let right: Matrix<Double>

  init(left: Matrix<Double>, right: Matrix<Double>) {
    self.left = left
    self.right = right
  }

  /// Decomposes a weight. Nil if an element is not finite or LAPACK does not converge.
  ///
  /// The components of singular values are projections on eigenvectors of the smaller of W·Wᵀ and Wᵀ·W, so they do not
  /// depend on the vectors' signs. Cost: O(n³) for the smaller extent n.
  init?(_ removal: BaseRemoval, of weight: Matrix<Double>) {
    let least = min(weight.rows, weight.columns)
    let isWide = weight.rows <= weight.columns
    switch removal {
    case .principal(let rank), .minor(let rank):
      var ranks = 0..<rank
      if case .principal = removal { ranks = least - rank..<least }
      let gram = isWide ? weight.times(weight, transposingOther: true) : weight.times(weight, transposingSelf: true)
      guard let found = Decompositions.eigenvectors(ofSymmetric: gram, ranks: ranks) else { return nil }
      let vectors = found.vectors
      if isWide {
        left = Self.negated(vectors.transposed)
        right = vectors.times(weight)
      } else {
        left = Self.negated(weight.times(vectors, transposingOther: true))
        right = vectors
      }
    case .firstColumns(let rank, let scale):
      guard let basis = Decompositions.orthonormalColumns(weight.columns(0..<rank)) else { return nil }
      left = Matrix(rows: basis.rows, columns: basis.columns, values: basis.values.map { -scale * $0 })
      right = basis.times(weight, transposingSelf: true)
    }
  }

  private static func negated(_ matrix: Matrix<Double>) -> Matrix<Double> {
    Matrix(rows: matrix.rows, columns: matrix.columns, values: matrix.values.map { -$0 })
  }
}
