internal import TensorFiles
internal import TensorMath

/// A tensor whose bytes are made when they are asked for: those of a file's tensor, put into another order, shape or dtype.
///
/// Nothing is read before `bytes()`; then memory for a few copies of this one tensor is taken.
struct MadeTensor: Sendable {
  let dtype: DType
  /// Extents, row-major.
  let shape: [Int]
  private let make: @Sendable () throws(AdapterError) -> [UInt8]

  init(_ dtype: DType, _ shape: [Int], _ make: @escaping @Sendable () throws(AdapterError) -> [UInt8]) {
    self.dtype = dtype
    self.shape = shape
    self.make = make
  }

  /// A tensor of a file as it is.
  init(_ entry: TensorEntry, of file: OpenFile) {
    self.init(entry.dtype, entry.shape) { () throws(AdapterError) in
      try asAdapterError { () throws(TensorFileError) in try file.bytes(entry.byteRange) }
    }
  }

  /// One number in f32 that has no extents.
  init(scalar: Float) {
    self.init(.f32, []) { () throws(AdapterError) in withoutAlignment(scalar.bitPattern.littleEndian) }
  }

  /// Zeros.
  init(zeros shape: [Int], _ dtype: DType) {
    self.init(dtype, shape) { () throws(AdapterError) in
      [UInt8](repeating: 0, count: shape.reduce(1, *) * dtype.bitCount / 8)
    }
  }

  var elementCount: Int { shape.reduce(1, *) }
  /// Bytes of an element; dtypes of less than a byte are never carried.
  var elementBytes: Int { dtype.bitCount / 8 }

  /// The bytes.
  func bytes() throws(AdapterError) -> [UInt8] { try make() }

  /// The values in f64.
  func values() throws(AdapterError) -> [Double] {
    guard let format = dtype.format else { return [] }
    return Double.decoded(try make(), format)
  }

  // MARK: Exact changes

  /// `[a, b]` as `[b, a]`. Traps for other than two extents.
  var transposed: MadeTensor {
    let (rows, columns, size) = (shape[0], shape[1], elementBytes)
    return MadeTensor(dtype, [columns, rows]) { () throws(AdapterError) in
      let old = try bytes()
      var new = [UInt8](repeating: 0, count: old.count)
      for row in 0..<rows {
        for column in 0..<columns {
          let (from, to) = ((row * columns + column) * size, (column * rows + row) * size)
          for byte in 0..<size { new[to + byte] = old[from + byte] }
        }
      }
      return new
    }
  }

  /// The same elements in another shape. Traps if it has another number of them.
  func reshaped(_ shape: [Int]) -> MadeTensor {
    precondition(shape.reduce(1, *) == elementCount, "another number of elements")
    return MadeTensor(dtype, shape, make)
  }

  /// Bytes of one step of the first extent.
  private var rowBytes: Int { shape.dropFirst().reduce(1, *) * elementBytes }

  /// A range of the first extent.
  func rows(_ range: Range<Int>) -> MadeTensor {
    let size = rowBytes
    return MadeTensor(dtype, [range.count] + shape.dropFirst()) { () throws(AdapterError) in
      Array(try bytes()[range.lowerBound * size..<range.upperBound * size])
    }
  }

  /// Steps of the first extent in another order, each where the list has its number.
  func rows(_ order: [Int]) -> MadeTensor {
    let size = rowBytes
    return MadeTensor(dtype, [order.count] + shape.dropFirst()) { () throws(AdapterError) in
      let old = try bytes()
      var new: [UInt8] = []
      new.reserveCapacity(order.count * size)
      for row in order { new += old[row * size..<(row + 1) * size] }
      return new
    }
  }

  /// A range of the second extent, of whatever follows.
  func columns(_ range: Range<Int>) -> MadeTensor {
    let size = shape.dropFirst(2).reduce(1, *) * elementBytes
    let (rows, columns) = (shape[0], shape[1])
    return MadeTensor(dtype, [rows, range.count] + shape.dropFirst(2)) { () throws(AdapterError) in
      let old = try bytes()
      var new: [UInt8] = []
      for row in 0..<rows {
        new += old[(row * columns + range.lowerBound) * size..<(row * columns + range.upperBound) * size]
      }
      return new
    }
  }

  /// Zeros after the last step of the first extent.
  func padded(rows count: Int) -> MadeTensor {
    guard count > shape[0] else { return self }
    return Self.joined([self, MadeTensor(zeros: [count - shape[0]] + shape.dropFirst(), dtype)])
  }

  /// Zeros before and after the steps of the second extent, which become `count`.
  func padded(columns count: Int, before: Int = 0) -> MadeTensor {
    guard count > shape[1] else { return self }
    let size = shape.dropFirst(2).reduce(1, *) * elementBytes
    let (rows, columns) = (shape[0], shape[1])
    return MadeTensor(dtype, [rows, count] + shape.dropFirst(2)) { () throws(AdapterError) in
      let old = try bytes()
      var new = [UInt8](repeating: 0, count: rows * count * size)
      for row in 0..<rows {
        let (from, to) = (row * columns * size, (row * count + before) * size)
        new.replaceSubrange(to..<to + columns * size, with: old[from..<from + columns * size])
      }
      return new
    }
  }

  /// Tensors one after another along the first extent; dtype and other extents are the first's.
  static func joined(_ parts: [MadeTensor]) -> MadeTensor {
    let first = parts[0]
    let rows = parts.reduce(0) { $0 + $1.shape[0] }
    return MadeTensor(first.dtype, [rows] + first.shape.dropFirst()) { () throws(AdapterError) in
      var bytes: [UInt8] = []
      for part in parts { bytes += try part.cast(to: first.dtype).bytes() }
      return bytes
    }
  }

  /// Tensors of one shape as the steps of a new first extent.
  static func stacked(_ parts: [MadeTensor]) -> MadeTensor {
    joined(parts.map { $0.reshaped([1] + $0.shape) })
  }

  // MARK: Changes that round

  /// The values in another dtype, rounded once to nearest, ties to even. Both must be computable.
  func cast(to other: DType) -> MadeTensor {
    guard other != dtype, let from = dtype.format, let to = other.format else { return self }
    return MadeTensor(other, shape) { () throws(AdapterError) in
      if to == .f64 {
        return Double.decoded(try bytes(), from).flatMap { withoutAlignment($0.bitPattern.littleEndian) }
      }
      return encoded(Float.decoded(try bytes(), from), to)
    }
  }

  /// The values multiplied, rounded once to the dtype; exact for powers of two that leave the range of normal numbers alone.
  func scaled(by factor: Double) -> MadeTensor {
    guard factor != 1, let format = dtype.format else { return self }
    return MadeTensor(dtype, shape) { () throws(AdapterError) in
      let stored = try bytes()
      var products = [UInt8](repeating: 0, count: stored.count)
      _ = rescale(stored.span.bytes, from: format, by: factor, to: format, into: &products)
      return products
    }
  }
}

private func encoded(_ values: [Float], _ format: FloatFormat) -> [UInt8] {
  var bytes = [UInt8](repeating: 0, count: values.count * format.byteCount)
  var span = bytes.mutableSpan
  var raw = span.mutableBytes
  encode(values.span, to: format, into: &raw)
  return bytes
}

/// The bytes of a number, the lowest first.
private func withoutAlignment(_ value: some FixedWidthInteger) -> [UInt8] {
  (0..<value.bitWidth / 8).map { UInt8(truncatingIfNeeded: value >> ($0 * 8)) }
}
