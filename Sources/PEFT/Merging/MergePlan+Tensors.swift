package import TensorFiles

/// A tensor that a merge would write.
package struct ChangedTensor: Sendable {
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

extension MergePlan {
  /// The tensors that a merge changes or adds, computed in memory. Memory: as large as they are.
  ///
  /// - Parameter skipping: names whose tensors are not wanted.
  /// - Parameter widening: true for f32 in place of f16 and bf16: the values before a merge rounds them.
  /// Throws `.file`.
  package func changedTensors(
    skipping: Set<ExactName> = [], widening: Bool = false
  ) throws(AdapterError) -> [ChangedTensor] {
    var scratch = MergeScratch(allowsNonFinite: options.allowNonFinite)
    var tensors: [ChangedTensor] = []
    for tensor in shards.flatMap(\.outputs) where !skipping.contains(tensor.item.name) {
      var tensor = tensor
      if tensor.change.isUnchanged {
        if base.checkpoint[tensor.item.name] != nil { continue }
      } else if widening, tensor.item.dtype == .f16 || tensor.item.dtype == .bf16 {
        tensor = tensor.converted(to: .f32)
      }
      let bytes = try asAdapterError { () throws(TensorFileError) in
        try MemorySink(computing: tensor, &scratch).bytes
      }
      tensors.append(
        ChangedTensor(name: tensor.item.name, dtype: tensor.item.dtype, shape: tensor.item.shape, bytes: bytes))
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
