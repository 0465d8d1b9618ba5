internal import CKernels
internal import COpenBLAS

extension WeightMatrix {
  /// x · Wᵀ for W `[out, in]`, or x · W for W `[in, out]` if `transposed`. x is `[tokens, in]`. Traps if the extents do not fit.
  ///
  /// Precision: sums in f32 of unrounded inputs, whatever the machine.
  public func project(_ x: LentMatrix, transposed: Bool = false, in workspace: Workspace) -> LentMatrix {
    let (out, input) = transposed ? (columns, rows) : (rows, columns)
    precondition(x.columns == input, "inputs do not fit")
    let y = workspace.matrix(x.rows, out)
    withExtendedLifetime(x) {
      kernels_project(kernelFormat, start, out, input, transposed ? 1 : 0, 1, x.pointer, x.rows, y.pointer)
    }
    return y
  }
}

extension LentMatrix {
  /// self = scale · op(a) · op(b), or self += that.
  ///
  /// Precision: f32 by BLAS; a piece of the result is summed by one thread in one order, so the bits do not depend on the number of
  /// threads. Traps if the extents do not fit.
  public func setProduct(
    _ a: LentMatrix, transposingFirst: Bool = false, _ b: LentMatrix, transposingSecond: Bool = false, scale: Float = 1,
    adding: Bool = false
  ) {
    let inner = transposingFirst ? a.rows : a.columns
    precondition(rows == (transposingFirst ? a.columns : a.rows), "rows do not fit")
    precondition(columns == (transposingSecond ? b.rows : b.columns), "columns do not fit")
    precondition(inner == (transposingSecond ? b.columns : b.rows), "inner extents differ")
    guard rows > 0, columns > 0 else { return }
    guard inner > 0 else {
      if !adding { clear() }
      return
    }
    nonisolated(unsafe) let (left, right, to) = (a.pointer, b.pointer, pointer)
    let (leadingA, leadingB, rows, columns) = (a.columns, b.columns, rows, columns)
    // Soundness: pieces are disjoint rows, or columns, of the result; extents were checked above.
    @Sendable func piece(_ firstRow: Int, _ rowCount: Int, _ firstColumn: Int, _ columnCount: Int) {
      cblas_sgemm(
        CblasRowMajor, transposingFirst ? CblasTrans : CblasNoTrans, transposingSecond ? CblasTrans : CblasNoTrans,
        blasint(rowCount), blasint(columnCount), blasint(inner), scale,
        left + (transposingFirst ? firstRow : firstRow * leadingA), blasint(leadingA),
        right + (transposingSecond ? firstColumn * leadingB : firstColumn), blasint(leadingB), adding ? 1 : 0,
        to + firstRow * columns + firstColumn, blasint(columns))
    }
    if rows >= columns {
      Parallel.forEachPiece(of: rows, size: Self.pieceExtent) { start, count in piece(start, count, 0, columns) }
    } else {
      Parallel.forEachPiece(of: columns, size: Self.pieceExtent) { start, count in piece(0, rows, start, count) }
    }
  }

  private static let pieceExtent = 128

  /// Adds to each element of `sums` its column's sum. Traps if the extents differ.
  public func addColumnSums(to sums: LentMatrix, scale: Float = 1) {
    precondition(sums.count == columns, "columns do not fit")
    for row in 0..<rows { kernels_add(pointer + row * columns, scale, sums.pointer, columns) }
  }

  /// Adds a vector to each row. Traps if it does not fit.
  public func addToRows(_ vector: [Float]) {
    precondition(vector.count == columns, "the vector does not fit")
    for row in 0..<rows { kernels_add(vector, 1, pointer + row * columns, columns) }
  }

  /// Some of the columns, copied.
  public func columns(_ range: Range<Int>, in workspace: Workspace) -> LentMatrix {
    precondition(range.lowerBound >= 0 && range.upperBound <= columns, "no such columns")
    let result = workspace.matrix(rows, range.count)
    for row in 0..<rows {
      (result.pointer + row * range.count).update(
        from: pointer + row * columns + range.lowerBound, count: range.count)
    }
    return result
  }

  /// Copies another matrix into the columns from `first` on. Traps if it does not fit.
  public func setColumns(from first: Int, _ other: LentMatrix) {
    precondition(other.rows == rows && first >= 0 && first + other.columns <= columns, "no such columns")
    for row in 0..<rows {
      (pointer + row * columns + first).update(from: other.pointer + row * other.columns, count: other.columns)
    }
  }

  /// Rows by their numbers, copied. Traps on a number that is no row.
  public func gathering(_ indices: [Int], in workspace: Workspace) -> LentMatrix {
    precondition(indices.allSatisfy { $0 >= 0 && $0 < rows }, "no such row")
    let result = workspace.matrix(indices.count, columns)
    for (place, index) in indices.enumerated() {
      (result.pointer + place * columns).update(from: pointer + index * columns, count: columns)
    }
    return result
  }

  /// Adds row i of another matrix to row indices[i]. Traps on a number that is no row.
  public func addRows(_ other: LentMatrix, at indices: [Int]) {
    precondition(other.columns == columns && other.rows == indices.count, "extents differ")
    precondition(indices.allSatisfy { $0 >= 0 && $0 < rows }, "no such row")
    for (place, index) in indices.enumerated() {
      kernels_add(other.pointer + place * columns, 1, pointer + index * columns, columns)
    }
  }
}
