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
    for output in shards.flatMap(\.outputs) where !skipping.contains(output.item.name) {
      var output = output
      if case .copy = output.source {
        if base.checkpoint[output.item.name] != nil { continue }
      } else if widening, output.item.dtype == .f16 || output.item.dtype == .bf16 {
        output = Output(
          item: SafetensorsLayout.Item(name: output.item.name, dtype: .f32, shape: output.item.shape),
          source: output.source)
      }
      let sink = MemorySink(byteCount: output.item.byteCount)
      try asAdapterError { () throws(TensorFileError) in
        let layout = try SafetensorsLayout(path: "", items: [output.item])
        sink.offset = layout.header.count
        let shard = Shard(name: "", outputs: [output], metadata: [])
        for piece in MergeWork.pieces(shard, layout: layout) { try piece.perform(into: sink, scratch: &scratch) }
      }
      tensors.append(
        ChangedTensor(name: output.item.name, dtype: output.item.dtype, shape: output.item.shape, bytes: sink.bytes))
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
