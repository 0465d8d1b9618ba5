internal import Glibc
internal import PEFT
internal import TensorFiles
internal import Training

/// `train --report`: one page that needs nothing else, written anew while the run goes on.
final class TrainingReport {
  private let path: String
  private let run: TrainingRun
  private let facts: [(String, String)]
  private let samples: TextSamples
  private var losses: StepChart.Points = []
  private var rates: StepChart.Points = []
  private var norms: StepChart.Points = []
  private var speeds: StepChart.Points = []
  private var evaluations: StepChart.Points = []
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
    try OpenFile.create(partial).write(page.html)
    try FileSystem.move(partial, to: path)
  }

  // MARK: The page

  private var page: Page {
    let (step, steps) = (run.trainer.step, run.trainer.steps)
    let time = durationText(Clock.seconds - started)
    var page = Page(
      title: "Training \(FileSystem.lastComponent(run.output))",
      verdict: Page.Verdict(
        tone: isFinished ? .good : .neutral,
        word: isFinished ? "finished at step \(step) of \(steps)" : "step \(step) of \(steps)",
        reasons: [isFinished ? "in \(time)" : "\(time) so far"]), figures: figures)
    if !isFinished { page.secondsToReload = 10 }
    func chart(
      _ name: String, _ id: String, _ points: StepChart.Points, marks: StepChart.Points = [], note: String = ""
    ) {
      page.add(
        name, id: "\(id)-curve",
        StepChart(id: id, name: name, steps: steps, points: points, marks: marks, note: note).html)
    }
    chart("Loss", "loss", losses, marks: evaluations, note: "Points are evaluations.")
    chart("Learning rate", "rate", rates)
    chart("Gradient norm, before clipping", "norm", norms)
    chart("Tokens a second", "speed", speeds)
    if !texts.isEmpty { page.add("Samples", id: "samples", sampleTables) }
    let best = run.bestCheckpoint.map { [["best checkpoint", $0]] } ?? []
    page.add("The run", id: "facts", Page.facts(best + facts.map { [$0.0, $0.1] }))
    return page
  }

  /// What the run has come to.
  private var figures: [Page.Figure] {
    var figures: [Page.Figure] = []
    if let loss = losses.last { figures.append(.init(value: fixed(loss.value, 4), name: "loss")) }
    if let evaluation = evaluations.last {
      figures.append(.init(value: fixed(evaluation.value, 4), name: "evaluation loss"))
    }
    if let speed = speeds.last { figures.append(.init(value: fixed(speed.value, 0), name: "tokens a second")) }
    return figures
  }

  private var sampleTables: HTML {
    var tables: HTML = ""
    for (index, prompt) in samples.prompts.enumerated() {
      let rows = texts.map { entry in
        """
        <tr><th scope="row">step \(entry.step)</th><td>\(entry.texts[index], limit: 2000, keeping: ["\n", "\t"])</td></tr>

        """ as HTML
      }
      tables += """
        <table class="texts"><caption>\(prompt, limit: 2000, keeping: ["\n", "\t"])</caption><tbody>\(rows)</tbody></table>

        """
    }
    return tables
  }
}
