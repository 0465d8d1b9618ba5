internal import TensorFiles
internal import TensorMath

/// Puts the factors of several adapters side by side, a stretch at a time.
///
/// lora_A is the terms' below each other. lora_B is the terms' next to each other, each multiplied by what the scale of the result leaves
/// of its own. Ranks that no term fills are zeros. Bytes that stay what they are are copied.
struct FactorJoin {
  private var source = [UInt8](repeating: 0, count: stretch)
  private var converted: [UInt8] = []
  private var table: [UInt8] = []

  /// Bytes that are read or put together at once.
  private static let stretch = 1 << 20

  /// Writes both factors of a module.
  ///
  /// - Parameters:
  ///   - rank: of the result, at least the module's.
  ///   - scale: what the result is multiplied by.
  /// Returns true if nothing was rounded and no number that was computed is infinite or none. Memory: a few stretches, or one row.
  /// Throws `.file`.
  mutating func write(
    _ module: CombinedModule, rank: Int, _ dtype: DType, scale: Double, to file: LoRAFile
  ) throws(AdapterError) -> Bool {
    do throws(TensorFileError) {
      let isExactA = try writeA(module, rank, dtype, to: file)
      let isExactB = try writeB(module, rank, dtype, scale, to: file)
      return isExactA && isExactB
    } catch {
      throw .file(error)
    }
  }

  private mutating func writeA(
    _ module: CombinedModule, _ rank: Int, _ dtype: DType, to file: LoRAFile
  ) throws(TensorFileError) -> Bool {
    let columns = module.shapeA(rank: 1).dropFirst().reduce(1, *)
    var isExact = true
    for expert in 0..<module.experts {
      var place = expert * rank * columns * dtype.bitCount / 8
      for term in module.used {
        let entry = term.factors.a
        let count = term.module.rank * columns * entry.dtype.bitCount / 8
        let range = entry.byteRange.lowerBound + expert * count..<entry.byteRange.lowerBound + (expert + 1) * count
        if entry.dtype == dtype {
          try file.sink.copy(range, of: term.file, to: file.a, at: place)
          place += count
          continue
        }
        for start in stride(from: range.lowerBound, to: range.upperBound, by: Self.stretch) {
          let part = start..<min(start + Self.stretch, range.upperBound)
          try term.file.file.read(part, into: &source, at: 0)
          let (isSame, bytes) = convert(part.count, from: entry.dtype, by: 1, to: dtype)
          isExact = isExact && isSame
          try file.sink.put(converted.span.bytes.extracting(0..<bytes), to: file.a, at: place)
          place += bytes
        }
      }
    }
    return isExact
  }

  private mutating func writeB(
    _ module: CombinedModule, _ rank: Int, _ dtype: DType, _ scale: Double, to file: LoRAFile
  ) throws(TensorFileError) -> Bool {
    let (terms, output) = (module.used, module.output)
    let width = rank * module.experts * dtype.bitCount / 8
    let widths = terms.map { $0.factors.b.byteRange.count / output }
    let rows = max(1, Self.stretch / max(width, widths.max() ?? 0))
    let isFilled = module.rank == rank
    if table.count < rows * width || !isFilled { table = [UInt8](repeating: 0, count: max(rows * width, table.count)) }
    if source.count < widths.max() ?? 0 { source = [UInt8](repeating: 0, count: widths.max() ?? 0) }
    var isExact = true
    for first in stride(from: 0, to: output, by: rows) {
      let count = min(rows, output - first)
      var place = 0
      for (term, from) in zip(terms, widths) {
        let start = term.factors.b.byteRange.lowerBound + first * from
        try term.file.file.read(start..<start + count * from, into: &source, at: 0)
        let factor = term.scale / scale
        if term.factors.b.dtype == dtype, factor == 1 {
          Self.copy(source, count * from, width: from, to: &table, at: place, stride: width)
          place += from
          continue
        }
        let (isSame, bytes) = convert(count * from, from: term.factors.b.dtype, by: factor, to: dtype)
        isExact = isExact && isSame
        Self.copy(converted, bytes, width: bytes / count, to: &table, at: place, stride: width)
        place += bytes / count
      }
      try file.sink.put(table.span.bytes.extracting(0..<count * width), to: file.b, at: first * width)
    }
    return isExact
  }

  /// Multiplies the first bytes of `source` into `converted`.
  private mutating func convert(
    _ count: Int, from dtype: DType, by factor: Double, to other: DType
  ) -> (isExact: Bool, bytes: Int) {
    guard let from = dtype.format, let to = other.format else { preconditionFailure("factors of \(dtype) in \(other)") }
    let bytes = count / from.byteCount * to.byteCount
    if converted.count < bytes { converted = [UInt8](repeating: 0, count: bytes) }
    return (Self.rescale(source, count, from, factor, to, &converted), bytes)
  }

  // A span of one member and a change of another would exclude each other.

  private static func copy(
    _ rows: [UInt8], _ count: Int, width: Int, to table: inout [UInt8], at place: Int, stride: Int
  ) {
    copyRows(rows.span.bytes.extracting(0..<count), width: width, into: &table, at: place, stride: stride)
  }

  private static func rescale(
    _ source: [UInt8], _ count: Int, _ from: FloatFormat, _ factor: Double, _ to: FloatFormat,
    _ products: inout [UInt8]
  ) -> Bool {
    TensorMath.rescale(source.span.bytes.extracting(0..<count), from: from, by: factor, to: to, into: &products)
  }
}
