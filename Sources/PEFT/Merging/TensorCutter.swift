internal import TensorFiles

/// Cuts a changed tensor into pieces, in the order of its bytes.
struct TensorCutter {
  private var source: StoredTensor
  /// Where the tensor's first byte goes.
  private let target: Int
  /// The dtype that it comes out with.
  private let dtype: DType
  private var pieces: [MergeWork] = []

  private init(_ source: StoredTensor, _ target: Int, _ dtype: DType) {
    (self.source, self.target, self.dtype) = (source, target, dtype)
  }

  /// The pieces of a tensor whose first byte goes to `target`.
  static func pieces(of tensor: MatchedTensor, to target: Int) -> [MergeWork] {
    let stored = tensor.source
    let entry = stored.entry
    // What is made from a tensor of another name, as a tied head is, goes by its own.
    let named = StoredTensor(
      file: stored.file,
      entry: TensorEntry(name: tensor.item.name, dtype: entry.dtype, shape: entry.shape, byteRange: entry.byteRange))
    var cutter = TensorCutter(named, target, tensor.item.dtype)
    switch tensor.change {
    case .unchanged: cutter.take(from: 0, to: entry.elementCount)
    case .sums(let updates): cutter.add(updates)
    case .sumOnRows(let update, let rows): cutter.add(update, to: rows)
    case .rules(let change):
      cutter.compute(0..<change.storedRows, columns: change.storedColumns, areTogether: change.needsWholeWeight) {
        .rules(change, rows: $0)
      }
    case .biasRule(let change): cutter.append(.biasRule(change), firstElement: 0)
    case .biases(let addends): cutter.append(.biases(addends), firstElement: 0)
    case .rows(let rows): cutter.replace(rows)
    case .replacement:
      cutter.source = stored
      cutter.convert(0..<entry.elementCount)
    }
    return cutter.pieces
  }

  private var width: Int { dtype.bitCount / 8 }

  private mutating func append(_ part: TensorPiece.Part, firstElement: Int, of other: StoredTensor? = nil) {
    pieces.append(
      .compute(
        TensorPiece(source: other ?? source, part: part, target: target + firstElement * width, dtype: dtype)))
  }

  /// Elements whose values stay as they are.
  private mutating func take(from first: Int, to end: Int) {
    guard first < end else { return }
    guard source.entry.dtype == dtype else { return convert(first..<end) }
    let start = source.entry.byteRange.lowerBound
    pieces += MergeWork.copies(
      start + first * width..<start + end * width, of: source.file, to: target + first * width)
  }

  /// Elements that become another dtype.
  private mutating func convert(_ elements: Range<Int>) {
    let step = MergeWork.pieceBytes / width
    for start in stride(from: elements.lowerBound, to: elements.upperBound, by: step) {
      append(.elements(start..<min(start + step, elements.upperBound)), firstElement: start)
    }
  }

  /// Rows that are computed; the first of all stands at `firstRow` of the tensor.
  private mutating func compute(
    _ rows: Range<Int>, at firstRow: Int = 0, columns: Int, areTogether: Bool,
    _ part: (Range<Int>) -> TensorPiece.Part
  ) {
    let step =
      areTogether ? max(1, rows.count) : MergeWork.rowsPerStep(bytes: MergeWork.pieceBytes, rowBytes: columns * width)
    for first in stride(from: rows.lowerBound, to: rows.upperBound, by: step) {
      append(part(first..<min(first + step, rows.upperBound)), firstElement: (firstRow + first) * columns)
    }
  }

  /// Updated rows, and those between them.
  private mutating func add(_ updates: [LoRAUpdate]) {
    var next = 0
    for update in updates.sorted(by: { $0.firstRow < $1.firstRow }) {
      take(from: next, to: update.firstRow * update.columns)
      compute(
        0..<update.rows, at: update.firstRow, columns: update.columns, areTogether: update.needsWholeWeight
      ) { .update(update, rows: $0) }
      next = (update.firstRow + update.rows) * update.columns
    }
    take(from: next, to: source.entry.elementCount)
  }

  /// A weight that is updated after some of its rows were replaced.
  private mutating func add(_ update: LoRAUpdate, to replaced: TokenReplacement) {
    var next = 0
    func rows(to end: Int) -> Range<Int> { next..<max(next, end) }
    for (row, place) in replaced.places {
      compute(rows(to: row), columns: update.columns, areTogether: false) { .update(update, rows: $0) }
      append(.update(update.row(row, at: place), rows: 0..<1), firstElement: row * update.columns, of: replaced.source)
      next = row + 1
    }
    compute(rows(to: update.rows), columns: update.columns, areTogether: false) { .update(update, rows: $0) }
  }

  /// The rows that are replaced, and the stretches between them.
  private mutating func replace(_ replaced: TokenReplacement) {
    let columns = source.shape.dropFirst().reduce(1, *)
    var next = 0
    for (row, place) in replaced.places {
      take(from: next, to: row * columns)
      append(.elements(place * columns..<(place + 1) * columns), firstElement: row * columns, of: replaced.source)
      next = (row + 1) * columns
    }
    take(from: next, to: source.entry.elementCount)
  }
}
