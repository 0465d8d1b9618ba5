internal import Glibc
internal import Synchronization

/// Runs curl, Debian's, which does TLS, proxies and redirects; its checks of certificates stay on.
enum Curl {
  /// What a run gave.
  struct Answer {
    let code: Int32
    let output: String
    let error: String
  }

  /// Held while pipes are made and while a curl starts: one that inherits another's pipe keeps it open, and the other would wait for ever.
  private static let starting = Mutex<Void>(())

  /// Runs curl with settings on its standard input, where no other user of the machine can see them.
  ///
  /// - Parameter settings: lines of a curl configuration.
  /// - Parameter tick: called some times a second while curl runs.
  /// Returns nil if there is no curl.
  static func run(_ settings: [String], tick: () -> Void = {}) -> Answer? {
    var pipes = [[Int32](repeating: -1, count: 2), [Int32](repeating: -1, count: 2), [Int32](repeating: -1, count: 2)]
    let isOpen = starting.withLock { _ in
      for index in 0..<3 { guard pipe(&pipes[index]) == 0 else { return false } }
      for descriptor in pipes.flatMap({ $0 }) { _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC) }
      return true
    }
    guard isOpen else { return nil }
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_adddup2(&actions, pipes[0][0], 0)
    posix_spawn_file_actions_adddup2(&actions, pipes[1][1], 1)
    posix_spawn_file_actions_adddup2(&actions, pipes[2][1], 2)
    for descriptor in pipes.flatMap({ $0 }) where descriptor > 2 {
      posix_spawn_file_actions_addclose(&actions, descriptor)
    }
    let names: [String] = ["curl", "--disable", "--config", "-"]
    var words: [UnsafeMutablePointer<CChar>?] = names.map { strdup($0) } + [nil]
    defer { for word in words { free(word) } }
    var child = pid_t()
    let started = starting.withLock { _ in posix_spawnp(&child, "curl", &actions, nil, &words, environ) }
    close(pipes[0][0])
    close(pipes[1][1])
    close(pipes[2][1])
    defer {
      close(pipes[1][0])
      close(pipes[2][0])
    }
    guard started == 0 else {
      close(pipes[0][1])
      return nil
    }
    let text = Array((settings.joined(separator: "\n") + "\n").utf8)
    // A configuration is shorter than a pipe's buffer.
    _ = text.withUnsafeBytes { write(pipes[0][1], $0.baseAddress, $0.count) }
    close(pipes[0][1])
    let output = everything(from: pipes[1][0], tick)
    let error = everything(from: pipes[2][0], tick)
    var status: Int32 = 0
    while waitpid(child, &status, 0) < 0 && errno == EINTR {}
    return Answer(code: status & 0x7F == 0 ? (status >> 8) & 0xFF : -1, output: output, error: error)
  }

  private static func everything(from descriptor: Int32, _ tick: () -> Void) -> String {
    var bytes: [UInt8] = []
    var buffer = [UInt8](repeating: 0, count: 1 << 16)
    while true {
      var waiting = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
      let ready = poll(&waiting, 1, 200)
      if ready == 0 || (ready < 0 && errno == EINTR) {
        tick()
        continue
      }
      let count = read(descriptor, &buffer, buffer.count)
      if count < 0 && errno == EINTR { continue }
      guard count > 0, bytes.count < 64 << 20 else { break }
      bytes += buffer[..<count]
    }
    return String(decoding: bytes, as: UTF8.self)
  }

  /// A value of a curl configuration, quoted.
  static func quoted(_ text: String) -> String {
    "\"" + text.replacing("\\", with: "\\\\").replacing("\"", with: "\\\"").replacing("\n", with: "\\n") + "\""
  }
}
