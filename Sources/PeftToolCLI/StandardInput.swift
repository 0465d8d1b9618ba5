internal import Glibc

/// What comes over standard input.
enum StandardInput {
  /// True if a terminal is at its other end.
  static var isTerminal: Bool { isatty(0) == 1 }

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

/// Standard input line by line, as the lines come.
struct InputLines {
  private var bytes: [UInt8] = []
  private var searched = 0
  private var isAtEnd = false

  /// The next line without its end; nil when there is none.
  ///
  /// - Parameter interrupted: called when SIGINT comes while nothing is there; false ends the wait as a cancelled task does.
  /// Throws `CancellationError`, and `UsageError.badInput` for a line that is longer than `StandardInput.limit` or not UTF-8.
  mutating func next(interrupted: () -> Bool) throws -> String? {
    let stops = Interruption.stopCount
    var buffer = [UInt8](repeating: 0, count: 1 << 16)
    while true {
      if let end = bytes[searched...].firstIndex(of: 0x0A) {
        let line = bytes[..<end]
        defer { (bytes, searched) = (Array(bytes[(end + 1)...]), 0) }
        return try text(line)
      }
      searched = bytes.count
      if isAtEnd {
        defer { (bytes, searched) = ([], 0) }
        return bytes.isEmpty ? nil : try text(bytes[...])
      }
      if Task.isCancelled { throw CancellationError() }
      if Interruption.stopCount > stops {
        // The terminal forgot what was typed.
        (bytes, searched) = ([], 0)
        guard interrupted() else { throw CancellationError() }
        return ""
      }
      var wait = pollfd(fd: 0, events: Int16(POLLIN), revents: 0)
      guard poll(&wait, 1, 100) > 0 else { continue }
      let count = read(0, &buffer, buffer.count)
      if count < 0 && errno == EINTR { continue }
      if count <= 0 { isAtEnd = true } else { bytes += buffer[..<count] }
      guard bytes.count <= StandardInput.limit else {
        throw UsageError.badInput(expected: "lines of at most \(bytesText(StandardInput.limit))")
      }
    }
  }

  private func text(_ line: ArraySlice<UInt8>) throws(UsageError) -> String {
    guard var text = String(validating: line, as: UTF8.self) else { throw .badInput(expected: "UTF-8") }
    if text.hasSuffix("\r") { text.removeLast() }
    return text
  }
}
