internal import COpenBLAS

/// R of the QR decomposition of a tall matrix that is given some rows at a time: Rᵀ·R = MᵀM, without Q.
///
/// Each stretch of rows is stacked below the R of those before it and decomposed, so that what is at work stays in a cache.
/// Precision: f64, as accurate as the decomposition of the whole. Signs are LAPACK's.
/// Source: LAPACK `dgeqrf`; Demmel, Grigori, Hoemmen and Langou, Communication-optimal parallel and sequential QR, 2012.
public struct TriangularFactor: Sendable {
  /// Columns of the tall matrix.
  public let columns: Int
  /// `[columns, columns]`, upper triangular. Not finite if an element was not.
  public private(set) var r: Matrix<Double>

  /// Rows that are decomposed at once.
  private static let stretch = 1024

  /// R of no rows yet: zeros.
  public init(columns: Int) {
    self.columns = columns
    r = Matrix(rows: columns, columns: columns)
  }

  /// R of a tall matrix `[rows, columns]`.
  public init(ofRows tall: Matrix<Double>) {
    self.init(columns: tall.columns)
    for first in stride(from: 0, to: tall.rows, by: Self.stretch) {
      add(tall.rows(first..<min(first + Self.stretch, tall.rows)).transposed)
    }
  }

  /// R of the transpose of a wide matrix `[columns, rows]`.
  public init(ofColumns wide: Matrix<Double>) {
    self.init(columns: wide.rows)
    for first in stride(from: 0, to: wide.columns, by: Self.stretch) {
      add(wide.columns(first..<min(first + Self.stretch, wide.columns)))
    }
  }

  /// Adds rows, which are the columns of `[columns, rows]`. Traps on another height.
  public mutating func add(_ rows: Matrix<Double>) {
    precondition(rows.rows == columns, "rows of another width")
    guard columns > 0, rows.columns > 0 else { return }
    // LAPACK's columns lie one after another: R's column, then the new rows'.
    let height = columns + rows.columns
    var stack: [Double] = []
    stack.reserveCapacity(height * columns)
    for column in 0..<columns {
      for row in 0..<columns { stack.append(r[row, column]) }
      stack += rows.values[column * rows.columns..<(column + 1) * rows.columns]
    }
    var (m, n, info) = (Int32(height), Int32(columns), Int32(0))
    var tau = [Double](repeating: 0, count: columns)
    var size = Int32(64 * columns)
    var work = [Double](repeating: 0, count: Int(size))
    dgeqrf_(&m, &n, &stack, &m, &tau, &work, &size, &info)
    precondition(info == 0, "dgeqrf refused its arguments")
    for column in 0..<columns {
      for row in 0...column { r[row, column] = stack[column * height + row] }
    }
  }
}
