internal import TensorMath

/// The best approximation of a change B·A by fewer ranks, from the factors alone.
///
/// With B = Q·R and Aᵀ = P·T the singular values of B·A are those of R·Tᵀ = U·S·Vᵀ, and B·Tᵀ·V = Q·U·S needs neither Q nor P: the new
/// factors are B·(Tᵀ·V/√S) and (Uᵀ·R/√S)·A. The root of S is on either side, which keeps the factors' sizes alike.
/// Precision: f64. Cost: 2·r²·(out + in) for the decompositions, O(r³) for the core; memory: the factors.
struct LowRankReduction: Sendable {
  /// Singular values of B·A in falling order, without what rounding alone gives.
  let singularValues: [Double]
  /// `[r, kept]` and `[kept, r]`: what B and A are multiplied by.
  private let left: Matrix<Double>
  private let right: Matrix<Double>

  /// The squares of the singular values that are not among them, summed; zero unless only the leading ones were sought.
  private let rest: Double
  /// The rank that the rule chose with which the leading values were sought; nil where all are known.
  let chosenRank: Int?

  /// ‖B·A‖².
  var squares: Double { singularValues.reduce(rest) { $0 + $1 * $1 } }

  /// Directions that are kept at hand.
  var kept: Int { left.columns }

  /// Nil if an element is not finite.
  ///
  /// - Parameter keeping: how many directions to keep at hand, of those that are not zero.
  init?(b: Matrix<Double>, a: Matrix<Double>, keeping: ([Double]) -> Int) {
    let (r, t) = (TriangularFactor(ofRows: b).r, TriangularFactor(ofColumns: a).r)
    let core = r.times(t, transposingOther: true)
    guard let found = Decompositions.singularValues(core) else { return nil }
    // Below this a value is rounding's: factors may be large where their product is not.
    let norms = Self.norm(r) * Self.norm(t)
    let floor = norms * 0x1p-52 * Double(max(1, core.rows))
    let count = found.s.count { $0 > floor }
    singularValues = Array(found.s.prefix(count))
    let kept = min(count, max(0, keeping(singularValues)))
    var left = t.times(found.vTransposed.rows(0..<kept), transposingSelf: true, transposingOther: true)
    var right = found.u.columns(0..<kept).times(r, transposingSelf: true)
    for index in 0..<kept {
      let root = 1 / found.s[index].squareRoot()
      for row in 0..<left.rows { left[row, index] *= root }
      right.scaleRow(index, by: root)
    }
    self.left = left
    self.right = right
    (rest, chosenRank) = (0, nil)
  }

  /// The leading directions of a change of which one factor is the identity, or a multiple of it; nil where all directions are wanted
  /// or the change is small, and where an element is not finite.
  ///
  /// With U the left vectors that are found the result is U·Uᵀ·B·A, or B·A·V·Vᵀ, so that what it loses is known to 1e-8 of it.
  /// Source of the directions: `LeadingDecomposition`.
  init?(b: Matrix<Double>, a: Matrix<Double>, isLeftIdentity: Bool, rule: RankRule) {
    guard rule != .whole, let first = rule.firstCount else { return nil }
    let factor = isLeftIdentity ? b.values[0] : 1
    let (change, extent) = (isLeftIdentity ? a : b, min(b.rows, a.columns))
    let squares = change.values.reduce(0) { $0 + $1 * $1 } * factor * factor
    guard squares > 0 else { return nil }
    let narrow = Matrix<Float>(
      rows: change.rows, columns: change.columns, values: change.values.map { Float($0 * factor) })
    let found = LeadingDecomposition(narrow, squares: squares, first: min(first, extent)) { values, isWhole in
      rule.rank(ofLeading: values, isWhole: isWhole, squares: squares, floor: 0, extent: extent)
    }
    guard let found, found.steps > 0 else { return nil }
    // What the vectors take of the change, on the side of the factor that is not the identity.
    let taken =
      isLeftIdentity
      ? found.left.times(change, transposingSelf: true) : found.right.times(change, transposingOther: true)
    var left = isLeftIdentity ? found.left : found.right.transposed
    var right = left.transposed
    var values: [Double] = []
    for index in 0..<found.values.count {
      let norm = taken.rows(index..<index + 1).values.reduce(0) { $0 + $1 * $1 }.squareRoot() * abs(factor)
      values.append(norm)
      let root = norm.squareRoot()
      let (onLeft, onRight) = isLeftIdentity ? (root / factor, factor / root) : (1 / root, root)
      for row in 0..<left.rows { left[row, index] *= onLeft }
      right.scaleRow(index, by: onRight)
    }
    (singularValues, self.left, self.right) = (values, left, right)
    rest = max(0, squares - values.reduce(0) { $0 + $1 * $1 })
    chosenRank = rule.isFixed ? rule.rank(of: values, extent: extent) : max(1, values.count)
  }

  private static func norm(_ matrix: Matrix<Double>) -> Double {
    matrix.values.reduce(0) { $0 + $1 * $1 }.squareRoot()
  }

  /// The factors of the best approximation of `rank`, with zeros for ranks that the change does not have. Traps if more of them are
  /// not zero than were kept.
  ///
  /// - Parameters b, a: the factors that it was made of.
  func factors(_ b: Matrix<Double>, _ a: Matrix<Double>, rank: Int) -> (b: Matrix<Double>, a: Matrix<Double>) {
    let used = min(rank, singularValues.count)
    precondition(used <= kept, "directions were not kept")
    var (newB, newA) = (b.times(left.columns(0..<used)), right.rows(0..<used).times(a))
    if used < rank {
      newB = Matrix.sideBySide([newB, Matrix(rows: b.rows, columns: rank - used)], rows: b.rows)
      newA = Matrix.stacked([newA, Matrix(rows: rank - used, columns: a.columns)], columns: a.columns)
    }
    return (newB, newA)
  }

  /// ‖B·A - the best approximation of that rank‖².
  func lostSquares(rank: Int) -> Double { singularValues.dropFirst(rank).reduce(rest) { $0 + $1 * $1 } }
}

/// Factors rounded to a dtype, and what the rounding did to their product.
struct RoundedFactors {
  let b: StoredValues
  let a: StoredValues
  /// ‖b·a before the rounding - after it‖².
  let lostSquares: Double

  init(b exactB: Matrix<Double>, _ formatB: FloatFormat, a exactA: Matrix<Double>, _ formatA: FloatFormat) {
    b = StoredValues(exactB.values, formatB)
    a = StoredValues(exactA.values, formatA)
    let differenceB = Self.difference(exactB, b.values)
    let differenceA = Self.difference(exactA, a.values)
    guard differenceA != nil || differenceB != nil else {
      lostSquares = 0
      return
    }
    // b·a - b'·a' = b'·da + db·a with da = a - a': sums of r × r matrices, in which nothing cancels.
    let rounded = Matrix(rows: exactB.rows, columns: exactB.columns, values: b.values)
    var sum = 0.0
    if let differenceA {
      sum += Self.product(
        rounded.times(rounded, transposingSelf: true), differenceA.times(differenceA, transposingOther: true))
    }
    if let differenceB {
      sum += Self.product(
        differenceB.times(differenceB, transposingSelf: true), exactA.times(exactA, transposingOther: true))
    }
    if let differenceA, let differenceB {
      sum +=
        2
        * Self.product(
          rounded.times(differenceB, transposingSelf: true), differenceA.times(exactA, transposingOther: true))
    }
    lostSquares = max(0, sum)
  }

  private static func difference(_ exact: Matrix<Double>, _ rounded: [Double]) -> Matrix<Double>? {
    var difference = exact
    var differs = false
    for index in rounded.indices {
      difference.values[index] -= rounded[index]
      differs = differs || difference.values[index] != 0
    }
    return differs ? difference : nil
  }

  private static func product(_ a: Matrix<Double>, _ b: Matrix<Double>) -> Double {
    zip(a.values, b.values).reduce(0) { $0 + $1.0 * $1.1 }
  }
}

/// Values as a dtype holds them.
struct StoredValues {
  /// The values that the dtype holds.
  let values: [Double]
  let format: FloatFormat

  /// Rounds once to f64 and f32, to the half formats by way of f32.
  init(_ exact: [Double], _ format: FloatFormat) {
    self.format = format
    values = format == .f64 ? exact : Double.decoded(Self.encoded(exact, format), format)
  }

  /// The bytes. Lossless: the values are the dtype's.
  var bytes: [UInt8] { Self.encoded(values, format) }

  var isFinite: Bool { values.allSatisfy(\.isFinite) }

  private static func encoded(_ values: [Double], _ format: FloatFormat) -> [UInt8] {
    if format == .f64 {
      return values.flatMap { value in (0..<8).map { UInt8(truncatingIfNeeded: value.bitPattern >> (8 * $0)) } }
    }
    return bytes(values.map { Float($0) }, format)
  }

  /// The bytes of values in f32, or rounded to another format.
  static func bytes(_ values: [Float], _ format: FloatFormat = .f32) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: values.count * format.byteCount)
    var span = bytes.mutableSpan
    var raw = span.mutableBytes
    encode(values.span, to: format, into: &raw)
    return bytes
  }
}
