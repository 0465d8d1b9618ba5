internal import Numerics
internal import TensorFiles

/// The precision that factors are held in: f64 for f64 weights, f32 for all others.
protocol FactorElement: BinaryFloatingPoint {
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

  /// left · right is Σ s·B·A for a weight stored `[out, in]`, and Σ s·Aᵀ·Bᵀ for one stored `[in, out]`.
  init(
    _ update: LoRAUpdate, rows: Range<Int>, format: FloatFormat
  ) throws(TensorFileError) {
    if format == .f64 {
      let (left, right): ([Double], [Double]) = try Self.sideBySide(update, rows)
      double = LowRankUpdate64(
        left: left, right: right, rows: rows.count, columns: update.columns, rank: update.rank, scale: 1)
      single = nil
    } else {
      let (left, right): ([Float], [Float]) = try Self.sideBySide(update, rows)
      single = LowRankUpdate(
        left: left, right: right, rows: rows.count, columns: update.columns, rank: update.rank, scale: 1)
      double = nil
    }
  }

  /// The factors of all terms as one product: left `[rows, Σ rank]`, scaled, and right `[Σ rank, columns]`.
  private static func sideBySide<Value: FactorElement>(
    _ update: LoRAUpdate, _ rows: Range<Int>
  ) throws(TensorFileError) -> ([Value], [Value]) {
    var right: [Value] = []
    var lefts: [[Value]] = []
    for term in update.terms {
      let (leftEntry, rightEntry) = update.isTransposed ? (term.a, term.b) : (term.b, term.a)
      // A is [rank, in], B is [out, rank], whatever extents of one or kernels they are stored with.
      let leftShape = update.isTransposed ? [term.rank, update.rows] : [update.rows, term.rank]
      let part: [Value] = try Self.left(term.file, leftEntry, leftShape, rows, transposed: update.isTransposed)
      let factor = Value(term.scale)
      lefts.append(part.map { $0 * factor })
      let values: [Value] = try Self.values(term.file, rightEntry)
      right += update.isTransposed ? transposed(values, [update.columns, term.rank]) : values
    }
    if lefts.count == 1 { return (lefts[0], right) }
    var left: [Value] = []
    for row in 0..<rows.count {
      for (part, term) in zip(lefts, update.terms) { left += part[row * term.rank..<(row + 1) * term.rank] }
    }
    return (left, right)
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
