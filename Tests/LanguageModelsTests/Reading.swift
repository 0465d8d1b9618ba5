import TensorFiles
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
