/// The leading singular values and vectors of a matrix, found by a subspace that random vectors begin.
///
/// Each step multiplies an orthonormal basis by the matrix or by its transpose; the product's Gram matrix, in f64, gives its singular
/// values and the next basis. What the basis holds of the matrix grows with each step, faster by far in the leading directions. Steps
/// end when the wanted directions can gain no more than the accuracy allows, as far as the last gains tell. A small matrix, and one of
/// which most directions are wanted, is decomposed whole.
/// The draws are signs from a fixed seed: the same matrix gives the same result.
/// Precision: products in f32, all else in f64; values below 3e-7 of the greatest are not found.
/// Cost: 2·rows·columns·(k + max(16, k/2)) operations a step, three to eight steps. Memory: some multiples of (rows + columns)·k.
/// Source: Halko, Martinsson and Tropp, Finding structure with randomness, 2011, algorithms 4.4 and 5.1.
public struct LeadingDecomposition: Sendable {
  /// In falling order.
  public private(set) var values: [Double] = []
  /// `[rows, k]`: the left vectors as columns.
  public private(set) var left: Matrix<Double>
  /// `[k, columns]`: the right vectors as rows.
  public private(set) var right: Matrix<Double>
  /// Multiplications by the matrix; zero where it was decomposed whole.
  public private(set) var steps = 0

  /// The root of the sum of squares that the wanted directions leave is at most this share greater than it must be.
  public static let accuracy = 0.005

  /// - Parameters:
  ///   - squares: the sum of the matrix's squares.
  ///   - first: how many values to look at first.
  ///   - keeping: how many of the values found are wanted; nil if more must be seen. It is told whether all are there.
  /// Nil if an element is not finite.
  public init?(
    _ matrix: Matrix<Float>, squares: Double, first: Int, keeping: (_ values: [Double], _ isWhole: Bool) -> Int?
  ) {
    (left, right) = (Matrix(rows: matrix.rows, columns: 0), Matrix(rows: 0, columns: matrix.columns))
    guard squares.isFinite else { return nil }
    let extent = min(matrix.rows, matrix.columns)
    guard squares > 0, extent > 0 else { return }
    var count = max(1, first)
    var search = SubspaceSearch(matrix, squares: squares)
    while 4 * Self.width(count) < extent {
      search.widen(to: Self.width(count))
      guard search.run(count: count, accuracy: Self.accuracy) else { return nil }
      let isWhole = search.isWhole
      let found = isWhole ? search.values : Array(search.values.prefix(count))
      if let kept = keeping(found, isWhole) ?? (isWhole ? found.count : nil) {
        (values, steps) = (Array(found.prefix(kept)), search.steps)
        (left, right) = search.vectors(values.count)
        return
      }
      count *= 2
    }
    let wide = Matrix<Double>(rows: matrix.rows, columns: matrix.columns, values: matrix.values.map { Double($0) })
    guard let found = Decompositions.singularValues(wide) else { return nil }
    let floor = found.s[0] * 0x1p-52 * Double(max(matrix.rows, matrix.columns))
    let all = Array(found.s.prefix { $0 > floor })
    values = Array(all.prefix(keeping(all, true) ?? all.count))
    (left, right) = (found.u.columns(0..<values.count), found.vTransposed.rows(0..<values.count))
  }

  /// Vectors in the basis: some more than are wanted.
  private static func width(_ count: Int) -> Int { count + max(16, count / 2) }
}

/// A subspace on the way to the leading directions of a matrix.
private struct SubspaceSearch {
  private let matrix: Matrix<Float>
  private let squares: Double
  /// Vectors of the matrix's columns, or of its rows.
  private var basis: Matrix<Float>
  private var isRight = true
  private var isOrthonormal = false
  /// The last basis that was multiplied, its product, and how the product's columns are turned into singular vectors.
  private var multiplied: Matrix<Float>
  private var product: Matrix<Double>
  private var turns: Matrix<Double>
  /// Of what the last basis holds of the matrix, in falling order.
  private(set) var values: [Double] = []
  /// True if the basis holds all of the matrix.
  private(set) var isWhole = false
  private(set) var steps = 0
  private var generator = TorchGenerator(seed: 0x5EED)

  /// Steps after which nothing more is to be expected of another.
  private static let mostSteps = 24
  /// Squares of singular values below this share of the greatest are rounding's.
  private static let zero = 1e-13
  /// The share of all squares below which a gain is the rounding of the products.
  private static let noise = 1e-9

  init(_ matrix: Matrix<Float>, squares: Double) {
    self.matrix = matrix
    self.squares = squares
    basis = Matrix(rows: matrix.columns, columns: 0)
    multiplied = basis
    product = Matrix(rows: matrix.rows, columns: 0)
    turns = Matrix(rows: 0, columns: 0)
  }

  /// Adds random vectors to the basis.
  mutating func widen(to count: Int) {
    let rows = basis.rows
    var draws = Matrix<Float>(rows: rows, columns: max(0, count - basis.columns))
    var (bits, left) = (UInt32(0), 0)
    for index in draws.values.indices {
      if left == 0 { (bits, left) = (generator.nextBits(), 32) }
      draws.values[index] = bits & 1 == 0 ? 1 : -1
      bits >>= 1
      left -= 1
    }
    basis = Matrix.sideBySide([basis, draws], rows: rows)
    isOrthonormal = false
  }

  /// Steps until the first `count` values are as accurate as is asked. False if an element is not finite.
  mutating func run(count: Int, accuracy: Double) -> Bool {
    var (held, lastGain): (Double?, Double?) = (nil, nil)
    for _ in 0..<Self.mostSteps {
      let counts = isOrthonormal
      guard self.step() else { return false }
      guard counts else { continue }
      let now = values.prefix(count).reduce(0) { $0 + $1 * $1 }
      if squares - values.reduce(0, { $0 + $1 * $1 }) <= Self.noise * squares { isWhole = true }
      if let held {
        let gain = now - held
        // What is still to come if each gain is the same part of the one before it.
        let ratio = lastGain.map { $0 > 0 ? min(0.9, max(0, gain / $0)) : 0 } ?? 0.5
        let coming = gain * ratio / (1 - ratio)
        if coming <= 2 * accuracy * max(0, squares - now) || gain <= Self.noise * squares { return true }
        lastGain = gain
      }
      held = now
    }
    return true
  }

  /// One multiplication. False if the product is not finite.
  private mutating func step() -> Bool {
    let made = matrix.times(basis, transposingSelf: !isRight)
    steps += 1
    product = Matrix<Double>(rows: made.rows, columns: made.columns, values: made.values.map { Double($0) })
    let gram = product.times(product, transposingSelf: true)
    let width = gram.rows
    guard let found = Decompositions.eigenvectors(ofSymmetric: gram, ranks: 0..<width) else { return false }
    let kept = found.values.count { $0 > Self.zero * (found.values.last ?? 0) && $0 > 0 }
    // Vectors that were not needed: the others hold all of the matrix.
    if kept < width { isWhole = true }
    values = (0..<kept).map { found.values[width - 1 - $0].squareRoot() }
    turns = Matrix(rows: width, columns: kept)
    for column in 0..<kept {
      for row in 0..<width { turns[row, column] = found.vectors[width - 1 - column, row] }
    }
    var scaled = turns
    for row in 0..<width {
      for column in 0..<kept { scaled[row, column] /= values[column] }
    }
    let next = product.times(scaled)
    multiplied = basis
    basis = Matrix(rows: next.rows, columns: kept, values: next.values.map { Float($0) })
    isRight.toggle()
    isOrthonormal = true
    return true
  }

  /// The first `count` vectors of the last step, left as columns and right as rows.
  func vectors(_ count: Int) -> (left: Matrix<Double>, right: Matrix<Double>) {
    var scaled = turns.columns(0..<count)
    let plain = scaled
    for row in 0..<scaled.rows {
      for column in 0..<count { scaled[row, column] /= values[column] }
    }
    let wide = Matrix<Double>(
      rows: multiplied.rows, columns: multiplied.columns, values: multiplied.values.map { Double($0) })
    let (across, along) = (product.times(scaled), wide.times(plain))
    // After the step the next basis is on the other side: of a right basis the product has the left vectors.
    return isRight ? (along, across.transposed) : (across, along.transposed)
  }
}
