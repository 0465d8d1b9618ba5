internal import PEFT
internal import Synchronization
internal import TensorFiles

/// How progress is shown on standard error.
enum Progress: String, Sendable { case bar, json, none }

/// Progress as a bar on a terminal's last line, or as JSON lines, at most ten times a second.
final class ProgressBar: Sendable {
  private let console: Console
  private let lastTenth = Atomic<Int>(-1)
  private let firstBytes = Atomic<Int>(-1)
  private let started = Clock.seconds

  init(_ console: Console) { self.console = console }

  /// - Parameter note: what stands beside the bar; bytes, rate and time left if not given.
  func update(done: Int, total: Int, text note: @autoclosure () -> String? = nil) {
    guard console.progress != .none && !console.isQuiet else { return }
    let now = Clock.seconds
    let tenth = Int(now * 10)
    let isLast = console.progress == .json && done >= total
    guard lastTenth.exchange(tenth, ordering: .relaxed) != tenth || isLast else { return }
    if console.progress == .json {
      let numbers: [JSONValue.Member] = [.init("done", .integer(done)), .init("total", .integer(total))]
      console.error(JSONValue.object([.init("progress", .object(numbers))]).compactText + "\n")
      return
    }
    if let note = note() {
      console.show(bar: Self.line(note, percent: total > 0 ? 100 * done / total : 100, width: console.width()))
      return
    }
    // What was there before, of a download that goes on, says nothing of the speed.
    let (isFirst, first) = firstBytes.compareExchange(expected: -1, desired: done, ordering: .relaxed)
    let rate = isFirst ? 0 : Double(done - first) / max(now - started, 1e-3)
    console.show(bar: Self.text(done: done, total: total, rate: rate, width: console.width()))
  }

  func finish() { console.clearBar() }

  /// A line of fewer than `width` characters: bar, bytes, rate and time left, or what of them there is space for.
  static func text(done: Int, total: Int, rate: Double, width: Int) -> String {
    let percent = total > 0 ? min(100, Int(Double(done) / Double(total) * 100)) : 100
    var parts = ["\(percent)%", "\(bytesText(done)) of \(bytesText(total))"]
    if rate > 0 {
      parts.append("\(bytesText(Int(rate)))/s")
      parts.append("\(timeText(Double(max(0, total - done)) / rate)) left")
    }
    while parts.count > 1 && parts.joined(separator: "  ").count >= width { parts.removeLast() }
    return line(parts.joined(separator: "  "), percent: percent, width: width)
  }

  private static func line(_ words: String, percent: Int, width: Int) -> String {
    let space = min(30, width - words.count - 4)
    guard space >= 5 else { return String(words.prefix(max(0, width - 1))) }
    let filled = space * percent / 100
    return "[" + String(repeating: "#", count: filled) + String(repeating: ".", count: space - filled) + "] " + words
  }

  /// "7 s", "2:05", "1:02:05".
  private static func timeText(_ seconds: Double) -> String {
    guard seconds < 360_000 else { return "days" }
    let whole = Int(seconds.rounded(.up))
    func two(_ number: Int) -> String { number < 10 ? "0\(number)" : "\(number)" }
    if whole < 60 { return "\(whole) s" }
    if whole < 3600 { return "\(whole / 60):\(two(whole % 60))" }
    return "\(whole / 3600):\(two(whole / 60 % 60)):\(two(whole % 60))"
  }
}
