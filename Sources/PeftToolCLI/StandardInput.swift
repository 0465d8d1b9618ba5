internal import Glibc

/// What comes over standard input.
enum StandardInput {
  /// More than this is no prompt.
  static let limit = 64 << 20

  /// All of it as text, without the newline at its end.
  ///
  /// Throws `UsageError.badInput` if it is longer than `limit` or not UTF-8.
  static func text() throws(UsageError) -> String {
    var bytes: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 1 << 16)
    while true {
      let count = read(0, &buffer, buffer.count)
      if count < 0 && errno == EINTR { continue }
      guard count > 0 else { break }
      bytes += buffer[..<count]
      guard bytes.count <= limit else { throw .badInput(expected: "at most \(bytesText(limit))") }
    }
    guard var text = String(validating: bytes, as: UTF8.self) else { throw .badInput(expected: "UTF-8") }
    if text.hasSuffix("\n") { text.removeLast() }
    return text
  }
}
