internal import PEFT
internal import TensorFiles
internal import Training

/// What is said of a run while it goes on: a line a log, or a bar on a terminal.
final class TrainingLines {
  private let console: Console
  private let steps: Int
  private let first: Int
  private let bar: ProgressBar
  private let started = Clock.seconds
  private(set) var loss = 0.0
  private(set) var tokens = 0
  private var step: Int

  init(_ console: Console, first: Int, steps: Int) {
    self.console = console
    self.first = first
    self.steps = steps
    step = first
    bar = ProgressBar(console)
  }

  var seconds: Double { Clock.seconds - started }

  private var speed: Double { Double(tokens) / max(seconds, 1e-9) }

  /// Time that the steps left take at the speed so far.
  private var secondsLeft: Double { seconds / Double(max(1, step - first)) * Double(steps - step) }

  func show(_ event: TrainingRun.Event) {
    switch event {
    case .step(let step):
      (self.step, loss, tokens) = (step.step, step.loss, tokens + step.tokens)
      if console.progress != .none {
        bar.update(
          done: step.step, total: steps,
          text: "step \(step.step)/\(steps) loss \(fixed(loss, 4)) \(fixed(speed, 1)) tokens/s "
            + "\(durationText(secondsLeft)) left")
      } else {
        console.note(
          "step \(step.step)/\(steps) loss \(fixed(step.loss, 4)) norm \(fixed(step.gradientNorm, 3)) "
            + "rate \(step.learningRate) \(fixed(speed, 1)) tokens/s")
      }
    case .log(let entry):
      guard console.progress != .none, let loss = entry["loss"]?.numberValue else { return }
      say("step \(step): loss \(fixed(loss, 4)) rate \(entry["learning_rate"]?.compactText ?? "")")
    case .evaluation(let evaluation, _):
      say(
        "step \(step): evaluation loss \(fixed(evaluation.loss, 4)), for a token \(fixed(evaluation.lossPerToken, 4))")
    case .saved(let path): say("wrote \(path)")
    }
  }

  private func say(_ text: String) {
    bar.finish()
    console.note(text)
  }

  func finish() { bar.finish() }
}

/// A stretch of time for people: "4 s", "2 min 5 s", "3 h 20 min".
func durationText(_ seconds: Double) -> String {
  guard seconds.isFinite, seconds < 1e9 else { return "very long" }
  let whole = Int(seconds.rounded())
  if whole < 60 { return "\(whole) s" }
  if whole < 3600 { return "\(whole / 60) min \(whole % 60) s" }
  return "\(grouped(whole / 3600)) h \(whole % 3600 / 60) min"
}

/// The file of `--log`: a JSON document a line.
final class TrainingLog {
  private let file: OpenFile
  private var written = 0

  /// Makes the file and the directories above it; with steps done before, keeps what they wrote.
  ///
  /// Throws if it exists and nothing is gone on from, or cannot be written.
  init(path: String, goingOnFrom step: Int) throws {
    try FileSystem.makeDirectories(FileSystem.parentDirectory(path))
    guard step > 0, FileSystem.kind(path) == .file else {
      file = try OpenFile.create(path)
      return
    }
    let kept = try FileSystem.text(path).split(separator: "\n").filter {
      // A line that a killed run left unfinished is none.
      (JSONValue(parsing: String($0))?["step"]?.integerValue ?? .max) <= step
    }
    let text = kept.map { $0 + "\n" }.joined()
    let made = path + ".partial"
    if FileSystem.exists(made) { try FileSystem.remove(made) }
    file = try OpenFile.create(made)
    try file.write(text)
    try FileSystem.move(made, to: path)
    written = text.utf8.count
  }

  func add(_ event: TrainingRun.Event) throws {
    let json: JSONValue
    switch event {
    case .step(let step):
      json = .object([
        .init("step", .integer(step.step)), .init("epoch", .number(step.epoch)), .init("loss", .number(step.loss)),
        .init("grad_norm", .number(step.gradientNorm)), .init("learning_rate", .number(step.learningRate)),
        .init("tokens", .integer(step.tokens)),
      ])
    case .evaluation(_, let entry): json = entry
    case .log, .saved: return
    }
    let line = Array((json.compactText + "\n").utf8)
    try file.write(line.span.bytes, at: written)
    written += line.count
  }
}
