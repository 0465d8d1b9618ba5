internal import TensorFiles
internal import TensorMath

/// The two tensors of one module in an adapter that is being made.
///
/// lora_A holds experts below each other, lora_B interleaved: column k·experts + e is rank k of expert e.
struct LoRAFile {
  let sink: AdapterSink
  /// The tensors' names.
  let a: String
  let b: String

  /// Writes the factors of one expert, or of a module that has none: expert 0 of 1. Throws `.file`.
  func write(_ factors: RoundedFactors, expert: Int, of experts: Int, rank: Int) throws(AdapterError) {
    try write(
      a: factors.a.bytes, b: factors.b.bytes, width: factors.b.format.byteCount, expert: expert, of: experts, rank: rank
    )
  }

  /// As above, of the bytes of both; an element of B takes `width`. Throws `.file`.
  func write(
    a bytesA: [UInt8], b bytesB: [UInt8], width: Int, expert: Int, of experts: Int, rank: Int
  ) throws(AdapterError) {
    try sink.write(bytesA.span.bytes, to: a, at: expert * bytesA.count)
    guard experts > 1 else { return try sink.write(bytesB.span.bytes, to: b) }
    for (index, start) in stride(from: 0, to: bytesB.count, by: width).enumerated() {
      let (row, k) = (index / rank, index % rank)
      let place = (row * rank + k) * experts + expert
      try sink.write(bytesB.span.extracting(start..<start + width).bytes, to: b, at: place * width)
    }
  }

  /// Copies a module's factors byte for byte, with zeros for ranks that it does not have. The file holds zeros already.
  ///
  /// Throws `.file`.
  func pad(_ module: LoRAModule, of source: SafetensorsFile, rank: Int) throws(AdapterError) {
    let experts = module.experts
    guard rank != module.values.rank else {
      try sink.copy(module.a, of: source, to: a)
      return try sink.copy(module.b, of: source, to: b)
    }
    try asAdapterError { () throws(TensorFileError) in
      let expertBytes = module.a.byteRange.count / experts
      for expert in 0..<experts {
        let start = module.a.byteRange.lowerBound + expert * expertBytes
        let bytes = try source.file.bytes(start..<start + expertBytes)
        try sink.put(bytes.span.bytes, to: a, at: expert * (expertBytes / module.values.rank * rank))
      }
      let rows = module.b.shape[0]
      let (from, to) = (module.b.byteRange.count / rows, module.b.byteRange.count / rows / module.values.rank * rank)
      let stored = try source.file.bytes(module.b.byteRange)
      var padded = [UInt8](repeating: 0, count: rows * to)
      for row in 0..<rows {
        padded.replaceSubrange(row * to..<row * to + from, with: stored[row * from..<(row + 1) * from])
      }
      try sink.put(padded.span.bytes, to: b)
    }
  }
}
