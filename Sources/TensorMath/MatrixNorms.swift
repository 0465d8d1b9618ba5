internal import CKernels

/// A dense row-major f32 matrix's rows or columns.
public enum MatrixAxis: Sendable, Hashable {
  case rows
  case columns
}

/// Adds the square sum of each row or column of a block to `sums`.
///
/// Shape: block `[sums.count or fewer rows, columns]`; for `.rows`, `sums` has one value a row of the block and is
/// overwritten; for `.columns`, one value a column, added to. Precision: f64 sums, the same bits on every processor.
/// Traps on lengths that do not fit.
public func addSquareSums(_ block: Span<Float>, columns: Int, along axis: MatrixAxis, to sums: inout [Double]) {
  let rows = columns == 0 ? 0 : block.count / columns
  precondition(rows * columns == block.count, "block is not whole rows")
  precondition(sums.count == (axis == .rows ? rows : columns), "sums do not fit the block")
  // Soundness: the extents were checked above.
  block.withUnsafeBufferPointer { values in
    guard let base = values.baseAddress else { return }
    switch axis {
    case .rows: kernels_row_square_sums(base, rows, columns, &sums)
    case .columns: kernels_add_column_square_sums(base, rows, columns, &sums)
    }
  }
}

/// Multiplies each row or column of a block by its factor. Traps on lengths that do not fit.
public func scale(_ block: inout MutableSpan<Float>, columns: Int, along axis: MatrixAxis, by factors: [Float]) {
  let rows = columns == 0 ? 0 : block.count / columns
  precondition(rows * columns == block.count, "block is not whole rows")
  precondition(factors.count == (axis == .rows ? rows : columns), "factors do not fit the block")
  // Soundness: the extents were checked above.
  block.withUnsafeMutableBufferPointer { values in
    guard let base = values.baseAddress else { return }
    switch axis {
    case .rows: kernels_scale_rows(base, rows, columns, factors)
    case .columns: kernels_scale_columns(base, rows, columns, factors)
    }
  }
}
