package import TensorFiles
package import TensorMath

extension DType {
  /// The kernels' format of a computable dtype; nil for the others.
  package var format: FloatFormat? {
    switch self {
    case .bf16: .bf16
    case .f16: .f16
    case .f32: .f32
    case .f64: .f64
    default: nil
    }
  }
}

/// Where the bytes of a merge go: a file, or a comparison with one.
protocol TensorSink {
  func copy(_ range: Range<Int>, from source: OpenFile, to byteOffset: Int) throws(TensorFileError)
  func write(_ source: RawSpan, at byteOffset: Int) throws(TensorFileError)
}

extension OpenFile: TensorSink {}

/// The pieces of work of one output file. Each writes its own bytes, so any task may do any piece.
enum MergeWork: Sendable {
  /// Bytes taken over as they are.
  case copy(source: OpenFile, range: Range<Int>, target: Int)
  /// Rows of a weight, updated. `target` is where the first of the rows goes.
  case merge(source: OpenFile, entry: TensorEntry, update: LoRAUpdate, rows: Range<Int>, target: Int, dtype: DType)
  /// Stored rows of a weight, changed by rules. `target` is where the first of the rows goes.
  case change(source: OpenFile, entry: TensorEntry, change: WeightChange, rows: Range<Int>, target: Int, dtype: DType)
  /// A whole bias, changed by a rule.
  case changeBias(source: OpenFile, entry: TensorEntry, change: BiasChange, target: Int, dtype: DType)
  /// A whole bias, others added.
  case addBias(source: OpenFile, entry: TensorEntry, biases: [AddedBias], target: Int, dtype: DType)
  /// Elements of an adapter tensor, rounded to `dtype`.
  case convert(source: OpenFile, entry: TensorEntry, elements: Range<Int>, target: Int, dtype: DType)

  /// Bytes of a weight that are held and written at once: half a second-level cache.
  static let blockBytes = 256 << 10
  /// Bytes in a piece: large enough that reading the factors again costs nothing, small enough to share out.
  static let pieceBytes = 16 << 20

  /// Bytes that the piece writes.
  var byteCount: Int {
    switch self {
    case .copy(_, let range, _): range.count
    case .merge(_, _, let update, let rows, _, let dtype): rows.count * update.columns * dtype.bitCount / 8
    case .change(_, _, let change, let rows, _, let dtype): rows.count * change.storedColumns * dtype.bitCount / 8
    case .changeBias(_, let entry, _, _, let dtype), .addBias(_, let entry, _, _, let dtype):
      entry.elementCount * dtype.bitCount / 8
    case .convert(_, _, let elements, _, let dtype): elements.count * dtype.bitCount / 8
    }
  }

  /// The pieces of a file, in the order of their bytes. Neighbouring copies from one file are joined.
  static func pieces(_ shard: MergePlan.Shard, layout: SafetensorsLayout) -> [MergeWork] {
    var pieces: [MergeWork] = []
    var pending: (source: OpenFile, range: Range<Int>, target: Int)?
    func flush() {
      guard let run = pending else { return }
      pending = nil
      for start in stride(from: 0, to: run.range.count, by: pieceBytes) {
        let end = min(start + pieceBytes, run.range.count)
        pieces.append(
          .copy(
            source: run.source, range: run.range.lowerBound + start..<run.range.lowerBound + end,
            target: run.target + start))
      }
    }
    for (output, placed) in zip(shard.outputs, layout.entries) {
      let target = placed.byteRange.lowerBound
      // What is made from a tensor of another name, as a tied head is, goes by its own.
      func named(_ entry: TensorEntry) -> TensorEntry {
        TensorEntry(name: output.item.name, dtype: entry.dtype, shape: entry.shape, byteRange: entry.byteRange)
      }
      switch output.source {
      case .copy(let file, let entry):
        if let run = pending, run.source === file.file, run.range.upperBound == entry.byteRange.lowerBound {
          pending?.range = run.range.lowerBound..<entry.byteRange.upperBound
        } else {
          flush()
          pending = (file.file, entry.byteRange, target)
        }
      case .merge(let file, let entry, let updates):
        flush()
        pieces += mergePieces(file.file, named(entry), updates, target: target, dtype: output.item.dtype)
      case .mergeRows(let file, let entry, let update, let rows):
        flush()
        pieces += mergePieces(
          file.file, named(entry), update, replacing: rows, target: target, dtype: output.item.dtype)
      case .change(let file, let entry, let change):
        flush()
        let rowBytes = change.storedColumns * output.item.dtype.bitCount / 8
        let step =
          change.needsWholeWeight
          ? max(1, change.storedRows) : rowsPerStep(bytes: pieceBytes, rowBytes: rowBytes)
        pieces += stride(from: 0, to: change.storedRows, by: step).map { first in
          .change(
            source: file.file, entry: named(entry), change: change, rows: first..<min(first + step, change.storedRows),
            target: target + first * rowBytes, dtype: output.item.dtype)
        }
      case .changeBias(let file, let entry, let change):
        flush()
        pieces.append(
          .changeBias(source: file.file, entry: named(entry), change: change, target: target, dtype: output.item.dtype))
      case .addBias(let file, let entry, let biases):
        flush()
        pieces.append(
          .addBias(source: file.file, entry: named(entry), biases: biases, target: target, dtype: output.item.dtype))
      case .replaceRows(let file, let entry, let rows):
        flush()
        pieces += rowPieces(file.file, entry, rows, target: target, dtype: output.item.dtype)
      case .replace(let file, let entry):
        flush()
        pieces += convertPieces(
          file.file, entry, 0..<entry.elementCount, target: target, dtype: output.item.dtype)
      }
    }
    flush()
    return pieces
  }

  private static func mergePieces(
    _ file: OpenFile, _ entry: TensorEntry, _ updates: [LoRAUpdate], target: Int, dtype: DType
  ) -> [MergeWork] {
    var pieces: [MergeWork] = []
    var nextByte = 0
    for update in updates.sorted(by: { $0.firstRow < $1.firstRow }) {
      let rowBytes = update.columns * dtype.bitCount / 8
      let start = update.firstRow * rowBytes
      pieces += takenPieces(file, entry, nextByte..<start, target: target, dtype: dtype)
      let step = update.needsWholeWeight ? max(1, update.rows) : rowsPerStep(bytes: pieceBytes, rowBytes: rowBytes)
      pieces += stride(from: 0, to: update.rows, by: step).map { first in
        .merge(
          source: file, entry: entry, update: update, rows: first..<min(first + step, update.rows),
          target: target + start + first * rowBytes, dtype: dtype)
      }
      nextByte = start + update.rows * rowBytes
    }
    let end = entry.elementCount * dtype.bitCount / 8
    return pieces + takenPieces(file, entry, nextByte..<end, target: target, dtype: dtype)
  }

  /// Bytes of the output, counted from the tensor's first, whose values stay as they are.
  private static func takenPieces(
    _ file: OpenFile, _ entry: TensorEntry, _ bytes: Range<Int>, target: Int, dtype: DType
  ) -> [MergeWork] {
    guard entry.dtype == dtype else {
      let width = dtype.bitCount / 8
      return convertPieces(
        file, entry, bytes.lowerBound / width..<bytes.upperBound / width, target: target + bytes.lowerBound,
        dtype: dtype)
    }
    return stride(from: bytes.lowerBound, to: bytes.upperBound, by: pieceBytes).map { start in
      let end = min(start + pieceBytes, bytes.upperBound)
      let first = entry.byteRange.lowerBound
      return .copy(source: file, range: first + start..<first + end, target: target + start)
    }
  }

  /// Elements of a tensor, counted from its first, that become another dtype.
  private static func convertPieces(
    _ file: OpenFile, _ entry: TensorEntry, _ elements: Range<Int>, target: Int, dtype: DType
  ) -> [MergeWork] {
    let elementBytes = dtype.bitCount / 8
    return stride(from: elements.lowerBound, to: elements.upperBound, by: pieceBytes / elementBytes).map { start in
      let end = min(start + pieceBytes / elementBytes, elements.upperBound)
      return .convert(
        source: file, entry: entry, elements: start..<end, target: target + start * elementBytes, dtype: dtype)
    }
  }

  /// The rows that are replaced, and the stretches between them.
  private static func rowPieces(
    _ file: OpenFile, _ entry: TensorEntry, _ rows: TokenReplacement, target: Int, dtype: DType
  ) -> [MergeWork] {
    let width = entry.shape[1]
    let rowBytes = width * dtype.bitCount / 8
    var pieces: [MergeWork] = []
    var next = 0
    func copy(upTo row: Int) {
      guard row > next else { return }
      guard entry.dtype == dtype else {
        pieces += convertPieces(file, entry, next * width..<row * width, target: target, dtype: dtype)
        return
      }
      let start = entry.byteRange.lowerBound + next * rowBytes
      pieces.append(
        .copy(source: file, range: start..<start + (row - next) * rowBytes, target: target + next * rowBytes))
    }
    for (row, position) in rows.places {
      copy(upTo: row)
      pieces.append(
        .convert(
          source: rows.file, entry: rows.entry, elements: position * width..<(position + 1) * width,
          target: target + row * rowBytes, dtype: dtype))
      next = row + 1
    }
    copy(upTo: entry.shape[0])
    return pieces
  }

  /// Rows of about `bytes`, in whole groups, as the kernels take them.
  static func rowsPerStep(bytes: Int, rowBytes: Int) -> Int {
    max(1, bytes / max(1, rowBytes) / LowRankUpdate.rowGroup) * LowRankUpdate.rowGroup
  }

  /// Bytes held while a piece of this weight is merged: both factors with their stored form, and the block.
  static func workingBytes(_ entry: TensorEntry, _ update: LoRAUpdate) -> Int {
    let rowBytes = update.columns * entry.dtype.bitCount / 8
    let rows = min(update.rows, rowsPerStep(bytes: pieceBytes, rowBytes: rowBytes))
    let stored = update.terms.reduce(0) { sum, term in
      sum + term.left.readBytes(rows: rows) + term.right.readBytes(rows: term.rank)
    }
    let block = LowRankUpdate.rowGroup * rowBytes
    let norms = update.magnitude == nil ? 0 : 2 * blockBytes + 12 * max(update.rows, update.columns)
    // Each factor is held as read and as laid out; long sums take both in f64 too, and the block twice more.
    let isWide = update.rank >= LowRankUpdate.wideRank
    let wide = isWide ? 12 * max(blockBytes, block) / (entry.dtype.bitCount / 8) : 0
    let least = min(update.rows, update.columns)
    let removal = update.removal == nil ? 0 : 8 * (2 * update.rows * update.columns + 4 * least * least)
    return stored + (isWide ? 16 : 8) * update.rank * (rows + update.columns) + block + norms + wide + removal
  }

  /// Bytes held while rows of this weight are changed: them in f32 or f64, with a copy or two.
  static func workingBytes(_ entry: TensorEntry, _ change: WeightChange) -> Int {
    let width = entry.dtype == .f64 ? 8 : 4
    guard !change.needsWholeWeight else { return entry.elementCount * (3 * width + 24) }
    let rows = min(change.storedRows, rowsPerStep(bytes: changeBlockBytes, rowBytes: change.storedColumns * width))
    return 4 * rows * change.storedColumns * width
  }

  /// Bytes of a weight in f32 or f64 that rules change at once: with two such products beside it, a second-level cache.
  private static let changeBlockBytes = 256 << 10

  // MARK: Doing

  /// Does the piece, writing into `file`.
  ///
  /// Throws `.system`, `.shortRead`, what the sink throws, and `.resultNotFinite` unless the scratch's check is lenient.
  func perform(into file: some TensorSink, scratch: inout MergeScratch) throws(TensorFileError) {
    let (source, entry, target, dtype, firstElement): (OpenFile, TensorEntry, Int, DType, Int)
    switch self {
    case .copy(let source, let range, let target): return try file.copy(range, from: source, to: target)
    case .merge(let file, let stored, let update, let rows, let place, let result):
      (source, entry, target, dtype) = (file, stored, place, result)
      firstElement = (update.firstRow + rows.lowerBound) * update.columns
    case .change(let file, let stored, let change, let rows, let place, let result):
      (source, entry, target, dtype) = (file, stored, place, result)
      firstElement = rows.lowerBound * change.storedColumns
    case .changeBias(let file, let stored, _, let place, let result),
      .addBias(let file, let stored, _, let place, let result):
      (source, entry, target, dtype, firstElement) = (file, stored, place, result, 0)
    case .convert(let file, let stored, let elements, let place, let result):
      (source, entry, target, dtype, firstElement) = (file, stored, place, result, elements.lowerBound)
    }
    guard let format = dtype.format else { return }
    let checked = FiniteSink(
      base: file, check: scratch.finiteCheck, source: source, entry: entry, format: format, dtype: dtype,
      target: target, firstElement: firstElement)
    try compute(into: checked, scratch: &scratch)
  }

  private func compute(into file: some TensorSink, scratch: inout MergeScratch) throws(TensorFileError) {
    switch self {
    case .copy(let source, let range, let target):
      try file.copy(range, from: source, to: target)
    case .merge(let source, let entry, let update, let rows, let target, let dtype):
      guard let stored = entry.dtype.format, let format = dtype.format, !rows.isEmpty, update.columns > 0 else {
        return
      }
      let weightStart = entry.byteRange.lowerBound + update.firstRow * update.columns * stored.byteCount
      var removed: RemovedComponent?
      if let removal = update.removal {
        let bytes = try source.bytes(weightStart..<weightStart + update.rows * update.columns * stored.byteCount)
        let weight = Matrix(rows: update.rows, columns: update.columns, values: Double.decoded(bytes, stored))
        removed = RemovedComponent(removal, of: weight)
        guard removed != nil else { throw .notDecomposable(path: source.path, tensor: entry.name) }
      }
      let factors = try LoRAFactors(
        update, rows: rows, format: format, removed: removed, cache: &scratch.factors)
      if let magnitude = update.magnitude {
        let piece = DecomposedMerge(
          source: source, stored: stored, format: format, update: update, magnitude: magnitude, factors: factors)
        try piece.perform(
          rows, from: weightStart + rows.lowerBound * update.columns * stored.byteCount, into: file, at: target,
          cache: &scratch.factors)
        return
      }
      let step = Self.rowsPerStep(bytes: Self.blockBytes, rowBytes: update.columns * stored.byteCount)
      for first in stride(from: 0, to: rows.count, by: step) {
        let count = min(step, rows.count - first) * update.columns
        let from = weightStart + (rows.lowerBound + first) * update.columns * stored.byteCount
        let to = target + first * update.columns * format.byteCount
        try Self.withBlock(&scratch.block, count * format.byteCount) { block throws(TensorFileError) in
          if stored == format {
            try source.read(into: &block, at: from)
          } else {
            let bytes = try source.bytes(from..<from + count * stored.byteCount)
            encode(Float.decoded(bytes, stored).span, to: format, into: &block)
          }
          factors.apply(firstRow: first, block: &block, format: format)
          try file.write(block.bytes, at: to)
        }
      }
    case .change(let source, let entry, let change, let rows, let target, let dtype):
      guard let stored = entry.dtype.format, let format = dtype.format, !rows.isEmpty else { return }
      if format == .f64 {
        try Self.change(Double.self, source, entry, stored, change, rows, into: file, target, format)
      } else {
        try Self.change(Float.self, source, entry, stored, change, rows, into: file, target, format)
      }
    case .changeBias(let source, let entry, let change, let target, let dtype):
      guard let stored = entry.dtype.format, let format = dtype.format else { return }
      let values = try change.changed(Double.decoded(try source.bytes(entry.byteRange), stored))
      let bytes = format == .f64 ? values.withUnsafeBytes { Array($0) } : Self.encoded(values.map { Float($0) }, format)
      try file.write(bytes.span.bytes, at: target)
    case .addBias(let source, let entry, let biases, let target, let dtype):
      guard let stored = entry.dtype.format, let format = dtype.format else { return }
      var sums = Double.decoded(try source.bytes(entry.byteRange), stored)
      for bias in biases {
        guard let added = bias.entry.dtype.format else { continue }
        let change = Double.decoded(try bias.file.bytes(bias.entry.byteRange), added)
        for (index, value) in zip(sums.indices, change) { sums[index] += bias.scale * value }
      }
      let bytes = format == .f64 ? sums.withUnsafeBytes { Array($0) } : Self.encoded(sums.map { Float($0) }, format)
      try file.write(bytes.span.bytes, at: target)
    case .convert(let source, let entry, let elements, let target, let dtype):
      guard let stored = entry.dtype.format, let format = dtype.format else { return }
      let step = Self.blockBytes / format.byteCount
      for first in stride(from: elements.lowerBound, to: elements.upperBound, by: step) {
        let count = min(step, elements.upperBound - first)
        try Self.convert(
          source, entry.byteRange.lowerBound + first * stored.byteCount, count, stored, format, file,
          target + (first - elements.lowerBound) * format.byteCount)
      }
    }
  }

  private static func change<Scalar: FactorElement>(
    _ type: Scalar.Type, _ source: OpenFile, _ entry: TensorEntry, _ stored: FloatFormat, _ change: WeightChange,
    _ rows: Range<Int>, into file: some TensorSink, _ target: Int, _ format: FloatFormat
  ) throws(TensorFileError) {
    let columns = change.storedColumns
    let changes = try change.changes(type)
    let step =
      change.needsWholeWeight
      ? rows.count : rowsPerStep(bytes: changeBlockBytes, rowBytes: columns * MemoryLayout<Scalar>.size)
    for first in stride(from: rows.lowerBound, to: rows.upperBound, by: step) {
      let part = first..<min(first + step, rows.upperBound)
      let start = entry.byteRange.lowerBound + part.lowerBound * columns * stored.byteCount
      let bytes = try source.bytes(start..<start + part.count * columns * stored.byteCount)
      var block = Matrix<Scalar>(rows: part.count, columns: columns, values: Scalar.decoded(bytes, stored))
      try change.apply(part, &block, changes)
      let place = target + (part.lowerBound - rows.lowerBound) * columns * format.byteCount
      if let singles = block.values as? [Float], format != .f64 {
        try file.write(encoded(singles, format).span.bytes, at: place)
      } else {
        try file.write(block.values.span.bytes, at: place)
      }
    }
  }

  private static func withBlock(
    _ scratch: inout [UInt8], _ byteCount: Int,
    _ body: (inout MutableRawSpan) throws(TensorFileError) -> Void
  ) throws(TensorFileError) {
    if scratch.count != byteCount { scratch = [UInt8](repeating: 0, count: byteCount) }
    var span = scratch.mutableSpan
    var block = span.mutableBytes
    try body(&block)
  }

  /// Converts `count` elements from one file to another.
  ///
  /// Precision: f64 goes through f32 to the half formats, as torch's copy does; otherwise one rounding.
  private static func convert(
    _ source: OpenFile, _ from: Int, _ count: Int, _ stored: FloatFormat, _ format: FloatFormat,
    _ target: some TensorSink,
    _ to: Int
  ) throws(TensorFileError) {
    let bytes = try source.bytes(from..<from + count * stored.byteCount)
    if stored == format {
      try target.write(bytes.span.bytes, at: to)
      return
    }
    let encoded = encoded(Float.decoded(bytes, stored), format)
    try target.write(encoded.span.bytes, at: to)
  }

  private static func encoded(_ floats: [Float], _ format: FloatFormat) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: floats.count * format.byteCount)
    var span = bytes.mutableSpan
    var raw = span.mutableBytes
    encode(floats.span, to: format, into: &raw)
    return bytes
  }
}
