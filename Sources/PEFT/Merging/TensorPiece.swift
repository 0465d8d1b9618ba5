internal import TensorFiles
internal import TensorMath

/// Part of a tensor that a merge computes: from what, how, and where it goes.
struct TensorPiece: Sendable {
  enum Part: Sendable {
    /// Rows of an update, counted from its first.
    case update(LoRAUpdate, rows: Range<Int>)
    /// Stored rows of a weight, changed by rules.
    case rules(WeightChange, rows: Range<Int>)
    /// A whole bias, changed by a rule.
    case biasRule(BiasChange)
    /// A whole bias, others added.
    case biases([AddedBias])
    /// Elements as they are, but for their dtype.
    case elements(Range<Int>)
  }

  /// The tensor before the change, by the name that an error gives it.
  let source: StoredTensor
  let part: Part
  /// Where the piece's first byte goes.
  let target: Int
  /// The dtype of the result.
  let dtype: DType

  /// The elements of `source` that the piece is made from.
  var elements: Range<Int> {
    switch part {
    case .update(let update, let rows):
      (update.firstRow + rows.lowerBound) * update.columns..<(update.firstRow + rows.upperBound) * update.columns
    case .rules(let change, let rows):
      rows.lowerBound * change.storedColumns..<rows.upperBound * change.storedColumns
    case .biasRule, .biases: 0..<source.entry.elementCount
    case .elements(let elements): elements
    }
  }

  /// Bytes that the piece writes.
  var byteCount: Int { elements.count * dtype.bitCount / 8 }

  // MARK: Memory

  /// Bytes of a weight in f32 or f64 that rules change at once: with two such products beside it, a second-level cache.
  static let changeBlockBytes = 256 << 10

  /// The most bytes that are held while a piece of this tensor is computed.
  static func workingBytes(_ tensor: MatchedTensor) -> Int {
    let entry = tensor.source.entry
    if case .rules(let change) = tensor.change { return workingBytes(entry, change) }
    return tensor.change.updates.map { workingBytes(entry, $0) }.max() ?? 0
  }

  /// Both factors with their stored form, and the block.
  private static func workingBytes(_ entry: TensorEntry, _ update: LoRAUpdate) -> Int {
    let rowBytes = update.columns * entry.dtype.bitCount / 8
    let rows = min(update.rows, MergeWork.rowsPerStep(bytes: MergeWork.pieceBytes, rowBytes: rowBytes))
    let stored = update.terms.reduce(0) { sum, term in
      sum + term.left.readBytes(rows: rows) + term.right.readBytes(rows: term.rank)
    }
    let block = LowRankUpdate.rowGroup * rowBytes
    let norms = update.magnitude == nil ? 0 : 2 * MergeWork.blockBytes + 12 * max(update.rows, update.columns)
    // Each factor is held as read and as laid out; long sums take both in f64 too, and the block twice more.
    let isWide = update.rank >= LowRankUpdate.wideRank
    let wide = isWide ? 12 * max(MergeWork.blockBytes, block) / (entry.dtype.bitCount / 8) : 0
    let least = min(update.rows, update.columns)
    let removal = update.removal == nil ? 0 : 8 * (2 * update.rows * update.columns + 4 * least * least)
    return stored + (isWide ? 16 : 8) * update.rank * (rows + update.columns) + block + norms + wide + removal
  }

  /// The rows in f32 or f64, with a copy or two.
  private static func workingBytes(_ entry: TensorEntry, _ change: WeightChange) -> Int {
    let width = entry.dtype == .f64 ? 8 : 4
    guard !change.needsWholeWeight else { return entry.elementCount * (3 * width + 24) }
    let rows = min(
      change.storedRows, MergeWork.rowsPerStep(bytes: changeBlockBytes, rowBytes: change.storedColumns * width))
    return 4 * rows * change.storedColumns * width
  }
}
