internal import TensorFiles
internal import TensorMath

/// A weight of two models on the way to the factors of its change; of experts that share a parameter all of them.
struct ExtractedModule: Sendable {
  /// Rows of one tensor in both models that are rows of a change.
  struct Part: Sendable {
    let before: ModelPair.Stored
    let after: ModelPair.Stored
    /// Where its rows begin in the tensor, and in the change.
    let firstRow: Int
    let changeRow: Int
    let rows: Int
  }

  let path: String
  /// The path in the adapter's file: of a parameter its module's, with `.base_layer` for inner ones.
  var filePath: String
  /// The weight as it is stored, for one expert.
  let rows: Int
  let columns: Int
  /// The kernel's extents; empty for linear layers.
  var kernel: [Int] = []
  /// True where it is stored `[in, out]`.
  let isTransposed: Bool
  /// One for each expert; one for what has none.
  let experts: [[Part]]

  var extent: Int { min(rows, columns) }
  var names: (a: String, b: String) {
    ("\(Adapter.prefix)\(filePath).\(LoRARole.a.ending)", "\(Adapter.prefix)\(filePath).\(LoRARole.b.ending)")
  }

  func shapeA(rank: Int) -> [Int] {
    let input = isTransposed ? rows : columns
    return [rank * experts.count, input / kernel.reduce(1, *)] + kernel
  }

  func shapeB(rank: Int) -> [Int] {
    [isTransposed ? columns : rows, rank * experts.count] + kernel.map { _ in 1 }
  }

  /// The weight of a module.
  init(_ module: BaseModel.Module, _ before: ModelPair.Stored, _ after: ModelPair.Stored) {
    (path, filePath) = (module.path, module.path)
    (rows, columns) = (before.entry.shape[0], before.entry.shape.dropFirst().reduce(1, *))
    kernel = Array(before.entry.shape.dropFirst(2))
    isTransposed = module.kind == .transposedLinear
    experts = [[Part(before: before, after: after, firstRow: 0, changeRow: 0, rows: rows)]]
  }

  /// A parameter of experts. Nil if the two models hold it in different shapes.
  init?(_ before: ExpertParameter, _ after: ExpertParameter, in pair: ModelPair) {
    guard before.expertCount == after.expertCount, before.rows == after.rows, before.columns == after.columns,
      before.matrices.count == after.matrices.count
    else { return nil }
    (path, filePath) = (before.path, before.path.parts().dropLast().joined(separator: "."))
    (rows, columns) = (before.rows, before.columns)
    isTransposed = pair.base.modelType == "gpt_oss"
    var experts = [[Part]](repeating: [], count: before.expertCount)
    for (old, new) in zip(before.matrices, after.matrices) {
      guard let from = pair.base.checkpoint[old.tensor.name], let to = pair.tuned.checkpoint[new.tensor.name],
        old.firstRow == new.firstRow, old.rows == new.rows
      else { return nil }
      experts[old.expert].append(
        Part(
          before: .init(file: pair.base.checkpoint.shards[from.shard].file, entry: from.entry),
          after: .init(file: pair.tuned.checkpoint.shards[to.shard].file, entry: to.entry), firstRow: old.firstRow,
          changeRow: old.parameterRow, rows: old.rows))
    }
    self.experts = experts
  }

  /// The factors of one expert's change, in f32: B `[out, rank]` and A `[rank, in]`.
  struct Factors: Sendable {
    var b: Matrix<Float>
    var a: Matrix<Float>
    var squares = 0.0
    var lostSquares = 0.0
    var values: [Double] = []
    var floor = 0.0
    /// Kept values above the floor.
    var signalRank: Int { values.count { $0 > floor } }
  }

  /// The factors of an expert's change by a rule; nil where both models have the same weight. A change of which the rule keeps
  /// nothing, because rounding can have made all of it, has factors of rank zero.
  ///
  /// Precision: the loss is that of the factors as they are, summed in f64. Memory: the change in f32.
  /// Throws `.file`, `.notPossible` for values that are not finite.
  /// - Parameter difference: memory for the change.
  func factors(
    expert: Int, rule: RankRule, in difference: inout WeightDifference
  ) throws(AdapterError) -> Factors? {
    difference.reset(rows: rows, columns: columns)
    var format = FloatFormat.f64
    for part in experts[expert] {
      guard let after = part.after.entry.dtype.format, let before = part.before.entry.dtype.format else { continue }
      format = after
      do throws(TensorFileError) {
        try read(part, after, before) { first, new, old in
          difference.setRows(from: part.changeRow + first, after: new, after, before: old, before)
        }
      } catch { throw .file(error) }
    }
    guard difference.squares != 0 else { return nil }
    let floor = difference.roundingFloor(format)
    let signal = max(0, difference.squares - difference.roundingSquares(format))
    let first = min(rule.firstCount ?? extent, extent)
    let found = LeadingDecomposition(difference.matrix, squares: difference.squares, first: first) { values, isWhole in
      rule.rank(ofLeading: values, isWhole: isWhole, squares: signal, floor: floor, extent: extent)
    }
    guard let found else {
      throw .notPossible(
        path: experts[expert][0].after.file.path, what: "extracting the change of '\(path)'",
        reason: "it holds values that are infinite or not a number.")
    }
    let squares = difference.squares
    // The root of a singular value on either side, which keeps the factors' sizes alike.
    let roots = found.values.map { $0.squareRoot() }
    var (left, right) = (found.left, found.right)
    for (index, root) in roots.enumerated() {
      for row in 0..<left.rows { left[row, index] *= root }
      right.scaleRow(index, by: root)
    }
    let (l, r) = (left.narrowed, right.narrowed)
    let lost = difference.subtract(l, times: r)
    return Factors(
      b: isTransposed ? r.transposed : l, a: isTransposed ? l.transposed : r, squares: squares, lostSquares: lost,
      values: found.values, floor: floor)
  }

  /// Calls `body` with rows of both tensors that differ, some at a time: the first row of them in the part, and the bytes.
  private func read(
    _ part: Part, _ after: FloatFormat, _ before: FloatFormat, _ body: (Int, RawSpan, RawSpan) -> Void
  ) throws(TensorFileError) {
    var (new, old): ([UInt8], [UInt8]) = ([], [])
    let stretch = max(1, ModelPair.stretch / max(1, columns))
    for first in stride(from: 0, to: part.rows, by: stretch) {
      let count = min(stretch, part.rows - first)
      let elements = (part.firstRow + first) * columns..<(part.firstRow + first + count) * columns
      try part.after.read(elements, after, into: &new)
      try part.before.read(elements, before, into: &old)
      if after == before, new == old { continue }
      body(first, new.span.bytes, old.span.bytes)
    }
  }
}

extension ModelPair {
  /// Elements that are read at once.
  static let stretch = 1 << 17
}

extension ModelPair.Stored {
  /// Reads elements by their numbers. Throws `.system`, `.shortRead`.
  func read(_ elements: Range<Int>, _ format: FloatFormat, into bytes: inout [UInt8]) throws(TensorFileError) {
    let start = entry.byteRange.lowerBound
    try file.read(
      start + elements.lowerBound * format.byteCount..<start + elements.upperBound * format.byteCount, into: &bytes)
  }
}

extension Matrix<Double> {
  /// Rounded to f32.
  fileprivate var narrowed: Matrix<Float> {
    Matrix<Float>(rows: rows, columns: columns, values: values.map { Float($0) })
  }
}
