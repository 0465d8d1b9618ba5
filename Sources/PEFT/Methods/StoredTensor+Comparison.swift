internal import TensorFiles
internal import TensorMath

extension StoredTensor {
  /// Whether two tensors have one shape and one value at each place, whatever their dtypes.
  ///
  /// Of one dtype they must be the same bytes. False where a dtype's values are not known.
  /// Cost: reads both up to the first difference, a block at a time. Throws `.system`, `.shortRead`.
  func holdsSameValues(as other: StoredTensor) throws(TensorFileError) -> Bool {
    guard shape == other.shape else { return false }
    if entry.dtype == other.entry.dtype {
      return try file.holdsSameBytes(entry.byteRange, other.entry.byteRange, of: other.file)
    }
    for first in stride(from: 0, to: entry.elementCount, by: 1 << 16) {
      let elements = first..<min(first + 1 << 16, entry.elementCount)
      guard let values = try values(elements), let others = try other.values(elements), values == others else {
        return false
      }
    }
    return true
  }

  private func values(_ elements: Range<Int>) throws(TensorFileError) -> [Double]? {
    guard let format = entry.dtype.format else { return nil }
    let start = entry.byteRange.lowerBound
    let bytes = start + elements.lowerBound * format.byteCount..<start + elements.upperBound * format.byteCount
    return Double.decoded(try file.bytes(bytes), format)
  }
}
