internal import TensorFiles
internal import TensorMath

/// The merge of a weight-decomposed adapter (DoRA): W' = (m / ‖V‖) · V with V = W + ΔW.
///
/// The norm goes over each output feature's inputs: over rows of a weight stored `[out, in]`, over columns of one stored
/// `[in, out]`, an embedding's included. V is computed in f32 (f64 for f64 weights), norms are summed in f64, and the
/// product is rounded once.
/// Source: peft/tuners/lora/variants.py `DoraLinearVariant.merge_unsafe`, `DoraEmbeddingVariant`, `_DoraConvNdVariant`.
struct DecomposedMerge {
  let source: OpenFile
  let stored: FloatFormat
  let format: FloatFormat
  let update: LoRAUpdate
  let magnitude: FactorView
  let factors: LoRAFactors

  /// Writes the rows of a piece. A weight stored `[in, out]` is read twice: once for the norms.
  func perform(
    _ rows: Range<Int>, from: Int, into file: some TensorSink, at target: Int, cache: inout FactorCache
  ) throws(TensorFileError) {
    let magnitudes: [Double] = try magnitude.values(&cache)
    let step = MergeWork.rowsPerStep(bytes: MergeWork.blockBytes, rowBytes: update.columns * 4)
    let blocks = stride(from: 0, to: rows.count, by: step).map { $0..<min($0 + step, rows.count) }
    if update.isTransposed {
      var sums = [Double](repeating: 0, count: update.columns)
      for block in blocks { addColumnSums(try changed(block, from), to: &sums) }
      let scales = zip(magnitudes, sums).map { $0 / $1.squareRoot() }
      for block in blocks { try write(try changed(block, from), scales, .columns, file, target, block) }
      return
    }
    for block in blocks {
      let values = try changed(block, from)
      let first = rows.lowerBound + block.lowerBound
      let scales = zip(magnitudes[first..<first + block.count], rowSums(values)).map { $0 / $1.squareRoot() }
      try write(values, scales, .rows, file, target, block)
    }
  }

  /// V's rows: in f32, or in f64 for f64 weights.
  private enum Values {
    case single([Float])
    case double([Double])
  }

  private func changed(_ block: Range<Int>, _ from: Int) throws(TensorFileError) -> Values {
    let count = block.count * update.columns
    let start = from + block.lowerBound * update.columns * stored.byteCount
    let bytes = try source.bytes(start..<start + count * stored.byteCount)
    if format == .f64 {
      var values = Double.decoded(bytes, stored)
      var span = values.mutableSpan
      var raw = span.mutableBytes
      factors.apply(firstRow: block.lowerBound, block: &raw, format: .f64)
      return .double(values)
    }
    var values = Float.decoded(bytes, stored)
    var span = values.mutableSpan
    var raw = span.mutableBytes
    factors.apply(firstRow: block.lowerBound, block: &raw, format: .f32)
    return .single(values)
  }

  private func rowSums(_ values: Values) -> [Double] {
    switch values {
    case .single(let floats):
      var sums = [Double](repeating: 0, count: floats.count / update.columns)
      addSquareSums(floats.span, columns: update.columns, along: .rows, to: &sums)
      return sums
    case .double(let doubles):
      return stride(from: 0, to: doubles.count, by: update.columns).map { start in
        doubles[start..<start + update.columns].reduce(0) { $0 + $1 * $1 }
      }
    }
  }

  private func addColumnSums(_ values: Values, to sums: inout [Double]) {
    switch values {
    case .single(let floats): addSquareSums(floats.span, columns: update.columns, along: .columns, to: &sums)
    case .double(let doubles):
      for (index, value) in doubles.enumerated() { sums[index % update.columns] += value * value }
    }
  }

  private func write(
    _ values: Values, _ scales: [Double], _ axis: MatrixAxis, _ file: some TensorSink, _ target: Int,
    _ block: Range<Int>
  ) throws(TensorFileError) {
    let to = target + block.lowerBound * update.columns * format.byteCount
    switch values {
    case .single(var floats):
      var span = floats.mutableSpan
      scale(&span, columns: update.columns, along: axis, by: scales.map { Float($0) })
      var bytes = [UInt8](repeating: 0, count: floats.count * format.byteCount)
      var byteSpan = bytes.mutableSpan
      var raw = byteSpan.mutableBytes
      encode(floats.span, to: format, into: &raw)
      try file.write(bytes.span.bytes, at: to)
    case .double(let doubles):
      let scaled = doubles.enumerated().map { index, value in
        value * scales[axis == .rows ? index / update.columns : index % update.columns]
      }
      try file.write(scaled.span.bytes, at: to)
    }
  }
}
