internal import TensorFiles
internal import TensorMath

/// What one task keeps from piece to piece: a block of bytes, tensors of which every piece reads a part, and what it saw.
struct MergeScratch {
  private var block: [UInt8] = []
  var factors = FactorCache()
  let finiteCheck: FiniteCheck

  /// - Parameter allowsNonFinite: to go on where a result is an infinity or a NaN.
  init(allowsNonFinite: Bool) { finiteCheck = FiniteCheck(isLenient: allowsNonFinite) }

  /// Lends a block of that many bytes, with whatever is in it.
  mutating func withBlock(
    _ byteCount: Int, _ body: (inout MutableRawSpan) throws(TensorFileError) -> Void
  ) throws(TensorFileError) {
    if block.count != byteCount { block = [UInt8](repeating: 0, count: byteCount) }
    var span = block.mutableSpan
    var bytes = span.mutableBytes
    try body(&bytes)
  }
}

/// The tensors read last, decoded: the factors of an expert are spread over a tensor that all experts share.
struct FactorCache {
  private struct Key: Hashable {
    let file: ObjectIdentifier
    let byteOffset: Int
    let isDouble: Bool
  }

  private var tensors: [(key: Key, values: any Sendable)] = []

  /// Tensors that are kept: both factors of two parameters.
  static let capacity = 4

  /// All values of a tensor, in the order of the file.
  mutating func values<Value: FactorElement>(
    _ file: OpenFile, _ entry: TensorEntry
  ) throws(TensorFileError) -> [Value] {
    let key = Key(
      file: ObjectIdentifier(file), byteOffset: entry.byteRange.lowerBound, isDouble: Value.self == Double.self)
    if let found = tensors.first(where: { $0.key == key })?.values as? [Value] { return found }
    guard let format = entry.dtype.format else { return [] }
    let values = Value.decoded(try file.bytes(entry.byteRange), format)
    if tensors.count == Self.capacity { tensors.removeFirst() }
    tensors.append((key, values))
    return values
  }
}

extension FactorView {
  /// Some of the rows, row-major.
  func values<Value: FactorElement>(
    _ range: Range<Int>, _ cache: inout FactorCache
  ) throws(TensorFileError) -> [Value] {
    if isRowMajor {
      guard let format = entry.dtype.format else { return [] }
      let start = entry.byteRange.lowerBound + (offset + range.lowerBound * columns) * format.byteCount
      return Value.decoded(try file.bytes(start..<start + range.count * columns * format.byteCount), format)
    }
    let stored: [Value] = try cache.values(file, entry)
    var values = [Value](repeating: 0, count: range.count * columns)
    let width = columns / blockCount
    for row in range {
      let first = blockCount == 1 ? 0 : row / (rows / blockCount) * width
      let target = (row - range.lowerBound) * columns + first
      for column in 0..<width { values[target + column] = stored[offset + row * rowStride + column * columnStride] }
    }
    return values
  }

  /// All rows.
  func values<Value: FactorElement>(_ cache: inout FactorCache) throws(TensorFileError) -> [Value] {
    try values(0..<rows, &cache)
  }

  /// Bytes that reading some rows holds: the tensor as stored and decoded, unless the rows lie together.
  func readBytes(rows count: Int) -> Int {
    isRowMajor ? count * columns * entry.dtype.bitCount / 8 : entry.byteRange.count + entry.elementCount * 4
  }
}
