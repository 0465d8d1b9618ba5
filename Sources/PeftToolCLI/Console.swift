internal import Glibc
internal import PEFT
internal import Synchronization
internal import TensorFiles
internal import Training

/// Where a command's words go: the answer to standard output, everything else to standard error.
public struct Console: Sendable {
  /// Writes to standard output.
  let output: @Sendable (String) -> Void
  /// Writes to standard error.
  let error: @Sendable (String) -> Void
  /// How progress is shown on standard error.
  var progress: Progress
  /// True if standard error is a terminal.
  private let isTerminal: Bool
  /// The terminal's columns now.
  let width: @Sendable () -> Int
  /// Shared by all copies: true while a bar stands on the terminal's last line.
  private let bar = BarLine()
  /// True if standard output is a terminal.
  let writesToTerminal: Bool
  /// True if `--quiet` was given.
  var isQuiet = false
  /// Those who run the command together; the first of them speaks.
  var ranks: any Ranks = OneRank()

  /// A console of one's own, for tests.
  public init(
    output: @escaping @Sendable (String) -> Void, error: @escaping @Sendable (String) -> Void,
    showsProgress: Bool = false, writesToTerminal: Bool = false,
    width: @escaping @Sendable () -> Int = { 80 }
  ) {
    self.output = output
    self.error = error
    self.width = width
    self.writesToTerminal = writesToTerminal
    isTerminal = showsProgress
    progress = showsProgress ? .bar : .none
  }

  /// One of several ranks: all but the first say nothing.
  func speaking(for ranks: any Ranks) -> Console {
    var console = ranks.isFirst ? self : Console(output: { _ in }, error: { _ in })
    console.ranks = ranks
    return console
  }

  /// The process's own streams. A closed standard output ends the process with code 0: the reader has seen enough.
  public static var standard: Console {
    signal(SIGPIPE, SIG_IGN)
    return Console(
      output: { text in write(text, to: 1) }, error: { text in write(text, to: 2) },
      showsProgress: isatty(2) == 1 && getenv("TERM").map { String(cString: $0) } != "dumb",
      writesToTerminal: isatty(1) == 1,
      width: {
        var size = winsize()
        return ioctl(2, UInt(TIOCGWINSZ), &size) == 0 && size.ws_col > 0 ? Int(size.ws_col) : 80
      })
  }

  private static func write(_ text: String, to descriptor: Int32) {
    let bytes = Array(text.utf8)
    var done = 0
    while done < bytes.count {
      // Soundness: the count never reaches past the array.
      let count = bytes.withUnsafeBytes { Glibc.write(descriptor, $0.baseAddress! + done, bytes.count - done) }
      if count < 0 && errno == EINTR { continue }
      if count < 0 && errno == EPIPE && descriptor == 1 { exit(0) }
      // Standard output on a full disk must not look like success.
      if count < 0 && descriptor == 1 {
        write("peft-tool: cannot write to standard output: \(String(cString: strerror(errno)))\n", to: 2)
        exit(2)
      }
      guard count > 0 else { return }
      done += count
    }
  }

  /// A line of the answer for people.
  func line(_ text: String) {
    clearBar()
    output(printable(text, limit: .max) + "\n")
  }

  /// A line for people about what was done, where the answer is a file; not with `--quiet`.
  func report(_ text: String) { if !isQuiet { line(text) } }

  /// A piece of a model's text: as it is into a file or a pipe, fit for a terminal on one. Lines and tabs stay what they are, and so
  /// do the joiners that scripts and emoji are written with.
  func modelText(_ text: String) {
    output(writesToTerminal ? printable(text, limit: .max, keeping: ["\n", "\t", "\u{200C}", "\u{200D}"]) : text)
  }

  /// The answer for machines, on one line.
  func json(_ value: JSONValue) { output(value.compactText + "\n") }

  /// A line of what is going on; not with `--quiet`.
  func note(_ text: String) {
    guard !isQuiet else { return }
    clearBar()
    error(text + "\n")
  }

  /// A line that says what failed.
  func failure(_ text: String) {
    clearBar()
    error("peft-tool: \(printable(text))\n")
  }

  /// Draws a bar over the terminal's last line.
  func show(bar text: String) {
    bar.isShown.store(true, ordering: .relaxed)
    error("\r\(text)\u{1B}[K")
  }

  /// Takes the bar away, so that a line can stand in its place.
  func clearBar() {
    if bar.isShown.exchange(false, ordering: .relaxed) { error("\r\u{1B}[K") }
  }

  /// After Ctrl-C, which the terminal shows where the cursor is: what follows has a line of its own.
  func beginLine() {
    guard isTerminal else { return }
    bar.isShown.store(false, ordering: .relaxed)
    error("\n")
  }
}

/// Whether a bar stands on the terminal's last line.
private final class BarLine: Sendable {
  let isShown = Atomic<Bool>(false)
}

/// What is said of downloads: a line a file, and a bar on a terminal while it comes.
final class DownloadLines {
  private let console: Console
  private let bar: ProgressBar
  private var file = ""
  private var isWaiting = false

  init(_ console: Console) {
    self.console = console
    bar = ProgressBar(console)
  }

  func update(_ progress: HubProgress) {
    let name = "\(progress.repository) \(progress.file)"
    switch progress.state {
    case .transferring: isWaiting = false
    case .waiting:
      if !isWaiting { console.note("waiting for another download of \(name)") }
      isWaiting = true
      return
    case .retrying(let seconds, let reason):
      bar.finish()
      console.note("\(reason); trying again in \(fixed(seconds, 0)) s")
      return
    case .usingCache(let reason):
      bar.finish()
      console.note("note: \(reason) What the cache holds of it is used: \(progress.file)")
      return
    }
    if name != file {
      file = name
      console.note("downloading \(name)" + (progress.totalBytes.map { " (\(bytesText($0)))" } ?? ""))
    }
    guard let total = progress.totalBytes else { return }
    if progress.doneBytes < total { bar.update(done: progress.doneBytes, total: total) } else { bar.finish() }
  }
}

/// Time since an arbitrary moment.
enum Clock {
  static var seconds: Double {
    var now = timespec()
    clock_gettime(CLOCK_MONOTONIC, &now)
    return Double(now.tv_sec) + Double(now.tv_nsec) * 1e-9
  }
}

/// The process's greatest resident set so far, in bytes. The kernel's VmHWM, because getrusage counts what the program
/// that started this one held.
var peakResidentBytes: Int {
  guard let file = fopen("/proc/self/status", "r") else { return 0 }
  defer { fclose(file) }
  var line = [CChar](repeating: 0, count: 256)
  while fgets(&line, Int32(line.count), file) != nil {
    let text = String(decoding: line.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    guard text.hasPrefix("VmHWM:") else { continue }
    return (Int(text.filter(\.isNumber)) ?? 0) << 10
  }
  return 0
}

/// Text from files made fit for a terminal: control characters as escapes but for `keeping`, and no more than `limit` characters.
func printable(_ text: String, limit: Int = 2000, keeping kept: Set<Unicode.Scalar> = []) -> String {
  // Most text needs no look at Unicode's tables.
  if text.utf8.count <= limit, text.utf8.allSatisfy({ (0x20..<0x7F).contains($0) }) { return text }
  var result = ""
  for (index, scalar) in text.unicodeScalars.enumerated() {
    if index == limit { return result + "…" }
    let category = scalar.properties.generalCategory
    if (category == .control || category == .format) && !kept.contains(scalar) {
      result += "\\u{\(String(scalar.value, radix: 16))}"
    } else {
      result.unicodeScalars.append(scalar)
    }
  }
  return result
}
