internal import COpenBLAS

/// A precision that matrices are computed in.
public protocol MatrixScalar: BinaryFloatingPoint, BitwiseCopyable, Sendable {
  /// C = alpha · op(A) · op(B) + beta · C, row-major, by BLAS. Extents are the caller's to check.
  static func multiply(
    _ a: UnsafePointer<Self>, _ leadingA: Int, transposed transposesA: Bool, _ b: UnsafePointer<Self>, _ leadingB: Int,
    transposed transposesB: Bool, into c: UnsafeMutablePointer<Self>, _ leadingC: Int, rows: Int, columns: Int,
    inner: Int, alpha: Self, beta: Self)

  /// Widens or narrows stored values; see the functions `decode`.
  static func decode(_ source: RawSpan, from format: FloatFormat, into destination: inout MutableSpan<Self>)

  /// c[i] += scale · a[i] · b[i].
  static func addProduct(
    _ a: UnsafePointer<Self>, _ b: UnsafePointer<Self>, scale: Self, to c: UnsafeMutablePointer<Self>, count: Int)

  /// c[i] += scale · a[i].
  static func add(_ a: UnsafePointer<Self>, scale: Self, to c: UnsafeMutablePointer<Self>, count: Int)
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
    TensorMath.decode(source, from: format, into: &destination)
  }

  public static func addProduct(
    _ a: UnsafePointer<Float>, _ b: UnsafePointer<Float>, scale: Float, to c: UnsafeMutablePointer<Float>, count: Int
  ) {
    for index in 0..<count { c[index] += scale * a[index] * b[index] }
  }

  public static func add(_ a: UnsafePointer<Float>, scale: Float, to c: UnsafeMutablePointer<Float>, count: Int) {
    for index in 0..<count { c[index] += scale * a[index] }
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
    TensorMath.decode(source, from: format, into: &destination)
  }

  public static func addProduct(
    _ a: UnsafePointer<Double>, _ b: UnsafePointer<Double>, scale: Double, to c: UnsafeMutablePointer<Double>,
    count: Int
  ) {
    for index in 0..<count { c[index] += scale * a[index] * b[index] }
  }

  public static func add(_ a: UnsafePointer<Double>, scale: Double, to c: UnsafeMutablePointer<Double>, count: Int) {
    for index in 0..<count { c[index] += scale * a[index] }
  }
}

/// A dense matrix, row-major.
public struct Matrix<Scalar: MatrixScalar>: Sendable, Equatable {
  public let rows: Int
  public let columns: Int
  /// All elements, row after row.
  public var values: [Scalar]

  /// Traps if `values` does not hold exactly `rows × columns` elements.
  @inlinable public init(rows: Int, columns: Int, values: [Scalar]) {
    precondition(values.count == rows * columns, "values are not [rows, columns]")
    self.rows = rows
    self.columns = columns
    self.values = values
  }

  /// A matrix of zeros.
  @inlinable public init(rows: Int, columns: Int) {
    self.init(rows: rows, columns: columns, values: [Scalar](repeating: 0, count: rows * columns))
  }

  /// Ones on the diagonal.
  @inlinable public static func identity(_ count: Int) -> Matrix {
    var matrix = Matrix(rows: count, columns: count)
    for index in 0..<count { matrix[index, index] = 1 }
    return matrix
  }

  @inlinable public subscript(_ row: Int, _ column: Int) -> Scalar {
    get { values[row * columns + column] }
    set { values[row * columns + column] = newValue }
  }

  /// Rows and columns exchanged. Cost: one pass, in blocks of 32.
  @inlinable public var transposed: Matrix {
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
  @inlinable public func rows(_ range: Range<Int>) -> Matrix {
    Matrix(
      rows: range.count, columns: columns,
      values: Array(values[range.lowerBound * columns..<range.upperBound * columns]))
  }

  /// Some of the columns.
  @inlinable public func columns(_ range: Range<Int>) -> Matrix {
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

  /// self += scale · a ∘ b, element by element. Traps if the extents differ.
  public mutating func add(elementwise a: Matrix, _ b: Matrix, scale: Scalar) {
    precondition(a.values.count == values.count && b.values.count == values.count, "extents differ")
    let count = values.count
    // Soundness: all three have `count` elements.
    values.withUnsafeMutableBufferPointer { c in
      a.values.withUnsafeBufferPointer { a in
        b.values.withUnsafeBufferPointer { b in
          guard let c = c.baseAddress, let a = a.baseAddress, let b = b.baseAddress else { return }
          Scalar.addProduct(a, b, scale: scale, to: c, count: count)
        }
      }
    }
  }

  /// Multiplies groups of neighbouring columns by a square matrix each: columns k·b to (k+1)·b become columns · op(blocks[k]).
  ///
  /// A single block serves all groups. Traps unless the blocks are square, equal, and fill the columns.
  public mutating func multiplyColumns(byBlocks blocks: [Matrix], transposed transposes: Bool) {
    guard let size = blocks.first?.rows, size > 0, rows > 0 else { return }
    let count = columns / size
    precondition(
      count * size == columns && (blocks.count == 1 || blocks.count == count), "blocks do not fill the columns")
    precondition(blocks.allSatisfy { $0.rows == size && $0.columns == size }, "blocks are not square")
    let (rows, columns) = (rows, columns)
    var product = [Scalar](repeating: 0, count: rows * size)
    // Soundness: each call reads and writes `rows` rows of `size` columns that lie inside, as checked above.
    values.withUnsafeMutableBufferPointer { values in
      product.withUnsafeMutableBufferPointer { product in
        guard let base = values.baseAddress, let to = product.baseAddress else { return }
        for index in 0..<count {
          let from = base + index * size
          blocks[blocks.count == 1 ? 0 : index].values.withUnsafeBufferPointer { block in
            guard let block = block.baseAddress else { return }
            Scalar.multiply(
              from, columns, transposed: false, block, size, transposed: transposes, into: to, size, rows: rows,
              columns: size, inner: size, alpha: 1, beta: 0)
          }
          for row in 0..<rows { (from + row * columns).update(from: to + row * size, count: size) }
        }
      }
    }
  }

  /// self += scale · other. Traps if the extents differ.
  public mutating func add(_ other: Matrix, scale: Scalar) {
    precondition(other.values.count == values.count, "extents differ")
    let count = values.count
    // Soundness: both have `count` elements.
    values.withUnsafeMutableBufferPointer { c in
      other.values.withUnsafeBufferPointer { a in
        guard let c = c.baseAddress, let a = a.baseAddress else { return }
        Scalar.add(a, scale: scale, to: c, count: count)
      }
    }
  }

  /// Multiplies a row by a factor.
  @inlinable public mutating func scaleRow(_ row: Int, by factor: Scalar) {
    values.withUnsafeMutableBufferPointer { values in
      for index in row * columns..<(row + 1) * columns { values[index] *= factor }
    }
  }

  /// Adds multiples of another matrix's row, side by side: the first columns get factors[0] times the row, and so on.
  ///
  /// Traps unless the multiples fill the row.
  public mutating func addRow(_ row: Int, _ other: Matrix, row otherRow: Int, factors: [Scalar]) {
    precondition(factors.count * other.columns == columns, "the multiples do not fill the row")
    let (columns, width) = (columns, other.columns)
    // Soundness: each piece lies inside its row, as checked above.
    values.withUnsafeMutableBufferPointer { values in
      other.values.withUnsafeBufferPointer { source in
        guard let to = values.baseAddress, let from = source.baseAddress else { return }
        for (index, factor) in factors.enumerated() {
          Scalar.add(from + otherRow * width, scale: factor, to: to + row * columns + index * width, count: width)
        }
      }
    }
  }

  /// Column k of the result is column order[k]. Traps on a number that is no column.
  public func selectingColumns(_ order: [Int]) -> Matrix {
    var result = Matrix(rows: rows, columns: order.count)
    for row in 0..<rows {
      for (column, from) in order.enumerated() { result[row, column] = self[row, from] }
    }
    return result
  }
}
