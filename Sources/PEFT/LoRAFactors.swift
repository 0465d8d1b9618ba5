internal import Numerics
internal import TensorFiles

/// The precision that factors are held in: f64 for f64 weights, f32 for all others.
protocol FactorElement {
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
struct LoRAFactors {
  private let single: LowRankUpdate?
  private let double: LowRankUpdate64?

  /// left · right is s·B·A for a weight stored `[out, in]`, and s·Aᵀ·Bᵀ for one stored `[in, out]`.
  init(
    _ update: LoRAUpdate, rows: Range<Int>, format: FloatFormat
  ) throws(TensorFileError) {
    let file = update.file
    let rank = update.rank
    let leftEntry = update.isTransposed ? update.a : update.b
    let rightEntry = update.isTransposed ? update.b : update.a
    // A is [rank, in], B is [out, rank], whatever extents of one or kernels they are stored with.
    let leftShape = update.isTransposed ? [rank, update.rows] : [update.rows, rank]
    let columns = update.columns
    if format == .f64 {
      let left: [Double] = try Self.left(file, leftEntry, leftShape, rows, transposed: update.isTransposed)
      var right: [Double] = try Self.values(file, rightEntry)
      if update.isTransposed { right = Self.transposed(right, [columns, rank]) }
      double = LowRankUpdate64(
        left: left, right: right, rows: rows.count, columns: columns, rank: rank, scale: update.scale)
      single = nil
    } else {
      let left: [Float] = try Self.left(file, leftEntry, leftShape, rows, transposed: update.isTransposed)
      var right: [Float] = try Self.values(file, rightEntry)
      if update.isTransposed { right = Self.transposed(right, [columns, rank]) }
      single = LowRankUpdate(
        left: left, right: right, rows: rows.count, columns: columns, rank: rank, scale: Float(update.scale))
      double = nil
    }
  }

  /// ΔW's rows from `firstRow` of the range on, added to a block. See `LowRankUpdate.apply`.
  func apply(firstRow: Int, block: inout MutableRawSpan, format: FloatFormat) {
    single?.apply(toRowsFrom: firstRow, of: &block, format: format)
    double?.apply(toRowsFrom: firstRow, of: &block)
  }

  /// Rows of the left factor: read alone where they lie together in the file.
  private static func left<Value: FactorElement>(
    _ file: File, _ entry: TensorEntry, _ shape: [Int], _ rows: Range<Int>, transposed: Bool
  ) throws(TensorFileError) -> [Value] {
    if transposed { return Self.rows(rows, of: try values(file, entry), shape) }
    return try values(file, entry, elements: rows.lowerBound * shape[1]..<rows.upperBound * shape[1])
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

  /// Rows of a matrix's transpose.
  private static func rows<Value>(_ rows: Range<Int>, of values: [Value], _ shape: [Int]) -> [Value] {
    rows.flatMap { row in (0..<shape[0]).map { values[$0 * shape[1] + row] } }
  }

  private static func transposed<Value>(_ values: [Value], _ shape: [Int]) -> [Value] {
    rows(0..<shape[1], of: values, shape)
  }
}
