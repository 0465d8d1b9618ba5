internal import TensorMath

extension ModuleDelta {
  /// Sums over the elements of two changes of one weight.
  struct Comparison {
    var firstSquares = 0.0
    var secondSquares = 0.0
    var product = 0.0
    var differenceSquares = 0.0
    var columns: Overlap? = Overlap()
    var rows: Overlap? = Overlap()
  }

  /// How far two spaces are one.
  struct Overlap {
    /// Σ cos² of the angles between them.
    var cosineSquares = 0.0
    /// Directions of the smaller and of the larger space, and of the space that both lie in.
    var fewer = 0
    var more = 0
    var extent = 0
  }

  /// Compares two changes; nil if their extents differ, a value is not finite, or one without factors is too large to hold.
  ///
  /// Of two products neither is formed: the inner product is Σ (LᵀL')∘(R·R'ᵀ), and their difference is the product of two
  /// factors side by side, whose norm two triangles give without cancelling. Precision: f64.
  func comparison(with other: ModuleDelta) -> Comparison? {
    guard blocks.count == other.blocks.count else { return nil }
    var sum = Comparison()
    for (one, two) in zip(blocks, other.blocks) {
      guard one.rows == two.rows, one.columns == two.columns, sum.add(one, two) else { return nil }
    }
    let sums = [sum.firstSquares, sum.secondSquares, sum.product, sum.differenceSquares]
    return sums.allSatisfy(\.isFinite) ? sum : nil
  }
}

extension ModuleDelta.Comparison {
  /// False if the blocks cannot be compared.
  fileprivate mutating func add(_ one: ModuleDelta.Block, _ two: ModuleDelta.Block) -> Bool {
    if case .product(let left, let right) = one, case .product(let otherLeft, let otherRight) = two {
      guard let first = Self.squares(left, right), let second = Self.squares(otherLeft, otherRight),
        let difference = Self.squares(
          Self.besides(left, otherLeft), Self.above(right, otherRight, scale: -1))
      else { return false }
      firstSquares += first
      secondSquares += second
      differenceSquares += difference
      let outer = left.times(otherLeft, transposingSelf: true)
      let inner = right.times(otherRight, transposingOther: true)
      for index in outer.values.indices { product += outer.values[index] * inner.values[index] }
    } else {
      guard let a = one.dense, let b = two.dense else { return false }
      for index in a.values.indices {
        let (x, y) = (a.values[index], b.values[index])
        firstSquares += x * x
        secondSquares += y * y
        product += x * y
        differenceSquares += (x - y) * (x - y)
      }
    }
    addOverlap(one, two)
    return true
  }

  private mutating func addOverlap(_ one: ModuleDelta.Block, _ two: ModuleDelta.Block) {
    guard columns != nil, let first = one.directions(), let second = two.directions() else {
      (columns, rows) = (nil, nil)
      return
    }
    func add(_ first: Matrix<Double>, _ second: Matrix<Double>, to overlap: inout ModuleDelta.Overlap?) {
      let cosines = first.times(second, transposingOther: true)
      overlap?.cosineSquares += cosines.values.reduce(0) { $0 + $1 * $1 }
      overlap?.fewer += min(first.rows, second.rows)
      overlap?.more += max(first.rows, second.rows)
      overlap?.extent += first.columns
    }
    add(first.columns, second.columns, to: &columns)
    add(first.rows, second.rows, to: &rows)
  }

  /// ‖left · right‖².
  private static func squares(_ left: Matrix<Double>, _ right: Matrix<Double>) -> Double? {
    ModuleDelta(blocks: [.product(left: left, right: right)]).norm.map { $0 * $0 }
  }

  /// Two matrices one above the other, the second one scaled.
  private static func above(_ one: Matrix<Double>, _ two: Matrix<Double>, scale: Double) -> Matrix<Double> {
    Matrix(rows: one.rows + two.rows, columns: one.columns, values: one.values + two.values.map { scale * $0 })
  }

  /// Two matrices side by side.
  private static func besides(_ one: Matrix<Double>, _ two: Matrix<Double>) -> Matrix<Double> {
    var values: [Double] = []
    values.reserveCapacity(one.values.count + two.values.count)
    for row in 0..<one.rows {
      values += one.values[row * one.columns..<(row + 1) * one.columns]
      values += two.values[row * two.columns..<(row + 1) * two.columns]
    }
    return Matrix(rows: one.rows, columns: one.columns + two.columns, values: values)
  }
}
