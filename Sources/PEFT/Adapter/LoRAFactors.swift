internal import TensorFiles
public import TensorMath

/// The precision that factors are held in: f64 for f64 weights, f32 for all others.
public protocol FactorElement: MatrixScalar {}

extension Float: FactorElement {}
extension Double: FactorElement {}

extension MatrixScalar {
  /// Stored values in this precision.
  package static func decoded(_ bytes: [UInt8], _ format: FloatFormat) -> [Self] {
    var values = [Self](repeating: 0, count: bytes.count / format.byteCount)
    var span = values.mutableSpan
    decode(bytes.span.bytes, from: format, into: &span)
    return values
  }
}

/// The factors of ΔW for a range of an update's rows, read and laid out for the kernels.
struct LoRAFactors {
  private let single: LowRankUpdate?
  private let double: LowRankUpdate64?

  /// left · right is Σ s·B·A for a weight stored `[out, in]`, and Σ s·Aᵀ·Bᵀ for one stored `[in, out]`.
  ///
  /// - Parameter removed: what an initialisation took out, for all rows.
  init(
    _ update: LoRAUpdate, rows: Range<Int>, format: FloatFormat, removed: RemovedComponent? = nil,
    cache: inout FactorCache
  ) throws(TensorFileError) {
    if format == .f64 {
      let (left, right): ([Double], [Double]) = try Self.sideBySide(update, rows, removed, &cache)
      double = LowRankUpdate64(
        left: left, right: right, rows: rows.count, columns: update.columns, rank: update.rank, scale: 1)
      single = nil
    } else {
      let (left, right): ([Float], [Float]) = try Self.sideBySide(update, rows, removed, &cache)
      single = LowRankUpdate(
        left: left, right: right, rows: rows.count, columns: update.columns, rank: update.rank, scale: 1)
      double = nil
    }
  }

  /// The factors of all terms as one product: left `[rows, Σ rank]`, scaled, and right `[Σ rank, columns]`.
  private static func sideBySide<Value: FactorElement>(
    _ update: LoRAUpdate, _ rows: Range<Int>, _ removed: RemovedComponent?, _ cache: inout FactorCache
  ) throws(TensorFileError) -> ([Value], [Value]) {
    var right: [Value] = []
    var lefts: [(values: [Value], rank: Int)] = []
    for term in update.terms {
      let part: [Value] = try term.left.values(rows, &cache)
      let factor = Value(term.scale)
      lefts.append((part.map { $0 * factor }, term.rank))
      var values: [Value] = try term.right.values(&cache)
      if let diagonal = term.diagonal {
        let factors: [Value] = try diagonal.values(&cache)
        for index in values.indices { values[index] *= factors[index / update.columns] }
      }
      right += values
    }
    if let removed {
      let part = removed.left.rows(rows)
      lefts.append((part.values.map { Value($0) }, part.columns))
      right += removed.right.values.map { Value($0) }
    }
    if lefts.count == 1 { return (lefts[0].values, right) }
    var left: [Value] = []
    for row in 0..<rows.count {
      for (part, rank) in lefts { left += part[row * rank..<(row + 1) * rank] }
    }
    return (left, right)
  }

  /// ΔW's rows from `firstRow` of the range on, added to a block. See `LowRankUpdate.apply`.
  func apply(firstRow: Int, block: inout MutableRawSpan, format: FloatFormat) {
    single?.apply(toRowsFrom: firstRow, of: &block, format: format)
    double?.apply(toRowsFrom: firstRow, of: &block)
  }
}
