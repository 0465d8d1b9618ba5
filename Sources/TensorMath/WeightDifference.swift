internal import CKernels

/// The difference of two stored weights as a matrix, taken in a few rows at a time.
///
/// Precision: f32 of the widened values, exact for half formats whose exponents differ by less than 17; weights in f64 are subtracted
/// in f64 and rounded once. Sums of squares are in f64.
public struct WeightDifference: Sendable {
  /// The second weight minus the first.
  public private(set) var matrix: Matrix<Float>
  /// ‖difference‖².
  public private(set) var squares = 0.0
  /// Rows that differ.
  public private(set) var changedRows = 0
  /// The squares of the powers of two at or below the second weight's magnitudes, summed over the rows that differ.
  public private(set) var powerSquares = 0.0
  private var scratch: [Float] = []
  private var sums: [Double] = []
  private var powerSums: [Double] = []

  /// No difference yet.
  public init(rows: Int, columns: Int) { matrix = Matrix(rows: rows, columns: columns) }

  /// No difference of other weights yet, in the memory of the last ones.
  public mutating func reset(rows: Int, columns: Int) {
    var values = matrix.values
    matrix = Matrix(rows: 0, columns: 0)
    values.removeAll(keepingCapacity: true)
    values.append(contentsOf: repeatElement(0, count: rows * columns))
    matrix = Matrix(rows: rows, columns: columns, values: values)
    (squares, changedRows, powerSquares) = (0, 0, 0)
  }

  /// Takes in rows of both weights. Traps if they do not fit, or the two hold different numbers of elements.
  public mutating func setRows(
    from first: Int, after: RawSpan, _ afterFormat: FloatFormat, before: RawSpan, _ beforeFormat: FloatFormat
  ) {
    let count = after.byteCount / afterFormat.byteCount
    let columns = matrix.columns
    guard count > 0 else { return }
    let rows = count / columns
    precondition(
      rows * columns == count && first >= 0 && first + rows <= matrix.rows
        && after.byteCount == count * afterFormat.byteCount && before.byteCount == count * beforeFormat.byteCount,
      "rows do not fit")
    sums = [Double](repeating: 0, count: rows)
    powerSums = sums
    if scratch.count < count { scratch = [Float](repeating: 0, count: count) }
    let isWide = afterFormat == .f64 || beforeFormat == .f64
    // Soundness: the extents were checked above; both spans hold `count` elements.
    matrix.values.withUnsafeMutableBufferPointer { values in
      guard let all = values.baseAddress else { return }
      let to = all + first * columns
      after.withUnsafeBytes { new in
        before.withUnsafeBytes { old in
          guard let new = new.baseAddress, let old = old.baseAddress else { return }
          decode(new, from: afterFormat, into: to, count)
          // The exponent alone is the power of two.
          for index in 0..<count { scratch[index] = Float(bitPattern: to[index].bitPattern & 0x7F80_0000) }
          kernels_row_square_sums(scratch, rows, columns, &powerSums)
          if isWide {
            for index in 0..<count {
              to[index] = Float(Self.value(new, afterFormat, index) - Self.value(old, beforeFormat, index))
            }
          } else {
            decode(old, from: beforeFormat, into: &scratch, count)
            kernels_add(scratch, -1, to, count)
          }
        }
      }
      kernels_row_square_sums(to, rows, columns, &sums)
    }
    for row in 0..<rows where sums[row] != 0 {
      squares += sums[row]
      changedRows += 1
      powerSquares += powerSums[row]
    }
  }

  private static func value(_ from: UnsafeRawPointer, _ format: FloatFormat, _ index: Int) -> Double {
    if format == .f64 { return from.load(fromByteOffset: index * 8, as: Double.self) }
    var value: Float = 0
    decode(from + index * format.byteCount, from: format, into: &value, 1)
    return Double(value)
  }

  /// Takes a product off the difference, and gives ‖what is left‖². Traps if the factors do not fit.
  ///
  /// Cost: one pass. Precision: f32, the sum in f64.
  public mutating func subtract(_ left: Matrix<Float>, times right: Matrix<Float>) -> Double {
    matrix.add(left, times: right, scale: -1)
    squares = matrix.squareSum
    return squares
  }

  /// The sum of the squares of what rounding to the second weight's format alone can have done to the rows that differ.
  ///
  /// - Parameter format: of the second weight.
  public func roundingSquares(_ format: FloatFormat) -> Double {
    format.roundingSquares(ofPowers: powerSquares, count: changedRows * matrix.columns)
  }

  /// The greatest singular value that such a rounding has: that of as many independent errors of one size, σ·(√rows + √columns).
  ///
  /// Source: the limit of the greatest singular value of a random matrix; Bai and Yin, 1988.
  public func roundingFloor(_ format: FloatFormat) -> Double {
    guard changedRows > 0, matrix.columns > 0 else { return 0 }
    let deviation = (roundingSquares(format) / Double(changedRows * matrix.columns)).squareRoot()
    return deviation * (Double(changedRows).squareRoot() + Double(matrix.columns).squareRoot())
  }
}

extension FloatFormat {
  /// The expected sum of squares of the errors of rounding `count` values to this format; zero for f64, whose errors are far below
  /// what a difference in f32 tells.
  ///
  /// An error is even between ±½ unit in the last place, so that its square is u²/12 on average.
  /// - Parameter powers: the squares of the powers of two at or below the values, summed.
  func roundingSquares(ofPowers powers: Double, count: Int) -> Double {
    switch self {
    case .bf16: powers * 0x1p-14 / 12
    // Below 2⁻¹⁴ the last place has one size.
    case .f16: (powers * 0x1p-20 + Double(count) * 0x1p-48) / 12
    case .f32: powers * 0x1p-46 / 12
    case .f64: 0
    }
  }
}

extension Matrix<Float> {
  /// The sum of the squares, in f64.
  public var squareSum: Double {
    // Soundness: the buffer holds `count` elements.
    values.withUnsafeBufferPointer { values in
      values.baseAddress.map { kernels_square_sum($0, values.count) } ?? 0
    }
  }
}
