package import TensorFiles

/// A tensor that a match changes or adds, with its values.
package struct ComputedTensor: Sendable {
  /// The name in the checkpoint.
  package let name: String
  package let dtype: DType
  package let shape: [Int]
  package let bytes: [UInt8]

  package init(name: String, dtype: DType, shape: [Int], bytes: [UInt8]) {
    self.name = name
    self.dtype = dtype
    self.shape = shape
    self.bytes = bytes
  }
}

extension AdapterMatch {
  /// The tensors that a merge changes or adds, computed in memory. Memory: as large as they are.
  ///
  /// - Parameter skipping: names whose tensors are not wanted.
  /// - Parameter widening: true for f32 in place of f16 and bf16: the values before a merge rounds them.
  /// - Parameter allowsNonFinite: to go on where a result is an infinity or a NaN.
  /// Throws `.file`.
  package func computedTensors(
    skipping: Set<ExactName> = [], widening: Bool = false, allowsNonFinite: Bool = false
  ) throws(AdapterError) -> [ComputedTensor] {
    var scratch = MergeScratch(allowsNonFinite: allowsNonFinite)
    var tensors: [ComputedTensor] = []
    for tensor in changedTensors where !skipping.contains(tensor.item.name) {
      var tensor = tensor
      if widening, !tensor.change.isUnchanged, tensor.item.dtype == .f16 || tensor.item.dtype == .bf16 {
        tensor = tensor.converted(to: .f32)
      }
      let bytes = try asAdapterError { () throws(TensorFileError) in
        try MemorySink(computing: tensor, &scratch).bytes
      }
      tensors.append(
        ComputedTensor(name: tensor.item.name, dtype: tensor.item.dtype, shape: tensor.item.shape, bytes: bytes))
    }
    return tensors
  }
}

/// Keeps what a merge would write.
final class MemorySink: TensorSink {
  var bytes: [UInt8]
  /// Where the first byte would stand in a file.
  var offset = 0

  init(byteCount: Int) { bytes = [UInt8](repeating: 0, count: byteCount) }

  /// All of a tensor. Throws `.system`, `.shortRead`, `.notDecomposable`, `.resultNotFinite`.
  convenience init(computing tensor: MatchedTensor, _ scratch: inout MergeScratch) throws(TensorFileError) {
    self.init(byteCount: tensor.item.byteCount)
    let (pieces, byteOffset) = try MergeWork.pieces(tensor)
    offset = byteOffset
    for piece in pieces { try piece.perform(into: self, scratch: &scratch) }
  }

  func copy(_ range: Range<Int>, from file: OpenFile, to byteOffset: Int) throws(TensorFileError) {
    let bytes = try file.bytes(range)
    try write(bytes.span.bytes, at: byteOffset)
  }

  func write(_ source: RawSpan, at byteOffset: Int) throws(TensorFileError) {
    let place = byteOffset - offset
    bytes.withUnsafeMutableBytes { to in
      source.withUnsafeBytes { from in to[place..<place + from.count].copyBytes(from: from) }
    }
  }
}
