import TensorMath
import Testing

/// Leading singular values and vectors by random vectors, against the decomposition of the whole.
@Suite struct LeadingDecompositionTests {
  /// How singular values fall.
  enum Spectrum: String, CaseIterable, Sendable {
    case flat, slow, inverse, steep, lowWithNoise

    func value(_ index: Int) -> Double {
      switch self {
      case .flat: 1
      case .slow: 1 / pow(Double(index + 1), 0.3)
      case .inverse: 1 / Double(index + 1)
      case .steep: pow(0.7, Double(index))
      case .lowWithNoise: index < 5 ? 4 - Double(index) * 0.5 : 0.3
      }
    }

    private func pow(_ base: Double, _ exponent: Double) -> Double {
      // Without Foundation: by squaring for whole exponents, by roots of two for others.
      if exponent == exponent.rounded() { return (0..<Int(exponent)).reduce(1) { product, _ in product * base } }
      var (result, root, rest) = (1.0, base, exponent)
      for _ in 0..<40 {
        root = root.squareRoot()
        rest *= 2
        if rest >= 1 {
          result *= root
          rest -= 1
        }
      }
      return result
    }
  }

  private func matrix(_ rows: Int, _ columns: Int, _ spectrum: Spectrum, seed: UInt64) throws -> Matrix<Double> {
    var generator = TorchGenerator(seed: seed)
    func basis(_ rows: Int, _ columns: Int) throws -> Matrix<Double> {
      let draws = generator.normal(count: rows * columns, mean: 0, deviation: 1).map { Double($0) }
      return try #require(
        Decompositions.orthonormalColumns(Matrix(rows: rows, columns: columns, values: draws)))
    }
    let extent = min(rows, columns)
    var left = try basis(rows, extent)
    for column in 0..<extent {
      for row in 0..<rows { left[row, column] *= spectrum.value(column) }
    }
    return left.times(try basis(columns, extent), transposingOther: true)
  }

  private func narrowed(_ matrix: Matrix<Double>) -> Matrix<Float> {
    Matrix(rows: matrix.rows, columns: matrix.columns, values: matrix.values.map { Float($0) })
  }

  @Test(arguments: Spectrum.allCases, [(300, 420), (420, 300)])
  func whatTheLeadingDirectionsLeaveIsWithinTheStatedAccuracyOfTheLeast(
    spectrum: Spectrum, shape: (Int, Int)
  ) throws {
    let exact = try matrix(shape.0, shape.1, spectrum, seed: 3)
    let values = try #require(Decompositions.singularValuesOnly(exact))
    let matrix = narrowed(exact)
    for rank in [1, 4, 12] {
      let found = try #require(
        LeadingDecomposition(matrix, squares: matrix.squareSum, first: rank) { values, _ in
          values.count >= rank ? rank : nil
        })
      #expect(found.steps > 1 && found.values.count == rank)
      var left = found.left
      for column in 0..<rank {
        for row in 0..<left.rows { left[row, column] *= found.values[column] }
      }
      var rest = exact
      rest.add(left, times: found.right, scale: -1)
      let error = rest.values.reduce(0) { $0 + $1 * $1 }.squareRoot()
      let least = values.dropFirst(rank).reduce(0) { $0 + $1 * $1 }.squareRoot()
      let norm = values.reduce(0) { $0 + $1 * $1 }.squareRoot()
      #expect(
        error <= (1 + LeadingDecomposition.accuracy) * least + 3e-5 * norm, "\(spectrum) rank \(rank): \(error / least)"
      )
      #expect(error >= least * (1 - 1e-5))
    }
  }

  @Test func moreDirectionsAreSoughtUntilTheRuleIsMet() throws {
    let exact = try matrix(420, 500, .inverse, seed: 5)
    let matrix = narrowed(exact)
    let squares = matrix.squareSum
    let values = try #require(Decompositions.singularValuesOnly(exact))
    func wanted(_ values: [Double]) -> Int? {
      var sum = 0.0
      for (index, value) in values.enumerated() {
        sum += value * value
        if sum >= 0.97 * squares { return index + 1 }
      }
      return nil
    }
    let found = try #require(
      LeadingDecomposition(matrix, squares: squares, first: 4) { values, _ in wanted(values) })
    let expected = try #require(wanted(values))
    #expect(
      found.steps > 0 && abs(found.values.count - expected) <= 1 && expected > 16, "\(found.values.count) \(expected)")
  }

  @Test func aMatrixOfLowRankIsFoundWholeAndAZeroHasNothing() throws {
    let (left, right) = (try matrix(300, 6, .slow, seed: 1), try matrix(6, 400, .slow, seed: 2))
    let matrix = narrowed(left.times(right))
    let found = try #require(
      LeadingDecomposition(matrix, squares: matrix.squareSum, first: 16) { values, isWhole in
        isWhole ? values.count : nil
      })
    #expect(found.values.count { $0 > 1e-6 * found.values[0] } == 6)
    let zero = Matrix<Float>(rows: 300, columns: 200)
    #expect(LeadingDecomposition(zero, squares: 0, first: 4) { _, _ in nil }?.values.isEmpty == true)
    var broken = matrix
    broken.values[7] = .nan
    #expect(LeadingDecomposition(broken, squares: broken.squareSum, first: 4) { _, _ in nil } == nil)
  }

  @Test func theSameMatrixHasTheSameBitsEachTime() throws {
    let matrix = narrowed(try matrix(300, 320, .slow, seed: 9))
    let both = (0..<2).compactMap { _ in
      LeadingDecomposition(matrix, squares: matrix.squareSum, first: 8) { values, _ in values.count >= 8 ? 8 : nil }
    }
    #expect(both.count == 2 && both[0].values == both[1].values && both[0].left == both[1].left)
  }

  @Test(arguments: [FloatFormat.bf16, .f16])
  func theFloorIsTheGreatestSingularValueOfTheRounding(format: FloatFormat) throws {
    let (rows, columns) = (256, 320)
    var generator = TorchGenerator(seed: 4)
    let exact = generator.normal(count: rows * columns, mean: 0, deviation: 0.02)
    var half = [UInt8](repeating: 0, count: rows * columns * 2)
    var span = half.mutableSpan
    var raw = span.mutableBytes
    encode(exact.span, to: format, into: &raw)
    var difference = WeightDifference(rows: rows, columns: columns)
    difference.setRows(from: 0, after: half.span.bytes, format, before: exact.span.bytes, .f32)
    let wide = Matrix<Double>(rows: rows, columns: columns, values: difference.matrix.values.map { Double($0) })
    let greatest = try #require(Decompositions.singularValuesOnly(wide)?.first)
    let floor = difference.roundingFloor(format)
    #expect(abs(greatest / floor - 1) < 0.1, "\(greatest) \(floor)")
    #expect(abs(difference.squares / difference.roundingSquares(format) - 1) < 0.1)
  }

  @Test func rowsThatDoNotDifferHaveNoRounding() {
    let weights = [Float](repeating: 1.5, count: 64)
    var moved = weights
    for index in 8..<16 { moved[index] = 2 }
    var difference = WeightDifference(rows: 8, columns: 8)
    difference.setRows(from: 0, after: moved.span.bytes, .f32, before: weights.span.bytes, .f32)
    #expect(difference.changedRows == 1 && difference.squares == 2 && difference.powerSquares == 32)
    let wide = weights.map { Double($0) + 1e-12 }
    var fine = WeightDifference(rows: 8, columns: 8)
    fine.setRows(from: 0, after: wide.span.bytes, .f64, before: weights.span.bytes, .f32)
    #expect(abs(Double(fine.matrix.values[3]) / 1e-12 - 1) < 1e-3)
  }
}
