internal import TensorFiles

extension MergeWork {
  /// The pieces of a weight that is updated after some of its rows were replaced.
  static func mergePieces(
    _ file: OpenFile, _ entry: TensorEntry, _ update: LoRAUpdate, replacing replaced: TokenReplacement, target: Int,
    dtype: DType
  ) -> [MergeWork] {
    let rowBytes = update.columns * dtype.bitCount / 8
    let step = rowsPerStep(bytes: pieceBytes, rowBytes: rowBytes)
    var pieces: [MergeWork] = []
    var next = 0
    func merge(upTo row: Int) {
      guard row > next else { return }
      pieces += stride(from: next, to: row, by: step).map { first in
        .merge(
          source: file, entry: entry, update: update, rows: first..<min(first + step, row),
          target: target + first * rowBytes, dtype: dtype)
      }
    }
    for (row, place) in replaced.places {
      merge(upTo: row)
      pieces.append(
        .merge(
          source: replaced.file, entry: replaced.entry, update: update.row(row, at: place), rows: 0..<1,
          target: target + row * rowBytes, dtype: dtype))
      next = row + 1
    }
    merge(upTo: update.rows)
    return pieces
  }
}
