internal import Numerics
internal import TensorFiles

extension DType {
  /// The kernels' format of a computable dtype; nil for the others.
  var format: FloatFormat? {
    switch self {
    case .bf16: .bf16
    case .f16: .f16
    case .f32: .f32
    case .f64: .f64
    default: nil
    }
  }
}

/// The pieces of work of one output file. Each writes its own bytes, so any task may do any piece.
enum MergeWork: Sendable {
  /// Bytes taken over as they are.
  case copy(source: File, range: Range<Int>, target: Int)
  /// Rows of a weight, updated. `target` is where the first of the rows goes.
  case merge(source: File, entry: TensorEntry, update: LoRAUpdate, rows: Range<Int>, target: Int, dtype: DType)
  /// Elements of an adapter tensor, rounded to `dtype`.
  case convert(source: File, entry: TensorEntry, elements: Range<Int>, target: Int, dtype: DType)

  /// Bytes of a weight that are held and written at once: half a second-level cache.
  static let blockBytes = 256 << 10
  /// Bytes in a piece: large enough that reading the factors again costs nothing, small enough to share out.
  static let pieceBytes = 16 << 20

  /// Bytes that the piece writes.
  var byteCount: Int {
    switch self {
    case .copy(_, let range, _): range.count
    case .merge(_, let entry, _, let rows, _, let dtype):
      rows.count * (entry.elementCount / max(1, entry.shape[0])) * dtype.bitCount / 8
    case .convert(_, _, let elements, _, let dtype): elements.count * dtype.bitCount / 8
    }
  }

  /// The pieces of a file, in the order of their bytes. Neighbouring copies from one file are joined.
  static func pieces(_ shard: MergePlan.Shard, layout: SafetensorsLayout) -> [MergeWork] {
    var pieces: [MergeWork] = []
    var pending: (source: File, range: Range<Int>, target: Int)?
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
      switch output.source {
      case .copy(let file, let entry):
        if let run = pending, run.source === file.file, run.range.upperBound == entry.byteRange.lowerBound {
          pending?.range = run.range.lowerBound..<entry.byteRange.upperBound
        } else {
          flush()
          pending = (file.file, entry.byteRange, target)
        }
      case .merge(let file, let entry, let update):
        flush()
        pieces += mergePieces(file.file, entry, update, target: target, dtype: output.item.dtype)
      case .replace(let file, let entry):
        flush()
        let elementBytes = output.item.dtype.bitCount / 8
        for start in stride(from: 0, to: entry.elementCount, by: pieceBytes / elementBytes) {
          let end = min(start + pieceBytes / elementBytes, entry.elementCount)
          pieces.append(
            .convert(
              source: file.file, entry: entry, elements: start..<end, target: target + start * elementBytes,
              dtype: output.item.dtype))
        }
      }
    }
    flush()
    return pieces
  }

  private static func mergePieces(
    _ file: File, _ entry: TensorEntry, _ update: LoRAUpdate, target: Int, dtype: DType
  ) -> [MergeWork] {
    let rowBytes = entry.shape[1] * dtype.bitCount / 8
    let step = rowsPerStep(bytes: pieceBytes, rowBytes: rowBytes)
    return stride(from: 0, to: entry.shape[0], by: step).map { first in
      .merge(
        source: file, entry: entry, update: update, rows: first..<min(first + step, entry.shape[0]),
        target: target + first * rowBytes, dtype: dtype)
    }
  }

  /// Rows of about `bytes`, in whole groups, as the kernels take them.
  private static func rowsPerStep(bytes: Int, rowBytes: Int) -> Int {
    max(1, bytes / max(1, rowBytes) / LowRankUpdate.rowGroup) * LowRankUpdate.rowGroup
  }

  /// Bytes held while a piece of this weight is merged: both factors with their stored form, and the block.
  static func workingBytes(_ entry: TensorEntry, _ update: LoRAUpdate) -> Int {
    let rows = min(entry.shape[0], rowsPerStep(bytes: pieceBytes, rowBytes: entry.shape[1] * entry.dtype.bitCount / 8))
    let stored = update.module.a.byteRange.count + update.module.b.byteRange.count
    let block = LowRankUpdate.rowGroup * entry.shape[1] * entry.dtype.bitCount / 8
    return stored + 2 * 4 * update.rank * (rows + entry.shape[1]) + block
  }

  // MARK: Doing

  /// Does the piece, writing into `file`. Throws `.system`, `.shortRead`.
  func perform(into file: File, scratch: inout [UInt8]) throws(TensorFileError) {
    switch self {
    case .copy(let source, let range, let target):
      try file.copy(range, from: source, to: target)
    case .merge(let source, let entry, let update, let rows, let target, let dtype):
      guard let stored = entry.dtype.format, let format = dtype.format, !rows.isEmpty, entry.shape[1] > 0 else {
        return
      }
      let factors = try LoRAFactors(update, rows: rows, format: format)
      let rowBytes = entry.shape[1] * stored.byteCount
      let step = Self.rowsPerStep(bytes: Self.blockBytes, rowBytes: rowBytes)
      for first in stride(from: 0, to: rows.count, by: step) {
        let count = min(step, rows.count - first)
        let from = entry.byteRange.lowerBound + (rows.lowerBound + first) * rowBytes
        let to = target + first * entry.shape[1] * format.byteCount
        if stored != format { try Self.convert(source, from, count * entry.shape[1], stored, format, file, to) }
        try Self.withBlock(&scratch, count * entry.shape[1] * format.byteCount) { block throws(TensorFileError) in
          try stored == format ? source.read(into: &block, at: from) : file.read(into: &block, at: to)
          factors.apply(firstRow: first, block: &block, format: format)
          try file.write(block.bytes, at: to)
        }
      }
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
    _ source: File, _ from: Int, _ count: Int, _ stored: FloatFormat, _ format: FloatFormat, _ target: File, _ to: Int
  ) throws(TensorFileError) {
    let bytes = try source.bytes(from..<from + count * stored.byteCount)
    if stored == format {
      try target.write(bytes.span.bytes, at: to)
      return
    }
    var floats = [Float](repeating: 0, count: count)
    var span = floats.mutableSpan
    decode(bytes.span.bytes, from: stored, into: &span)
    var encoded = [UInt8](repeating: 0, count: count * format.byteCount)
    var encodedSpan = encoded.mutableSpan
    var raw = encodedSpan.mutableBytes
    encode(floats.span, to: format, into: &raw)
    try target.write(encoded.span.bytes, at: to)
  }
}

/// The precision that factors are held in: f64 for f64 weights, f32 for all others.
private protocol FactorElement {
  static func decoded(_ bytes: [UInt8], _ format: FloatFormat) -> [Self]
}

extension Float: FactorElement {
  static func decoded(_ bytes: [UInt8], _ format: FloatFormat) -> [Float] {
    var values = [Float](repeating: 0, count: bytes.count / format.byteCount)
    var span = values.mutableSpan
    decode(bytes.span.bytes, from: format, into: &span)
    return values
  }
}

extension Double: FactorElement {
  static func decoded(_ bytes: [UInt8], _ format: FloatFormat) -> [Double] {
    var values = [Double](repeating: 0, count: bytes.count / format.byteCount)
    var span = values.mutableSpan
    decode(bytes.span.bytes, from: format, into: &span)
    return values
  }
}

/// The factors of ΔW for a range of W's rows, read and laid out for the kernels.
private struct LoRAFactors {
  private let single: LowRankUpdate?
  private let double: LowRankUpdate64?

  /// left · right is s·B·A for a weight stored `[out, in]`, and s·Aᵀ·Bᵀ for one stored `[in, out]`.
  init(
    _ update: LoRAUpdate, rows: Range<Int>, format: FloatFormat
  ) throws(TensorFileError) {
    let file = update.file
    let module = update.module
    let rank = update.rank
    let leftEntry = update.isTransposed ? module.a : module.b
    let rightEntry = update.isTransposed ? module.b : module.a
    let columns = update.isTransposed ? module.b.shape[0] : module.a.shape[1]
    if format == .f64 {
      let left: [Double] = try Self.left(file, leftEntry, rows, transposed: update.isTransposed)
      var right: [Double] = try Self.values(file, rightEntry)
      if update.isTransposed { right = Self.transposed(right, rightEntry.shape) }
      double = LowRankUpdate64(
        left: left, right: right, rows: rows.count, columns: columns, rank: rank, scale: update.scale)
      single = nil
    } else {
      let left: [Float] = try Self.left(file, leftEntry, rows, transposed: update.isTransposed)
      var right: [Float] = try Self.values(file, rightEntry)
      if update.isTransposed { right = Self.transposed(right, rightEntry.shape) }
      single = LowRankUpdate(
        left: left, right: right, rows: rows.count, columns: columns, rank: rank, scale: Float(update.scale))
      double = nil
    }
  }

  func apply(firstRow: Int, block: inout MutableRawSpan, format: FloatFormat) {
    single?.apply(toRowsFrom: firstRow, of: &block, format: format)
    double?.apply(toRowsFrom: firstRow, of: &block)
  }

  /// Rows of the left factor: read alone where they lie together in the file.
  private static func left<Value: FactorElement>(
    _ file: File, _ entry: TensorEntry, _ rows: Range<Int>, transposed: Bool
  ) throws(TensorFileError) -> [Value] {
    if transposed { return Self.rows(rows, of: try values(file, entry), entry.shape, transposed: true) }
    return try values(file, entry, elements: rows.lowerBound * entry.shape[1]..<rows.upperBound * entry.shape[1])
  }

  private static func values<Value: FactorElement>(
    _ file: File, _ entry: TensorEntry, elements: Range<Int>? = nil
  ) throws(TensorFileError) -> [Value] {
    guard let format = entry.dtype.format else { return [] }
    let elements = elements ?? 0..<entry.elementCount
    let start = entry.byteRange.lowerBound + elements.lowerBound * format.byteCount
    let bytes = try file.bytes(start..<start + elements.count * format.byteCount)
    return Value.decoded(bytes, format)
  }

  /// Rows of a matrix, or of its transpose.
  private static func rows<Value>(
    _ rows: Range<Int>, of values: [Value], _ shape: [Int], transposed: Bool
  ) -> [Value] {
    guard transposed else { return Array(values[rows.lowerBound * shape[1]..<rows.upperBound * shape[1]]) }
    return rows.flatMap { row in (0..<shape[0]).map { values[$0 * shape[1] + row] } }
  }

  private static func transposed<Value>(_ values: [Value], _ shape: [Int]) -> [Value] {
    rows(0..<shape[1], of: values, shape, transposed: true)
  }
}
