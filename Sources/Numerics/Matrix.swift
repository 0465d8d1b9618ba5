internal import COpenBLAS

/// A precision that matrices are computed in.
public protocol MatrixScalar: BinaryFloatingPoint, Sendable {
  /// C = alpha · op(A) · op(B) + beta · C, row-major, by BLAS. Extents are the caller's to check.
  static func multiply(
    _ a: UnsafePointer<Self>, _ leadingA: Int, transposed transposesA: Bool, _ b: UnsafePointer<Self>, _ leadingB: Int,
    transposed transposesB: Bool, into c: UnsafeMutablePointer<Self>, _ leadingC: Int, rows: Int, columns: Int,
    inner: Int, alpha: Self, beta: Self)

  /// Widens or narrows stored values; see the functions `decode`.
  static func decode(_ source: RawSpan, from format: FloatFormat, into destination: inout MutableSpan<Self>)
}

extension Float: MatrixScalar {
  public static func multiply(
    _ a: UnsafePointer<Float>, _ leadingA: Int, transposed transposesA: Bool, _ b: UnsafePointer<Float>,
    _ leadingB: Int, transposed transposesB: Bool, into c: UnsafeMutablePointer<Float>, _ leadingC: Int, rows: Int,
    columns: Int, inner: Int, alpha: Float, beta: Float
  ) {
    cblas_sgemm(
      CblasRowMajor, transposesA ? CblasTrans : CblasNoTrans, transposesB ? CblasTrans : CblasNoTrans, blasint(rows),
      blasint(columns), blasint(inner), alpha, a, blasint(leadingA), b, blasint(leadingB), beta, c, blasint(leadingC))
  }

  public static func decode(_ source: RawSpan, from format: FloatFormat, into destination: inout MutableSpan<Float>) {
    Numerics.decode(source, from: format, into: &destination)
  }
}

extension Double: MatrixScalar {
  public static func multiply(
    _ a: UnsafePointer<Double>, _ leadingA: Int, transposed transposesA: Bool, _ b: UnsafePointer<Double>,
    _ leadingB: Int, transposed transposesB: Bool, into c: UnsafeMutablePointer<Double>, _ leadingC: Int, rows: Int,
    columns: Int, inner: Int, alpha: Double, beta: Double
  ) {
    cblas_dgemm(
      CblasRowMajor, transposesA ? CblasTrans : CblasNoTrans, transposesB ? CblasTrans : CblasNoTrans, blasint(rows),
      blasint(columns), blasint(inner), alpha, a, blasint(leadingA), b, blasint(leadingB), beta, c, blasint(leadingC))
  }

  public static func decode(_ source: RawSpan, from format: FloatFormat, into destination: inout MutableSpan<Double>) {
    Numerics.decode(source, from: format, into: &destination)
  }
}

/// A dense matrix, row-major.
public struct Matrix<Scalar: MatrixScalar>: Sendable, Equatable {
  public let rows: Int
  public let columns: Int
  /// All elements, row after row.
  public var values: [Scalar]

  /// Traps if `values` does not hold exactly `rows × columns` elements.
  public init(rows: Int, columns: Int, values: [Scalar]) {
    precondition(values.count == rows * columns, "values are not [rows, columns]")
    self.rows = rows
    self.columns = columns
    self.values = values
  }

  /// A matrix of zeros.
  public init(rows: Int, columns: Int) {
    self.init(rows: rows, columns: columns, values: [Scalar](repeating: 0, count: rows * columns))
  }

  /// Ones on the diagonal.
  public static func identity(_ count: Int) -> Matrix {
    var matrix = Matrix(rows: count, columns: count)
    for index in 0..<count { matrix[index, index] = 1 }
    return matrix
  }

  public subscript(_ row: Int, _ column: Int) -> Scalar {
    get { values[row * columns + column] }
    set { values[row * columns + column] = newValue }
  }

  /// Rows and columns exchanged. Cost: one pass, in blocks of 32.
  public var transposed: Matrix {
    var result = Matrix(rows: columns, columns: rows)
    let block = 32
    values.withUnsafeBufferPointer { from in
      result.values.withUnsafeMutableBufferPointer { to in
        for firstRow in stride(from: 0, to: rows, by: block) {
          for firstColumn in stride(from: 0, to: columns, by: block) {
            for row in firstRow..<min(firstRow + block, rows) {
              for column in firstColumn..<min(firstColumn + block, columns) {
                to[column * rows + row] = from[row * columns + column]
              }
            }
          }
        }
      }
    }
    return result
  }

  /// Some of the rows.
  public func rows(_ range: Range<Int>) -> Matrix {
    Matrix(
      rows: range.count, columns: columns,
      values: Array(values[range.lowerBound * columns..<range.upperBound * columns]))
  }

  /// Some of the columns.
  public func columns(_ range: Range<Int>) -> Matrix {
    var result: [Scalar] = []
    result.reserveCapacity(rows * range.count)
    for row in 0..<rows { result += values[row * columns + range.lowerBound..<row * columns + range.upperBound] }
    return Matrix(rows: rows, columns: range.count, values: result)
  }

  /// op(self) · op(other). Traps if the inner extents differ. Precision: the scalar's own, BLAS's order of sums.
  public func times(
    _ other: Matrix, transposingSelf: Bool = false, transposingOther: Bool = false
  ) -> Matrix {
    var result = Matrix(
      rows: transposingSelf ? columns : rows, columns: transposingOther ? other.rows : other.columns)
    result.add(self, times: other, transposingFirst: transposingSelf, transposingSecond: transposingOther)
    return result
  }

  /// self += scale · op(a) · op(b). Traps on extents that do not fit.
  public mutating func add(
    _ a: Matrix, times b: Matrix, transposingFirst: Bool = false, transposingSecond: Bool = false, scale: Scalar = 1
  ) {
    let inner = transposingFirst ? a.rows : a.columns
    precondition(rows == (transposingFirst ? a.columns : a.rows), "rows do not fit")
    precondition(columns == (transposingSecond ? b.rows : b.columns), "columns do not fit")
    precondition(inner == (transposingSecond ? b.columns : b.rows), "inner extents differ")
    guard rows > 0, columns > 0, inner > 0 else { return }
    let (rows, columns) = (rows, columns)
    // Soundness: the extents were checked above.
    values.withUnsafeMutableBufferPointer { c in
      a.values.withUnsafeBufferPointer { left in
        b.values.withUnsafeBufferPointer { right in
          guard let c = c.baseAddress, let left = left.baseAddress, let right = right.baseAddress else { return }
          Scalar.multiply(
            left, a.columns, transposed: transposingFirst, right, b.columns, transposed: transposingSecond, into: c,
            columns, rows: rows, columns: columns, inner: inner, alpha: scale, beta: 1)
        }
      }
    }
  }
}
