internal import CNettle

/// SHA-256, by Nettle, which uses the processor's instructions where it has them.
public struct SHA256 {
  private var context = sha256_ctx()

  public init() { nettle_sha256_init(&context) }

  /// Takes in more bytes.
  public mutating func add(_ bytes: RawSpan) {
    // Soundness: Nettle reads just the span's bytes.
    bytes.withUnsafeBytes { buffer in
      nettle_sha256_update(&context, buffer.count, buffer.baseAddress?.assumingMemoryBound(to: UInt8.self))
    }
  }

  /// Takes in text.
  public mutating func add(_ text: String) {
    let bytes = Array(text.utf8)
    add(bytes.span.bytes)
  }

  /// The digest of all bytes so far, as 64 hexadecimal digits. The state begins anew.
  public mutating func finish() -> String {
    var digest = [UInt8](repeating: 0, count: Int(SHA256_DIGEST_SIZE))
    nettle_sha256_digest(&context, digest.count, &digest)
    return digest.map { $0 < 16 ? "0" + String($0, radix: 16) : String($0, radix: 16) }.joined()
  }

  /// The digest of a whole file. Throws `.system`, `.shortRead`. Cost: reads it, 1 MiB at a time.
  public static func digest(of file: OpenFile) throws(TensorFileError) -> String {
    var hash = SHA256()
    let count = try file.byteCount()
    for start in stride(from: 0, to: count, by: 1 << 20) {
      let bytes = try file.bytes(start..<min(start + 1 << 20, count))
      hash.add(bytes.span.bytes)
    }
    return hash.finish()
  }
}
