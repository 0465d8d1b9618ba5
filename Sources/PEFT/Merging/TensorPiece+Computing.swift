internal import TensorFiles
internal import TensorMath

extension TensorPiece {
  /// Computes the piece and writes it into `file`.
  ///
  /// Throws `.system`, `.shortRead`, `.notDecomposable`, what the sink throws, and `.resultNotFinite` unless the scratch's
  /// check is lenient.
  func perform(into file: some TensorSink, scratch: inout MergeScratch) throws(TensorFileError) {
    guard let stored = source.entry.dtype.format, let format = dtype.format else { return }
    let checked = FiniteSink(base: file, check: scratch.finiteCheck, piece: self, format: format)
    let kernel = PieceKernel(piece: self, stored: stored, format: format)
    switch part {
    case .update(let update, let rows): try kernel.add(update, rows, into: checked, &scratch)
    case .rules(let change, let rows):
      if format == .f64 {
        try kernel.apply(change, rows, Double.self, into: checked)
      } else {
        try kernel.apply(change, rows, Float.self, into: checked)
      }
    case .biasRule(let change):
      try kernel.write(try change.changed(try source.values()), into: checked)
    case .biases(let addends):
      var sums = try source.values(Double.self)
      for addend in addends {
        for (index, value) in zip(sums.indices, try addend.source.values(Double.self)) {
          sums[index] += addend.scale * value
        }
      }
      try kernel.write(sums, into: checked)
    case .elements(let elements): try kernel.convert(elements, into: checked)
    }
  }
}

/// A piece with the formats that it is read and written in.
private struct PieceKernel {
  let piece: TensorPiece
  let stored: FloatFormat
  let format: FloatFormat

  private var file: OpenFile { piece.source.file }

  /// Where an element stands in the file.
  private func place(_ element: Int) -> Int { piece.source.entry.byteRange.lowerBound + element * stored.byteCount }

  private func bytes(_ elements: Range<Int>) throws(TensorFileError) -> [UInt8] {
    try file.bytes(place(elements.lowerBound)..<place(elements.upperBound))
  }

  /// W + ΔW, a block at a time.
  func add(
    _ update: LoRAUpdate, _ rows: Range<Int>, into sink: some TensorSink, _ scratch: inout MergeScratch
  ) throws(TensorFileError) {
    guard !rows.isEmpty, update.columns > 0 else { return }
    let factors = try LoRAFactors(
      update, rows: rows, format: format, removed: try removed(by: update), cache: &scratch.factors)
    let first = piece.elements.lowerBound
    if let magnitude = update.magnitude {
      let merge = DecomposedMerge(
        source: file, stored: stored, format: format, update: update, magnitude: magnitude, factors: factors)
      try merge.perform(rows, from: place(first), into: sink, at: piece.target, cache: &scratch.factors)
      return
    }
    let step = MergeWork.rowsPerStep(bytes: MergeWork.blockBytes, rowBytes: update.columns * stored.byteCount)
    for row in stride(from: 0, to: rows.count, by: step) {
      let start = first + row * update.columns
      let count = min(step, rows.count - row) * update.columns
      try scratch.withBlock(count * format.byteCount) { block throws(TensorFileError) in
        if stored == format {
          try file.read(into: &block, at: place(start))
        } else {
          encode(Float.decoded(try bytes(start..<start + count), stored).span, to: format, into: &block)
        }
        factors.apply(firstRow: row, block: &block, format: format)
        try sink.write(block.bytes, at: piece.target + row * update.columns * format.byteCount)
      }
    }
  }

  /// What an initialisation took out of the weight. Throws `.notDecomposable`.
  private func removed(by update: LoRAUpdate) throws(TensorFileError) -> RemovedComponent? {
    guard let removal = update.removal else { return nil }
    let first = update.firstRow * update.columns
    let values = Double.decoded(try bytes(first..<first + update.rows * update.columns), stored)
    let weight = Matrix(rows: update.rows, columns: update.columns, values: values)
    guard let removed = RemovedComponent(removal, of: weight) else {
      throw .notDecomposable(path: file.path, tensor: piece.source.entry.name)
    }
    return removed
  }

  /// What rules make of stored rows, in the precision of their factors.
  func apply<Scalar: FactorElement>(
    _ change: WeightChange, _ rows: Range<Int>, _ type: Scalar.Type, into sink: some TensorSink
  ) throws(TensorFileError) {
    guard !rows.isEmpty else { return }
    let columns = change.storedColumns
    let changes = try change.changes(type)
    let step =
      change.needsWholeWeight
      ? rows.count
      : MergeWork.rowsPerStep(bytes: TensorPiece.changeBlockBytes, rowBytes: columns * MemoryLayout<Scalar>.size)
    for first in stride(from: rows.lowerBound, to: rows.upperBound, by: step) {
      let part = first..<min(first + step, rows.upperBound)
      let values = Scalar.decoded(try bytes(part.lowerBound * columns..<part.upperBound * columns), stored)
      var block = Matrix<Scalar>(rows: part.count, columns: columns, values: values)
      try change.apply(part, &block, changes)
      let target = piece.target + (part.lowerBound - rows.lowerBound) * columns * format.byteCount
      if let singles = block.values as? [Float], format != .f64 {
        try sink.write(encoded(singles).span.bytes, at: target)
      } else {
        try sink.write(block.values.span.bytes, at: target)
      }
    }
  }

  /// The values of a bias. Precision: rounded to f32 first where the result is narrower than f64.
  func write(_ values: [Double], into sink: some TensorSink) throws(TensorFileError) {
    if format == .f64 {
      try sink.write(values.span.bytes, at: piece.target)
    } else {
      try sink.write(encoded(values.map { Float($0) }).span.bytes, at: piece.target)
    }
  }

  /// Elements in another format.
  ///
  /// Precision: f64 goes through f32 to the half formats, as torch's copy does; otherwise one rounding.
  func convert(_ elements: Range<Int>, into sink: some TensorSink) throws(TensorFileError) {
    let step = MergeWork.blockBytes / format.byteCount
    for first in stride(from: elements.lowerBound, to: elements.upperBound, by: step) {
      let stored = try bytes(first..<min(first + step, elements.upperBound))
      let target = piece.target + (first - elements.lowerBound) * format.byteCount
      if self.stored == format {
        try sink.write(stored.span.bytes, at: target)
      } else {
        try sink.write(encoded(Float.decoded(stored, self.stored)).span.bytes, at: target)
      }
    }
  }

  private func encoded(_ floats: [Float]) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: floats.count * format.byteCount)
    var span = bytes.mutableSpan
    var raw = span.mutableBytes
    encode(floats.span, to: format, into: &raw)
    return bytes
  }
}
