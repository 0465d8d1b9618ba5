internal import Glibc
internal import PEFT
internal import TensorFiles
internal import Training

/// `train --report`: one page that needs nothing else, written anew while the run goes on.
final class TrainingReport {
  /// A curve's points: step and value.
  private typealias Points = [(step: Int, value: Double)]

  private let path: String
  private let run: TrainingRun
  private let facts: [(String, String)]
  private let samples: TextSamples
  private var losses: Points = []
  private var rates: Points = []
  private var norms: Points = []
  private var speeds: Points = []
  private var evaluations: Points = []
  private var texts: [(step: Int, texts: [String])] = []
  private let started = Clock.seconds
  private var stepStarted = Clock.seconds
  private var written = 0.0
  private var isFinished = false

  /// Seconds from one writing to the next, at least.
  private static let interval = 2.0

  /// - Parameter lines: what the run begins with.
  /// Throws where the file exists and may not be replaced.
  init(
    path: String, replacing: Bool, run: TrainingRun, lines: [String],
    names: (base: String, config: String, data: String),
    samples: TextSamples
  ) throws {
    if !replacing, FileSystem.exists(path) { throw TrainingError.file(.outputExists(path: path)) }
    self.path = path
    self.run = run
    self.samples = samples
    let arguments = run.trainer.arguments
    facts =
      [
        ("base", names.base), ("adapter", names.config), ("records", names.data), ("output", run.output),
        ("learning rate", "\(arguments.learningRate)"),
        ("batch", "\(arguments.batchSize) × \(arguments.accumulationSteps)"), ("seed", "\(arguments.seed)"),
      ] + lines.enumerated().map { ($0.offset == 0 ? "parameters" : "run", $0.element) }
    for entry in run.log { take(entry) }
  }

  /// A point of what was logged before this run went on.
  private func take(_ entry: JSONValue) {
    guard let step = entry["step"]?.integerValue else { return }
    for (key, points) in [
      ("loss", \TrainingReport.losses), ("learning_rate", \.rates), ("grad_norm", \.norms),
      ("eval_loss", \.evaluations),
    ] {
      if let value = entry[key]?.numberValue { self[keyPath: points].append((step, value)) }
    }
  }

  /// Writes the first page, with what the adapter gives before it is trained.
  func begin(samplesFirst: Bool) throws {
    if samplesFirst { try sample(at: run.trainer.step) }
    try write()
    stepStarted = Clock.seconds
  }

  func add(_ event: TrainingRun.Event) throws {
    switch event {
    case .step(let step):
      let now = Clock.seconds
      losses.append((step.step, step.loss))
      rates.append((step.step, step.learningRate))
      norms.append((step.step, step.gradientNorm))
      speeds.append((step.step, Double(step.tokens) / max(now - stepStarted, 1e-9)))
      if now - written >= Self.interval { try write() }
    case .evaluation(let evaluation, _):
      evaluations.append((run.trainer.step, evaluation.loss))
      try sample(at: run.trainer.step)
      try write()
    case .log, .saved: break
    }
    stepStarted = Clock.seconds
  }

  /// Writes the last page.
  ///
  /// - Parameter evaluation: of the trained adapter, where there are records for one.
  func finish(_ evaluation: Evaluation?) throws {
    if let evaluation, evaluations.last?.step != run.trainer.step {
      evaluations.append((run.trainer.step, evaluation.loss))
    }
    if texts.last?.step != run.trainer.step { try sample(at: run.trainer.step) }
    isFinished = true
    try write()
  }

  private func sample(at step: Int) throws {
    guard !samples.prompts.isEmpty else { return }
    texts.append((step, try samples.texts(of: run)))
  }

  /// Puts the page in its place whole: a browser never reads half of one.
  private func write() throws {
    written = Clock.seconds
    let partial = path + ".partial"
    if FileSystem.exists(partial) { try FileSystem.remove(partial) }
    try FileSystem.makeDirectories(FileSystem.parentDirectory(path))
    try OpenFile.create(partial).write(html)
    try FileSystem.move(partial, to: path)
  }

  // MARK: The page

  private static let style = """
    body{font:14px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:70rem;padding:0 1rem;color:#1c1c1c}
    h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse}
    td,th{padding:.2rem .6rem;text-align:left;vertical-align:top}th{font-weight:600}
    svg{background:#fafafa;border:1px solid #ddd}svg text{font-size:11px;fill:#555}
    .samples td{white-space:pre-wrap;border-top:1px solid #ddd;max-width:40rem}
    """

  private var html: String {
    let title = "Training \(FileSystem.lastComponent(run.output))"
    let step = run.trainer.step
    let state =
      isFinished
      ? "finished at step \(step) of \(run.trainer.steps), in \(durationText(Clock.seconds - started))"
      : "step \(step) of \(run.trainer.steps), \(durationText(Clock.seconds - started)) so far"
    let reload = isFinished ? "" : "<meta http-equiv=\"refresh\" content=\"10\">"
    var rows = [("state", state)]
    if let best = run.bestCheckpoint { rows.append(("best checkpoint", best)) }
    rows += facts
    var body = "<table id=\"facts\">"
    for (name, value) in rows { body += "<tr><th>\(escaped(name))</th><td>\(escaped(value))</td></tr>" }
    body += "</table>\n<h2>Loss</h2>\n"
    body += chart("loss", losses, dots: evaluations, note: "Points are evaluations.")
    body += "<h2>Learning rate</h2>\n" + chart("rate", rates)
    body += "<h2>Gradient norm, before clipping</h2>\n" + chart("norm", norms)
    body += "<h2>Tokens a second</h2>\n" + chart("speed", speeds)
    if !texts.isEmpty { body += "<h2>Samples</h2>\n" + sampleTables }
    return """
      <!DOCTYPE html>
      <html lang="en"><head><meta charset="utf-8">\(reload)<title>\(escaped(title))</title><style>\(Self.style)</style></head><body>
      <h1>\(escaped(title))</h1>
      \(body)
      </body></html>

      """
  }

  private var sampleTables: String {
    samples.prompts.enumerated().map { index, prompt in
      let rows = texts.map { "<tr><th>step \($0.step)</th><td>\(escaped($0.texts[index]))</td></tr>" }
      return "<p><b>\(escaped(prompt))</b></p>\n<table class=\"samples\">\(rows.joined())</table>\n"
    }.joined()
  }

  /// At most a thousand points: stretches of more are their means.
  private func thinned(_ points: Points) -> Points {
    let size = (points.count + 999) / 1000
    guard size > 1 else { return points }
    return stride(from: 0, to: points.count, by: size).map { start in
      let part = points[start..<min(start + size, points.count)]
      return (part[part.endIndex - 1].step, part.reduce(0) { $0 + $1.value } / Double(part.count))
    }
  }

  private func chart(_ name: String, _ points: Points, dots: Points = [], note: String = "") -> String {
    let line = thinned(points.filter { $0.value.isFinite })
    let marks = thinned(dots.filter { $0.value.isFinite })
    let values = (line + marks).map(\.value)
    guard let least = values.min(), let greatest = values.max() else { return "<p>Nothing yet.</p>\n" }
    let (width, height, left, bottom) = (640.0, 220.0, 60.0, 20.0)
    let last = Double(max(run.trainer.steps, 1))
    let span = greatest > least ? greatest - least : max(abs(greatest), 1e-12)
    func place(_ point: (step: Int, value: Double)) -> (x: String, y: String) {
      let x = left + Double(point.step) / last * (width - left - 10)
      let y = 10 + (greatest - point.value) / span * (height - bottom - 20)
      return (fixed(x, 1), fixed(y, 1))
    }
    let path = line.map { point in
      let (x, y) = place(point)
      return "\(x),\(y)"
    }
    var svg = "<svg id=\"\(name)\" width=\"640\" height=\"220\" viewBox=\"0 0 640 220\" role=\"img\">"
    svg += "<text x=\"4\" y=\"16\">\(shown(greatest))</text>"
    svg += "<text x=\"4\" y=\"\(fixed(height - bottom - 4, 0))\">\(shown(least))</text>"
    svg += "<text x=\"\(fixed(left, 0))\" y=\"216\">0</text>"
    svg += "<text x=\"630\" y=\"216\" text-anchor=\"end\">step \(run.trainer.steps)</text>"
    svg += "<polyline fill=\"none\" stroke=\"#4062a8\" points=\"\(path.joined(separator: " "))\"/>"
    for mark in marks {
      let (x, y) = place(mark)
      svg += "<circle cx=\"\(x)\" cy=\"\(y)\" r=\"3.5\" fill=\"#b0521c\">"
      svg += "<title>step \(mark.step): \(shown(mark.value))</title></circle>"
    }
    let end = points.last.map { "Last: \(shown($0.value)). " } ?? ""
    return svg + "</svg>\n<p>\(end)\(note)</p>\n"
  }

  private func shown(_ value: Double) -> String {
    abs(value) < 0.01 ? "\(Float(value))" : numberText(value)
  }

  private func escaped(_ text: String) -> String {
    let page: HTML = "\(text, limit: 2000, keeping: ["\n", "\t"])"
    return page.markup
  }
}
