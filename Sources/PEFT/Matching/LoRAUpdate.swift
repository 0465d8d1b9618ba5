internal import TensorFiles

/// ΔW = Σ left · right for a matrix `[rows, columns]`: a whole weight, or some of a weight's rows.
struct LoRAUpdate: Sendable {
  /// One of the products that ΔW is the sum of: one an adapter.
  struct Term: Sendable {
    /// `[rows, rank]`: B, or Aᵀ where W is stored `[in, out]`.
    let left: FactorView
    /// `[rank, columns]`: A, or Bᵀ where W is stored `[in, out]`.
    let right: FactorView
    let scale: Double
    /// Whose the product is.
    var owner = ModuleOwner()
    /// One factor a rank, between left and right: KaSA's singular values.
    var diagonal: FactorView?
  }

  var terms: [Term]
  /// Where the rows begin in the stored weight, seen as a matrix of `columns`.
  var firstRow = 0
  let rows: Int
  let columns: Int
  /// True if W is stored `[in, out]`, so that ΔWᵀ is added.
  let isTransposed: Bool
  /// DoRA's magnitudes, one an output feature: W' = (m / ‖W + ΔW‖) · (W + ΔW), the norm over each output feature's inputs.
  /// Only for a single term.
  var magnitude: FactorView?
  /// What the adapter's initialisation took out of the base weight, if it did.
  var removal: BaseRemoval?

  /// The inner dimension of all terms side by side, with what is removed.
  var rank: Int { terms.reduce(0) { $0 + $1.rank } + (removal?.rank ?? 0) }

  /// True for W + s·B·A without more.
  var isPlain: Bool { magnitude == nil && removal == nil }

  /// True if rows of the result depend on other rows of the weight.
  var needsWholeWeight: Bool { removal != nil || (magnitude != nil && isTransposed) }
}

extension LoRAUpdate.Term {
  /// The inner dimension.
  var rank: Int { right.rows }
}

/// A matrix within a tensor of an adapter: all of it, its transpose, or every n-th of its columns.
struct FactorView: Sendable {
  let file: OpenFile
  let entry: TensorEntry
  let rows: Int
  let columns: Int
  /// Elements before the first.
  var offset = 0
  /// Elements from a row to the next, and from a column to the next.
  var rowStride: Int
  var columnStride = 1
  /// More than one for a block-diagonal matrix, whose blocks are stored below each other.
  var blockCount = 1

  /// A tensor as a row-major matrix, whatever extents of one or kernels it is stored with.
  init(_ file: OpenFile, _ entry: TensorEntry, rows: Int, columns: Int) {
    self.file = file
    self.entry = entry
    self.rows = rows
    self.columns = columns
    rowStride = columns
  }

  /// A window into a tensor.
  init(
    _ file: OpenFile, _ entry: TensorEntry, rows: Int, columns: Int, offset: Int, rowStride: Int, columnStride: Int
  ) {
    self.init(file, entry, rows: rows, columns: columns)
    self.offset = offset
    self.rowStride = rowStride
    self.columnStride = columnStride
  }

  /// A block-diagonal matrix whose `blockCount` blocks are stored below each other, `[rows, columns / blockCount]`.
  init(_ file: OpenFile, _ entry: TensorEntry, rows: Int, columns: Int, blockCount: Int) {
    self.init(file, entry, rows: rows, columns: columns)
    self.blockCount = blockCount
    rowStride = columns / blockCount
  }

  /// Rows and columns exchanged. Traps on a block-diagonal view.
  var transposed: FactorView {
    precondition(blockCount == 1, "a block-diagonal view is not transposed")
    return FactorView(
      file, entry, rows: columns, columns: rows, offset: offset, rowStride: columnStride, columnStride: rowStride)
  }

  /// A window of rows.
  func rows(_ range: Range<Int>) -> FactorView {
    precondition(blockCount == 1, "a block-diagonal view has no window")
    return FactorView(
      file, entry, rows: range.count, columns: columns, offset: offset + range.lowerBound * rowStride,
      rowStride: rowStride, columnStride: columnStride)
  }

  /// True if some rows of it lie together in the file.
  var isRowMajor: Bool { blockCount == 1 && columnStride == 1 && rowStride == columns }
}

/// What an initialisation takes out of the base weight before training, so that the adapter fits only the rest.
///
/// Each is a product of orthonormal vectors with W itself, so the signs that a decomposition happens to choose do not
/// matter.
enum BaseRemoval: Sendable {
  /// PiSSA: the component of the greatest singular values. Source: peft/tuners/lora/layer.py `pissa_init`.
  case principal(rank: Int)
  /// KaSA: the component of the least. Source: peft/tuners/lora/variants.py `KasaLinearVariant`.
  case minor(rank: Int)
  /// OLoRA: scale times the projection on the first columns. Source: peft/tuners/lora/layer.py `olora_init`.
  case firstColumns(rank: Int, scale: Double)

  var rank: Int {
    switch self {
    case .principal(let rank), .minor(let rank), .firstColumns(let rank, _): rank
    }
  }
}

/// A tensor that is added to a bias: b' = b + scale · source. lora_B's bias, and BEFT's.
struct AddedBias: Sendable {
  let source: StoredTensor
  let scale: Double
}

extension LoRAUpdate {
  /// True if the update of some rows can be made of the factors' rows.
  var canBeSplit: Bool { isPlain && terms.allSatisfy { $0.left.blockCount == 1 } }

  /// The update of one row, for a W whose row stands at `place` of another tensor. Only where `canBeSplit`.
  func row(_ row: Int, at place: Int) -> LoRAUpdate {
    var single = LoRAUpdate(
      terms: terms.map { term in
        Term(left: term.left.rows(row..<row + 1), right: term.right, scale: term.scale, diagonal: term.diagonal)
      }, rows: 1, columns: columns, isTransposed: isTransposed)
    single.firstRow = place
    return single
  }
}

/// Rows of an embedding that take the place of the base's.
struct TokenReplacement: Sendable {
  /// One row for each index.
  let source: StoredTensor
  let indices: [Int]

  /// The replaced rows in order, and where each stands in `source`. The last of equal indices counts, as in an assignment.
  var places: [(row: Int, place: Int)] {
    Dictionary(indices.enumerated().map { ($1, $0) }, uniquingKeysWith: { $1 })
      .sorted { $0.key < $1.key }.map { (row: $0.key, place: $0.value) }
  }
}
