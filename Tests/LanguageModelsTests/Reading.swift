import LanguageModels
import TensorFiles
import TensorMath
import TestSupport
import Testing

/// The 64-bit integers of a tensor.
func integers(_ file: Checkpoint, _ name: String) throws -> [Int] {
  let location = try #require(file[name])
  let bytes = try file.shards[location.shard].file.bytes(location.entry.byteRange)
  return bytes.withUnsafeBytes { raw in
    (0..<bytes.count / 8).map { raw.loadUnaligned(fromByteOffset: 8 * $0, as: Int.self) }
  }
}

/// The logits of tokens, a few at a time: no more than are multiplied by a bf16 weight without being rounded to bf16.
func logitsInSteps(_ model: PeftModel, _ tokens: [Int]) throws -> [Float] {
  let cache = model.makeCache()
  return try stride(from: 0, to: tokens.count, by: 3).flatMap { start in
    try model.logits(Array(tokens[start..<min(start + 3, tokens.count)]), cache: cache).values
  }
}
