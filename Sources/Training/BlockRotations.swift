internal import PEFT
internal import TensorMath

/// How a rotation is made of a skew-symmetric Q.
enum RotationRule {
  /// The cut series of the Cayley transform.
  case series(terms: Int)
  /// (I-Q)·(I+Q)⁻¹.
  case cayley

  func rotation(_ q: Matrix<Double>) -> Matrix<Double> {
    switch self {
    case .series(let terms): Rotations.series(q, terms: terms)
    case .cayley: Rotations.cayley(q) ?? Matrix(q.rows, .nan)
    }
  }

  /// The gradient of Q, all of its entries taken as free, for that of the rotation.
  ///
  /// Series: for each power n its factor times Σ over j < n of (Qʲ)ᵀ·g·(Qⁿ⁻¹⁻ʲ)ᵀ. Cayley: -(I+R)ᵀ·g·(I+Q)⁻ᵀ, where
  /// (I+Q)⁻¹ = (I+R)/2.
  func gradient(_ g: Matrix<Double>, of q: Matrix<Double>, rotation: Matrix<Double>) -> Matrix<Double> {
    var result = Matrix<Double>(rows: q.rows, columns: q.columns)
    switch self {
    case .series(let terms):
      let factors = Rotations.seriesFactors(terms: terms)
      var powers = [Matrix<Double>.identity(q.rows)]
      for _ in factors.dropFirst() { powers.append(powers[powers.count - 1].times(q)) }
      for (index, factor) in factors.enumerated() {
        for j in 0...index {
          result.add(powers[j].transposed.times(g).times(powers[index - j].transposed), scale: factor)
        }
      }
    case .cayley:
      var sum = rotation
      sum.add(.identity(q.rows), scale: 1)
      result.add(sum.transposed.times(g).times(sum.transposed), scale: -0.5)
    }
    return result
  }
}

extension Matrix<Double> {
  /// A square one, all elements alike.
  fileprivate init(_ extent: Int, _ value: Double) {
    self.init(rows: extent, columns: extent, values: [Double](repeating: value, count: extent * extent))
  }
}

/// A block-diagonal rotation of the columns of a matrix; a single block serves all stretches of columns.
struct BlockRotations {
  private let skews: [Matrix<Double>]
  private let rotations: [Matrix<Double>]
  private let rule: RotationRule
  private var size: Int { skews[0].rows }

  /// Blocks that are left as they are for a while.
  private let dropped: [Bool]

  /// - Parameter skews: at least one, of the same extents.
  /// - Parameter dropped: for each block whether it turns nothing; empty for none.
  init(_ skews: [Matrix<Double>], _ rule: RotationRule, dropped: [Bool] = []) {
    self.skews = skews
    self.rule = rule
    self.dropped = dropped.isEmpty ? skews.map { _ in false } : dropped
    rotations = zip(skews, self.dropped).map { $1 ? .identity($0.rows) : rule.rotation($0) }
  }

  /// x·R, or x·Rᵀ if `back`.
  func turning(_ x: LentMatrix, back: Bool = false, in workspace: Workspace) -> LentMatrix {
    let blocks = rotations.map { rotation in
      let block = workspace.matrix(size, size)
      block.copy(rotation.values.map { Float($0) })
      return block
    }
    let result = workspace.matrix(x.rows, x.columns)
    for index in 0..<x.columns / size {
      let part = workspace.matrix(x.rows, size)
      part.setProduct(
        x.columns(index * size..<(index + 1) * size, in: workspace), blocks[index % blocks.count],
        transposingSecond: back)
      result.setColumns(from: index * size, part)
    }
    return result
  }

  /// The gradient of each Q, for the input x and the gradient of x·R.
  func gradients(of x: LentMatrix, _ g: LentMatrix, in workspace: Workspace) -> [Matrix<Double>] {
    var sums = skews.map { Matrix<Double>(rows: $0.rows, columns: $0.columns) }
    for index in 0..<x.columns / size {
      let range = index * size..<(index + 1) * size
      let part = workspace.matrix(size, size)
      part.setProduct(x.columns(range, in: workspace), transposingFirst: true, g.columns(range, in: workspace))
      sums[index % sums.count].add(
        Matrix(rows: size, columns: size, values: part.values.map { Double($0) }), scale: 1)
    }
    return sums.indices.map {
      dropped[$0]
        ? Matrix(rows: size, columns: size) : rule.gradient(sums[$0], of: skews[$0], rotation: rotations[$0])
    }
  }
}
