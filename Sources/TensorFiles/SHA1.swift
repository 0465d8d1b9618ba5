internal import CNettle

/// SHA-1, by Nettle: the digest by which git, and so a hub, names small files. It finds accidents; it does not withstand an
/// attack.
public struct SHA1 {
  private var context = sha1_ctx()

  /// A digest of nothing yet.
  public init() { nettle_sha1_init(&context) }

  /// Takes in more bytes.
  public mutating func add(_ bytes: RawSpan) {
    // Soundness: Nettle reads just the span's bytes.
    bytes.withUnsafeBytes { buffer in
      nettle_sha1_update(&context, buffer.count, buffer.baseAddress?.assumingMemoryBound(to: UInt8.self))
    }
  }

  /// The digest of all bytes so far, as 40 hexadecimal digits. The state begins anew.
  public mutating func finish() -> String {
    var digest = [UInt8](repeating: 0, count: Int(SHA1_DIGEST_SIZE))
    nettle_sha1_digest(&context, digest.count, &digest)
    return digest.map { $0 < 16 ? "0" + String($0, radix: 16) : String($0, radix: 16) }.joined()
  }
}
