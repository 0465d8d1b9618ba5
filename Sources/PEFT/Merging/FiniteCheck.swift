internal import TensorFiles
internal import TensorMath

/// What one task saw of a merge's results: tensors with infinities or NaNs. One task's own; not Sendable.
final class FiniteCheck {
  /// True to note such tensors and go on; otherwise the first is an error.
  let isLenient: Bool
  /// Names of the tensors seen.
  private(set) var names: Set<String> = []

  init(isLenient: Bool) { self.isLenient = isLenient }

  fileprivate func note(_ name: String) { names.insert(name) }
}

/// Hands a piece's results on to another sink, after a look at whether they are finite.
///
/// Cost: one pass over bytes that the kernels have just left in the cache.
struct FiniteSink<Base: TensorSink>: TensorSink {
  let base: Base
  let check: FiniteCheck
  let piece: TensorPiece
  /// The format of the results.
  let format: FloatFormat

  func copy(_ range: Range<Int>, from source: OpenFile, to byteOffset: Int) throws(TensorFileError) {
    try base.copy(range, from: source, to: byteOffset)
  }

  func write(_ source: RawSpan, at byteOffset: Int) throws(TensorFileError) {
    if !allFinite(source, format) { try found(source, at: byteOffset) }
    try base.write(source, at: byteOffset)
  }

  private func found(_ bytes: RawSpan, at byteOffset: Int) throws(TensorFileError) {
    let entry = piece.source.entry
    check.note(entry.name)
    guard !check.isLenient else { return }
    let width = format.byteCount
    var first = 0
    while allFinite(bytes.extracting(first * width..<(first + 1) * width), format) { first += 1 }
    let element = piece.elements.lowerBound + (byteOffset - piece.target) / width + first
    var cameSo = false
    if let stored = entry.dtype.format {
      let place = entry.byteRange.lowerBound + element * stored.byteCount
      let before = try piece.source.file.bytes(place..<place + stored.byteCount)
      cameSo = !allFinite(before.span.bytes, stored)
    }
    throw .resultNotFinite(
      path: piece.source.file.path, tensor: entry.name, dtype: piece.dtype,
      element: TensorEntry.position(element, in: entry.shape),
      cameSo: cameSo)
  }
}

extension TensorEntry {
  /// The indices of an element, row-major.
  static func position(_ element: Int, in shape: [Int]) -> [Int] {
    var rest = element
    var indices: [Int] = []
    for extent in shape.reversed() {
      indices.append(rest % max(1, extent))
      rest /= max(1, extent)
    }
    return indices.reversed()
  }
}
