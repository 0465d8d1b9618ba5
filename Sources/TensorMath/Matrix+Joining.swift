extension Matrix {
  /// Matrices of `rows` rows next to each other. Traps on another height.
  public static func sideBySide(_ parts: [Matrix], rows: Int) -> Matrix {
    precondition(parts.allSatisfy { $0.rows == rows }, "rows do not fit")
    if parts.count == 1 { return parts[0] }
    let width = parts.reduce(0) { $0 + $1.columns }
    var values: [Scalar] = []
    values.reserveCapacity(rows * width)
    for row in 0..<rows {
      for part in parts { values += part.values[row * part.columns..<(row + 1) * part.columns] }
    }
    return Matrix(rows: rows, columns: width, values: values)
  }

  /// Matrices of `columns` columns below each other. Traps on another width.
  public static func stacked(_ parts: [Matrix], columns: Int) -> Matrix {
    precondition(parts.allSatisfy { $0.columns == columns }, "columns do not fit")
    if parts.count == 1 { return parts[0] }
    return Matrix(rows: parts.reduce(0) { $0 + $1.rows }, columns: columns, values: parts.flatMap(\.values))
  }
}
