internal import TensorMath

/// ΔW of one module, held in the least room: by its factors where it is a product.
struct ModuleDelta: Sendable {
  /// A part of ΔW.
  enum Block: Sendable {
    /// left · right, `[rows, r] x [r, columns] -> [rows, columns]`.
    case product(left: Matrix<Double>, right: Matrix<Double>)
    case dense(Matrix<Double>)
  }

  /// Blocks of one diagonal: one of a plain module, one for each expert.
  var blocks: [Block]

  /// Elements of a ΔW that is held without factors.
  static let greatestDense = 1 << 26
  /// The lesser extent of a matrix that is decomposed: beyond it the values take minutes a module.
  static let greatestExtent = 1024

  /// Elements of ΔW: no whole number, because small factors can stand for more than one holds.
  var elementCount: Double { blocks.reduce(0) { $0 + Double($1.rows) * Double($1.columns) } }

  /// ‖ΔW‖² and the singular values in falling order; nil if something in it is not finite.
  ///
  /// A product is not formed: with left = Q·R and rightᵀ = P·S, its values are those of the small matrix R·Sᵀ. No values where a
  /// matrix's lesser extent is over `greatestExtent`.
  /// Precision: f64.
  func spectrum() -> (squares: Double, values: [Double]?)? {
    var (squares, values): (Double, [Double]?) = (0, [])
    for block in blocks {
      guard let core = block.core else { return nil }
      squares += core.values.reduce(0) { $0 + $1 * $1 }
      guard min(core.rows, core.columns) <= Self.greatestExtent else {
        values = nil
        continue
      }
      guard let found = Decompositions.singularValuesOnly(core) else { return nil }
      values? += found
    }
    guard squares.isFinite else { return nil }
    return (squares, values?.sorted(by: >))
  }

  /// ‖ΔW‖; nil if something in it is not finite.
  var norm: Double? {
    var squares = 0.0
    for block in blocks {
      guard let core = block.core else { return nil }
      squares += core.values.reduce(0) { $0 + $1 * $1 }
    }
    return squares.isFinite ? squares.squareRoot() : nil
  }
}

extension ModuleDelta.Block {
  var rows: Int {
    switch self {
    case .product(let left, _): left.rows
    case .dense(let matrix): matrix.rows
    }
  }

  var columns: Int {
    switch self {
    case .product(_, let right): right.columns
    case .dense(let matrix): matrix.columns
    }
  }

  /// A matrix with the block's singular values, no greater than its factors; nil if an element is not finite.
  fileprivate var core: Matrix<Double>? {
    switch self {
    case .product(let left, let right):
      guard let outer = Decompositions.triangle(left), let inner = Decompositions.triangle(right, transposed: true)
      else {
        return nil
      }
      return outer.triangle.times(inner.triangle, transposingOther: true)
    case .dense(let matrix): return matrix.values.allSatisfy(\.isFinite) ? matrix : nil
    }
  }

  /// All elements. Nil where there are more than `greatestDense`.
  var dense: Matrix<Double>? {
    switch self {
    case .product(let left, let right):
      Double(left.rows) * Double(right.columns) <= Double(ModuleDelta.greatestDense) ? left.times(right) : nil
    case .dense(let matrix): matrix
    }
  }

  /// The directions that ΔW writes to and reads from.
  struct Directions {
    /// An orthonormal basis of the columns' space, a row each.
    let columns: Matrix<Double>
    /// An orthonormal basis of the rows' space, a row each.
    let rows: Matrix<Double>
    var count: Int { columns.rows }
  }

  /// The directions of all singular values but those that rounding makes of zero: none below the largest times 2⁻⁵² times the
  /// greater extent. Nil if an element is not finite, or the lesser extent is over `greatestExtent`.
  func directions() -> Directions? {
    var matrix: Matrix<Double>
    var bases: (outer: Matrix<Double>, inner: Matrix<Double>)?
    switch self {
    case .product(let left, let right):
      guard let outer = Decompositions.triangle(left, withBasis: true),
        let inner = Decompositions.triangle(right, transposed: true, withBasis: true)
      else { return nil }
      matrix = outer.triangle.times(inner.triangle, transposingOther: true)
      bases = (outer.basis, inner.basis)
    case .dense(let dense): matrix = dense
    }
    guard min(matrix.rows, matrix.columns) <= ModuleDelta.greatestExtent else { return nil }
    guard min(matrix.rows, matrix.columns) > 0 else {
      return Directions(columns: Matrix(rows: 0, columns: rows), rows: Matrix(rows: 0, columns: columns))
    }
    guard let found = Decompositions.singularValues(matrix) else { return nil }
    let least = (found.s.first ?? 0) * Double(max(rows, columns)) * 0x1p-52
    let count = found.s.prefix { $0 > least }.count
    let outer = found.u.columns(0..<count).transposed
    let inner = found.vTransposed.rows(0..<count)
    guard let bases else { return Directions(columns: outer, rows: inner) }
    return Directions(columns: outer.times(bases.outer), rows: inner.times(bases.inner))
  }
}
