extension LentMatrix {
  /// Multiplies each column by its factor. Traps if there are not as many factors as columns.
  public func scaleColumns(by factors: [Float]) {
    precondition(factors.count == columns, "factors do not fit")
    factors.withUnsafeBufferPointer { factors in
      for row in 0..<rows {
        let line = pointer + row * columns
        for column in 0..<columns { line[column] *= factors[column] }
      }
    }
  }

  /// Adds to each element of `sums` its column's sum of products with another matrix. Traps if the extents differ.
  public func addColumnProducts(with other: LentMatrix, to sums: LentMatrix) {
    precondition(other.rows == rows && other.columns == columns && sums.count == columns, "extents differ")
    for row in 0..<rows {
      let (line, second) = (pointer + row * columns, other.pointer + row * columns)
      for column in 0..<columns { sums.pointer[column] += line[column] * second[column] }
    }
  }

  /// self *= other, element by element. Traps if the counts differ.
  public func multiply(_ other: LentMatrix) {
    precondition(other.count == count, "extents differ")
    for index in 0..<count { pointer[index] *= other.pointer[index] }
  }

  /// The elements in an own piece of memory.
  public func copied(in workspace: Workspace) -> LentMatrix {
    let result = workspace.matrix(rows, columns)
    result.copy(self)
    return result
  }
}
