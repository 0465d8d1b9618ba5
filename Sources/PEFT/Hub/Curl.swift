internal import CLinux
internal import Glibc
internal import TensorFiles

/// Runs curl, Debian's, which does TLS, proxies and redirects; its checks of certificates stay on.
///
/// curl writes to pipes of this process only, and the kernel ends it with the thread that started it: nothing goes on
/// after a run is over, killed or interrupted.
enum Curl {
  /// What a run gave.
  struct Answer {
    /// curl's exit code; -1 if a signal ended it.
    let code: Int32
    /// The last answer's status; 0 if there was none.
    let status: Int
    /// The last answer's headers, names in lower case.
    let headers: [String: String]
    /// What curl says about a failure.
    let message: String
  }

  /// Why a run was ended from here.
  enum Stop: Error {
    case cancelled
    case notInstalled
    /// Too few bytes in too long a time.
    case stalled
    /// More bytes than wanted.
    case tooLong
    /// The bytes could not be kept.
    case receiver(TensorFileError)
  }

  /// What a run may take.
  struct Bounds {
    /// Bytes of a body.
    let bodyBytes: Int
    /// Seconds in which `stallBytes` must come.
    let stallSeconds: Double
    let stallBytes: Int
    /// Seconds in all; nil for a body that may take as long as it moves.
    let seconds: Double?
  }

  private static let headerLimit = 1 << 20

  /// Runs curl with settings on its standard input, where no other user of the machine can see them.
  ///
  /// - Parameter settings: lines of a curl configuration.
  /// - Parameter receive: given the body's bytes as they come.
  /// - Parameter tick: called some times a second while curl runs.
  static func run(
    _ settings: [String], bounds: Bounds, receive: (ArraySlice<UInt8>) throws(TensorFileError) -> Void,
    tick: () -> Void = {}
  ) throws(Stop) -> Answer {
    if Task.isCancelled { throw .cancelled }
    let names: [String] = ["curl", "--disable", "--config", "-"]
    var words: [UnsafeMutablePointer<CChar>?] = names.map { strdup($0) } + [nil]
    defer { for word in words { free(word) } }
    var ends: [Int32] = [-1, -1, -1]
    let child = linux_start(&words, &ends)
    guard child > 0 else { throw .notInstalled }
    var isOver = false
    defer {
      for end in ends where end >= 0 { close(end) }
      if !isOver {
        kill(child, SIGKILL)
        _ = wait(for: child)
      }
    }
    let common = ["silent", "show-error", "no-buffer", "suppress-connect-headers", "dump-header = /dev/stderr"]
    send(common + ["connect-timeout = 30", "proto-redir = \"=http,https\""] + settings, to: ends[0])
    close(ends[0])
    ends[0] = -1
    let error = try exchange(ends[1], ends[2], bounds, receive, tick)
    let status = wait(for: child)
    isOver = true
    let code = status & 0x7F == 0 ? (status >> 8) & 0xFF : -1
    if code == 127 { throw .notInstalled }
    return answer(code, String(decoding: error, as: UTF8.self))
  }

  private static func send(_ settings: [String], to socket: Int32) {
    let text = Array((settings.joined(separator: "\n") + "\n").utf8)
    var done = 0
    while done < text.count {
      let count = text[done...].withUnsafeBytes { linux_send(socket, $0.baseAddress, $0.count) }
      if count < 0 && errno == EINTR { continue }
      // A curl that has ended already says why on its standard error.
      guard count > 0 else { return }
      done += Int(count)
    }
  }

  private static func wait(for child: pid_t) -> Int32 {
    var status: Int32 = 0
    while waitpid(child, &status, 0) < 0 && errno == EINTR {}
    return status
  }

  /// Reads both pipes until curl has closed them. Returns what came by the second.
  private static func exchange(
    _ output: Int32, _ error: Int32, _ bounds: Bounds, _ receive: (ArraySlice<UInt8>) throws(TensorFileError) -> Void,
    _ tick: () -> Void
  ) throws(Stop) -> [UInt8] {
    var messages: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 1 << 16)
    var waiting = [
      pollfd(fd: output, events: Int16(POLLIN), revents: 0), pollfd(fd: error, events: Int16(POLLIN), revents: 0),
    ]
    var received = 0
    let started = seconds()
    var (mark, markTime) = (0, started)
    var lastTick = started
    while waiting.contains(where: { $0.fd >= 0 }) {
      if Task.isCancelled { throw .cancelled }
      poll(&waiting, 2, 100)
      let now = seconds()
      if now - lastTick >= 0.2 {
        tick()
        lastTick = now
      }
      if received - mark >= bounds.stallBytes { (mark, markTime) = (received, now) }
      if now - markTime > bounds.stallSeconds { throw .stalled }
      if let limit = bounds.seconds, now - started > limit { throw .stalled }
      for index in 0..<2 where waiting[index].fd >= 0 && waiting[index].revents != 0 {
        let count = read(waiting[index].fd, &buffer, buffer.count)
        if count < 0 && errno == EINTR { continue }
        guard count > 0 else {
          waiting[index].fd = -1
          continue
        }
        if index == 1 {
          messages += buffer[..<count]
          guard messages.count <= headerLimit else { throw .tooLong }
        } else {
          received += count
          guard received <= bounds.bodyBytes else { throw .tooLong }
          do throws(TensorFileError) { try receive(buffer[..<count]) } catch { throw .receiver(error) }
        }
      }
    }
    return messages
  }

  /// Takes headers and message apart. Of several answers, redirects before the last, the last counts.
  private static func answer(_ code: Int32, _ text: String) -> Answer {
    var (status, headers, message) = (0, [String: String](), "")
    for line in text.split(whereSeparator: \.isNewline) {
      if line.hasPrefix("HTTP/"), let number = line.split(separator: " ").dropFirst().first.flatMap({ Int($0) }) {
        (status, headers) = (number, [:])
      } else if line.hasPrefix("curl: ") {
        message = String(line.dropFirst(6))
      } else if let colon = line.firstIndex(of: ":") {
        headers[line[..<colon].lowercased()] = String(line[line.index(after: colon)...].drop { $0 == " " })
      }
    }
    return Answer(code: code, status: status, headers: headers, message: message)
  }

  /// Waits, unless the task is cancelled first.
  static func pause(_ length: Double) throws(Stop) {
    let end = seconds() + length
    while seconds() < end {
      if Task.isCancelled { throw .cancelled }
      usleep(UInt32(min(0.1, max(0, end - seconds())) * 1e6))
    }
    if Task.isCancelled { throw .cancelled }
  }

  private static func seconds() -> Double {
    var now = timespec()
    clock_gettime(CLOCK_MONOTONIC, &now)
    return Double(now.tv_sec) + Double(now.tv_nsec) * 1e-9
  }

  /// A value of a curl configuration, quoted.
  static func quoted(_ text: String) -> String {
    "\"" + text.replacing("\\", with: "\\\\").replacing("\"", with: "\\\"").replacing("\n", with: "\\n") + "\""
  }
}
