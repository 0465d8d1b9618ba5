internal import COpenBLAS

/// Decompositions in double precision, by LAPACK.
///
/// LAPACK reads column-major: a row-major matrix is its transpose there, which each function accounts for.
public enum Decompositions {
  /// A = U · diag(S) · Vᵀ with singular values in falling order.
  public struct SingularValues: Sendable {
    /// `[rows, k]` with k = min(rows, columns).
    public let u: Matrix<Double>
    public let s: [Double]
    /// `[k, columns]`.
    public let vTransposed: Matrix<Double>
  }

  /// The thin singular value decomposition; nil if LAPACK does not converge or an element is not finite.
  ///
  /// Source: LAPACK `dgesdd`.
  public static func singularValues(_ matrix: Matrix<Double>) -> SingularValues? {
    let k = min(matrix.rows, matrix.columns)
    guard k > 0, matrix.values.allSatisfy(\.isFinite) else { return nil }
    // The column-major view is Aᵀ = V · S · Uᵀ: its left vectors are V, stored by columns, which is Vᵀ by rows.
    var a = matrix.values
    var (m, n, least) = (Int32(matrix.columns), Int32(matrix.rows), Int32(k))
    var s = [Double](repeating: 0, count: k)
    var left = [Double](repeating: 0, count: matrix.columns * k)
    var right = [Double](repeating: 0, count: k * matrix.rows)
    var integers = [Int32](repeating: 0, count: 8 * k)
    var (size, info) = (Int32(-1), Int32(0))
    var work = [0.0]
    dgesdd_("S", &m, &n, &a, &m, &s, &left, &m, &right, &least, &work, &size, &integers, &info, 1)
    guard info == 0 else { return nil }
    size = Int32(work[0])
    work = [Double](repeating: 0, count: Int(size))
    dgesdd_("S", &m, &n, &a, &m, &s, &left, &m, &right, &least, &work, &size, &integers, &info, 1)
    guard info == 0 else { return nil }
    return SingularValues(
      u: Matrix(rows: matrix.rows, columns: k, values: right), s: s,
      vTransposed: Matrix(rows: k, columns: matrix.columns, values: left))
  }

  /// Eigenvectors of a symmetric matrix for the eigenvalues of the given ranks in rising order, as rows.
  ///
  /// Nil if LAPACK does not converge or an element is not finite. Traps unless the matrix is square and the range inside.
  /// Source: LAPACK `dsyevr`.
  public static func eigenvectors(
    ofSymmetric matrix: Matrix<Double>, ranks: Range<Int>
  ) -> (values: [Double], vectors: Matrix<Double>)? {
    precondition(matrix.rows == matrix.columns, "matrix is not square")
    precondition(ranks.lowerBound >= 0 && ranks.upperBound <= matrix.rows, "ranks reach outside")
    guard !ranks.isEmpty else { return ([], Matrix(rows: 0, columns: matrix.columns)) }
    guard matrix.values.allSatisfy(\.isFinite) else { return nil }
    var a = matrix.values
    var (n, il, iu) = (Int32(matrix.rows), Int32(ranks.lowerBound + 1), Int32(ranks.upperBound))
    var (none, found, info) = (0.0, Int32(0), Int32(0))
    var w = [Double](repeating: 0, count: matrix.rows)
    var z = [Double](repeating: 0, count: matrix.rows * ranks.count)
    var support = [Int32](repeating: 0, count: 2 * ranks.count)
    var (size, integerSize) = (Int32(-1), Int32(-1))
    var (work, integers) = ([0.0], [Int32(0)])
    for _ in 0..<2 {
      dsyevr_(
        "V", "I", "U", &n, &a, &n, &none, &none, &il, &iu, &none, &found, &w, &z, &n, &support, &work, &size, &integers,
        &integerSize, &info, 1, 1, 1)
      guard info == 0 else { return nil }
      guard size == -1 else { break }
      (size, integerSize) = (Int32(work[0]), integers[0])
      work = [Double](repeating: 0, count: Int(size))
      integers = [Int32](repeating: 0, count: Int(integerSize))
    }
    guard Int(found) == ranks.count else { return nil }
    // Vectors lie in columns there: rows here.
    return (Array(w.prefix(ranks.count)), Matrix(rows: ranks.count, columns: matrix.rows, values: z))
  }

  /// The singular values alone, in falling order; nil if LAPACK does not converge or an element is not finite.
  ///
  /// Source: LAPACK `dgesdd`.
  public static func singularValuesOnly(_ matrix: Matrix<Double>) -> [Double]? {
    let k = min(matrix.rows, matrix.columns)
    guard k > 0 else { return [] }
    guard matrix.values.allSatisfy(\.isFinite) else { return nil }
    var a = matrix.values
    var (m, n, one) = (Int32(matrix.columns), Int32(matrix.rows), Int32(1))
    var s = [Double](repeating: 0, count: k)
    var (left, right) = ([0.0], [0.0])
    var integers = [Int32](repeating: 0, count: 8 * k)
    var (size, info) = (Int32(-1), Int32(0))
    var work = [0.0]
    dgesdd_("N", &m, &n, &a, &m, &s, &left, &one, &right, &one, &work, &size, &integers, &info, 1)
    guard info == 0 else { return nil }
    size = Int32(work[0])
    work = [Double](repeating: 0, count: Int(size))
    dgesdd_("N", &m, &n, &a, &m, &s, &left, &one, &right, &one, &work, &size, &integers, &info, 1)
    return info == 0 ? s : nil
  }

  /// A = Q · R, thin: Q's columns are orthonormal, R is upper triangular.
  public struct OrthogonalTriangular: Sendable {
    /// `[rows, k]` with k = min(rows, columns).
    public let q: Matrix<Double>
    /// `[k, columns]`.
    public let r: Matrix<Double>
  }

  /// The thin QR decomposition; nil if an element is not finite. Signs are LAPACK's: R's diagonal may be negative.
  public static func orthogonalTriangular(_ matrix: Matrix<Double>) -> OrthogonalTriangular? {
    triangle(matrix, withBasis: true).map { OrthogonalTriangular(q: $0.basis.transposed, r: $0.triangle) }
  }

  /// An orthonormal basis of a matrix's columns `[rows, columns]`, as its QR decomposition has it. Traps if it has more columns than rows.
  ///
  /// Source: LAPACK `dgeqrf`, `dorgqr`.
  public static func orthonormalColumns(_ matrix: Matrix<Double>) -> Matrix<Double>? {
    precondition(matrix.columns <= matrix.rows, "more columns than rows")
    return triangle(matrix, withBasis: true)?.basis.transposed
  }

  /// X = Q · R for X = matrix, or for its transpose: the rows of `basis` `[k, rows of X]` are Q's columns, `triangle` is R
  /// `[k, columns of X]`, k the lesser extent of X.
  ///
  /// Nil if an element is not finite. The transpose costs no copy, the matrix itself does.
  /// - Parameter withBasis: false to leave `basis` empty.
  /// Source: LAPACK `dgeqrf`, `dorgqr`.
  public static func triangle(
    _ matrix: Matrix<Double>, transposed: Bool = false, withBasis: Bool = false
  ) -> (basis: Matrix<Double>, triangle: Matrix<Double>)? {
    let (rows, columns) = transposed ? (matrix.columns, matrix.rows) : (matrix.rows, matrix.columns)
    let k = min(rows, columns)
    let none = Matrix<Double>(rows: 0, columns: rows)
    guard k > 0 else { return (none, Matrix(rows: 0, columns: columns)) }
    guard matrix.values.allSatisfy(\.isFinite) else { return nil }
    var a = transposed ? matrix.values : matrix.transposed.values
    var (m, n, least) = (Int32(rows), Int32(columns), Int32(k))
    var tau = [Double](repeating: 0, count: k)
    var info = Int32(0)
    var size = Int32(max(1, 64 * min(columns, 1 << 20)))
    var work = [Double](repeating: 0, count: Int(size))
    dgeqrf_(&m, &n, &a, &m, &tau, &work, &size, &info)
    guard info == 0 else { return nil }
    var r = Matrix<Double>(rows: k, columns: columns)
    for column in 0..<columns {
      for row in 0...min(column, k - 1) { r[row, column] = a[column * rows + row] }
    }
    guard withBasis else { return (none, r) }
    dorgqr_(&m, &least, &least, &a, &m, &tau, &work, &size, &info)
    guard info == 0 else { return nil }
    return (Matrix(rows: k, columns: rows, values: Array(a.prefix(k * rows))), r)
  }

  /// X with matrix · X = right; nil if the matrix is singular. Traps unless it is square and as high as `right`.
  ///
  /// Source: LAPACK `dgesv`.
  public static func solve(_ matrix: Matrix<Double>, _ right: Matrix<Double>) -> Matrix<Double>? {
    precondition(matrix.rows == matrix.columns && matrix.rows == right.rows, "extents do not fit")
    guard matrix.rows > 0, right.columns > 0 else { return right }
    var a = matrix.transposed.values
    var b = right.transposed.values
    var (n, count, info) = (Int32(matrix.rows), Int32(right.columns), Int32(0))
    var pivots = [Int32](repeating: 0, count: matrix.rows)
    dgesv_(&n, &count, &a, &n, &pivots, &b, &n, &info)
    guard info == 0 else { return nil }
    return Matrix(rows: right.columns, columns: right.rows, values: b).transposed
  }
}
