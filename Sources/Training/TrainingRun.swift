public import PEFT
public import TensorFiles
internal import TensorMath

/// A run in a directory: steps with logs, evaluations and checkpoints, as transformers' Trainer has them.
///
/// Source: transformers/trainer.py `Trainer._maybe_log_save_evaluate`, `_save_checkpoint`, `_finalize_training`.
public final class TrainingRun {
  /// What happens in a run.
  public enum Event {
    case step(TrainingStep)
    /// An entry of `log_history`.
    case log(JSONValue)
    case evaluation(Evaluation, JSONValue)
    /// A checkpoint's directory.
    case saved(String)
  }

  public let trainer: Trainer
  /// The directory with the checkpoints and, at the end, the adapter.
  public let output: String
  let config: PeftConfig
  let identity: RunIdentity
  let plan: EventPlan
  var history = RunHistory()
  private let held: [TrainingRecord]
  /// Operations of a token forwards and backwards, as transformers counts them.
  private let operations: Double
  private var epoch = 0.0
  private var savedStep: Int?

  /// - Parameter base: `BaseModel.fingerprint` of the model.
  /// - Parameter held: records of evaluation; empty for none.
  /// - Parameter parameters: the model's parameters and the adapter's, without embeddings.
  /// Throws `.contradiction`.
  public init(
    _ trainer: Trainer, held: [TrainingRecord], output: String, config: PeftConfig, base: String, parameters: Int
  ) throws(TrainingError) {
    self.trainer = trainer
    self.held = held
    self.output = output
    self.config = config
    identity = RunIdentity(
      base: base, records: trainer.records, config: config.fileText, padsLeft: trainer.padsLeft)
    plan = try EventPlan(trainer.arguments, steps: trainer.steps, evaluates: !held.isEmpty)
    operations = 6 * Double(parameters)
  }

  /// Entries of `log_history` so far.
  public var log: [JSONValue] { history.log }

  /// The adapter as it is now, in memory. Throws `.model` with `.adapter`.
  public func adapter() throws(TrainingError) -> StoredAdapter { try trainer.model.adapter(config: config) }

  /// The newest checkpoint of the run's directory, as rank 0 sees it.
  public var newestCheckpoint: String? {
    let path = trainer.ranks.shared(TrainingCheckpoint.all(in: output).last?.path ?? "")
    return path.isEmpty ? nil : path
  }

  /// Checks that all ranks have the same base, records, configuration and settings. Throws `.otherRank`.
  public func checkRanks() throws(TrainingError) {
    guard !trainer.ranks.isAlone else { return }
    let text = JSONValue.object([
      .init("identity", identity.json), .init("arguments", trainer.arguments.json),
    ]).compactText
    let others = trainer.ranks.gather(Array(text.utf8)).map { JSONValue(parsing: String(decoding: $0, as: UTF8.self)) }
    for (rank, other) in others.enumerated() where other != others[0] {
      throw .otherRank(rank: rank, what: RunIdentity.firstDifference(others[0], other))
    }
  }

  /// Goes on from a checkpoint of this run: its parameters, moments, generator and history.
  ///
  /// Throws `.badCheckpoint`, `.otherRun` with what differs, `.file`.
  public func resume(from path: String) throws(TrainingError) {
    epoch = try restore(path)
    savedStep = trainer.step
  }

  /// Trains to the last step.
  ///
  /// - Parameter report: gets each event; false after a step writes a checkpoint and ends the run.
  /// Throws `.notFinite` with the newest checkpoint, `.interrupted`, `.file`, and what `report` throws.
  public func run(_ report: (Event) throws -> Bool) throws {
    let started = ContinuousClock.now
    let first = trainer.step
    do {
      try trainer.run { step in
        var goesOn = try report(.step(step))
        goesOn = trainer.ranks.allAgree(try after(step, report) && goesOn)
        guard goesOn || step.step == trainer.steps else {
          if savedStep != step.step { goesOn = try save(report) && goesOn }
          throw TrainingError.interrupted(
            step: step.step, steps: trainer.steps, checkpoint: TrainingCheckpoint(step: step.step, of: output).path)
        }
        return true
      }
    } catch TrainingError.notFinite(let step, let what, _) {
      throw TrainingError.notFinite(step: step, what: what, checkpoint: newestCheckpoint)
    }
    try summarise(seconds: (ContinuousClock.now - started) / .seconds(1), steps: trainer.step - first)
  }

  private func after(_ step: TrainingStep, _ report: (Event) throws -> Bool) throws -> Bool {
    epoch = step.epoch
    history.lossSinceLog += step.loss
    history.operations += operations * Double(step.paddedTokens)
    var (goesOn, isBest) = (true, false)
    if plan.logs(step) {
      let count = Double(max(1, step.step - history.loggedStep))
      let entry = history.add(
        [
          .init("loss", .number(history.lossSinceLog / count)), .init("grad_norm", .number(step.gradientNorm)),
          .init("learning_rate", .number(step.learningRate)),
        ], step.step, step.epoch)
      history.lossBefore += history.lossSinceLog
      (history.lossSinceLog, history.loggedStep) = (0, step.step)
      goesOn = try report(.log(entry)) && goesOn
    }
    if plan.evaluates(step) {
      let (evaluation, entry) = evaluate(step)
      isBest = isNewBest(entry, step)
      goesOn = try report(.evaluation(evaluation, entry)) && goesOn
    }
    if plan.saves(step, isBest: isBest) { goesOn = try save(report) && goesOn }
    return goesOn
  }

  private func evaluate(_ step: TrainingStep) -> (Evaluation, JSONValue) {
    // The iterator over the records draws a seed, as that of an epoch does.
    trainer.model.generator.skip(words: 2)
    let started = ContinuousClock.now
    let evaluation = trainer.evaluate(held)
    let seconds = max((ContinuousClock.now - started) / .seconds(1), 1e-9)
    let batches = (held.count + trainer.arguments.evaluationBatchSize - 1) / trainer.arguments.evaluationBatchSize
    let entry = history.add(
      [
        .init("eval_loss", .number(evaluation.loss)), .init("eval_nll_per_token", .number(evaluation.lossPerToken)),
        .init("eval_runtime", .number(rounded(seconds, 4))),
        .init("eval_samples_per_second", .number(rounded(Double(held.count) / seconds, 3))),
        .init("eval_steps_per_second", .number(rounded(Double(batches) / seconds, 3))),
      ], step.step, step.epoch)
    return (evaluation, entry)
  }

  private func isNewBest(_ entry: JSONValue, _ step: TrainingStep) -> Bool {
    guard let metric = plan.bestMetric, let value = entry[metric.name]?.numberValue else { return false }
    if let best = history.bestMetric, metric.greaterIsBetter ? value <= best : value >= best { return false }
    guard value.isFinite else { return false }
    history.bestMetric = value
    if trainer.arguments.saveInterval != .no { history.bestStep = step.step }
    return true
  }

  /// Checks that all ranks still have the same parameters: those of processors that compute other bits drift apart. Throws `.otherRank`.
  private func checkParameters() throws(TrainingError) {
    guard !trainer.ranks.isAlone else { return }
    var hash = SHA256()
    hash.add(trainer.model.parameters.values.values.span.bytes)
    let digests = trainer.ranks.gather(Array(hash.finish().utf8))
    if let rank = digests.firstIndex(where: { $0 != digests[0] }) {
      throw .otherRank(rank: rank, what: "what its processor computed of the same gradients")
    }
  }

  private func save(_ report: (Event) throws -> Bool) throws -> Bool {
    try checkParameters()
    let checkpoint = TrainingCheckpoint(step: trainer.step, of: output)
    if let step = history.bestStep {
      let best = TrainingCheckpoint(step: step, of: output)
      if best == checkpoint || FileSystem.kind(best.path) == .directory { history.bestCheckpoint = best.path }
    }
    savedStep = trainer.step
    // Nobody goes on before it is there.
    defer { trainer.ranks.wait() }
    guard trainer.ranks.isFirst else { return try report(.saved(checkpoint.path)) }
    try write(checkpoint, epoch: epoch)
    do throws(TensorFileError) {
      try TrainingCheckpoint.rotate(
        in: output, limit: trainer.arguments.saveLimit, best: history.bestCheckpoint)
    } catch { throw TrainingError.file(error) }
    return try report(.saved(checkpoint.path))
  }

  private func summarise(seconds: Double, steps: Int) throws {
    guard steps > 0 else { return }
    let loss = (history.lossBefore + history.lossSinceLog) / Double(trainer.steps)
    let records = trainer.order.lengths.count * trainer.epochs
    let seconds = max(seconds, 1e-9)
    _ = history.add(
      [
        .init("train_runtime", .number(rounded(seconds, 4))),
        .init(
          "train_samples_per_second",
          .number(rounded(Double(records) * Double(steps) / Double(trainer.steps) / seconds, 3))),
        .init("train_steps_per_second", .number(rounded(Double(steps) / seconds, 3))),
        .init("total_flos", .number(history.operations)), .init("train_loss", .number(loss)),
      ], trainer.step, epoch)
    guard trainer.arguments.loadsBest, let best = history.bestCheckpoint else { return }
    try loadParameters(best)
    trainer.ranks.wait()
    guard trainer.arguments.saveLimit == 1, trainer.ranks.isFirst else { return }
    do throws(TensorFileError) {
      for checkpoint in TrainingCheckpoint.all(in: output) where checkpoint.path != best { try checkpoint.remove() }
    } catch { throw TrainingError.file(error) }
  }

  /// The best checkpoint, whose adapter the run ends with; nil where the last step's is meant.
  public var bestCheckpoint: String? { trainer.arguments.loadsBest ? history.bestCheckpoint : nil }

  /// Writes the trained adapter and trainer_state.json to the run's directory. Of several ranks the first does.
  ///
  /// Throws `.file`.
  public func finish() throws(TrainingError) {
    try checkParameters()
    guard trainer.ranks.isFirst else { return }
    let text = history.text(plan, trainer, epoch: epoch, saves: false)
    let write = { [self] (directory: OutputDirectory) throws(TensorFileError) in
      try trainer.model.write(to: directory, config: config)
      try OpenFile.create(directory.path(TrainingCheckpoint.stateName)).write(text)
    }
    guard FileSystem.kind(output) == .directory else {
      return try writeDirectory(output, replacing: false, write)
    }
    // Beside checkpoints: each file appears whole, the configuration, which makes an adapter of them, as the last.
    let made = FileSystem.join(output, ".adapter")
    try writeDirectory(made, replacing: true, write)
    do throws(TensorFileError) {
      let names = try FileSystem.names(in: made).filter { $0 != PeftConfig.fileName } + [PeftConfig.fileName]
      for name in names { try FileSystem.move(FileSystem.join(made, name), to: FileSystem.join(output, name)) }
      try FileSystem.remove(made)
    } catch { throw .file(error) }
  }
}

/// A figure with so many decimals, as Python's `round` gives it.
private func rounded(_ value: Double, _ decimals: Int) -> Double {
  let scale = decimals == 4 ? 1e4 : 1e3
  return (value * scale).rounded(.toNearestOrEven) / scale
}
