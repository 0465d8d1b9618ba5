import LanguageModels
import PEFT
import TensorFiles
import TensorMath
import TestSupport
import Testing

@testable import Training

/// Logs, evaluations, checkpoints, and going on from them.
@Suite struct CheckpointTests {
  private static let events = RecordedRun(name: "events")

  /// The recorded run in a directory of its own.
  private func run(
    _ recorded: RecordedRun = events, in output: String, _ change: (inout TrainingArguments) -> Void = { _ in }
  ) throws -> TrainingRun {
    let trainer = try recorded.trainer(change)
    let base = try CausalLanguageModel(directory: Fixtures.path("training/bases/llama"))
    return try TrainingRun(
      trainer, held: Array(try RecordedRun.records().prefix(5)), output: output,
      config: PeftConfig.load(directory: "\(recorded.directory)/before"), base: try base.base.fingerprint(),
      parameters: base.parameterCount - base.embeddingParameterCount + trainer.model.parameters.count)
  }

  /// Whether two documents have the same keys, in order, and the same values up to a tolerance; times are not compared.
  private func agrees(_ found: JSONValue?, _ expected: JSONValue?, _ place: String) -> [String] {
    let key = place.split(separator: ".").last.map(String.init) ?? ""
    if key.hasSuffix("_runtime") || key.hasSuffix("_per_second") { return [] }
    switch (found, expected) {
    case (.object(let first)?, .object(let second)?):
      let first = first.filter { $0.key != "eval_nll_per_token" }
      guard first.map(\.key) == second.map(\.key) else { return ["\(place): \(first.map(\.key)) \(second.map(\.key))"] }
      return zip(first, second).flatMap { agrees($0.value, $1.value, "\(place).\($0.key)") }
    case (.array(let first)?, .array(let second)?):
      guard first.count == second.count else { return ["\(place): \(first.count) against \(second.count)"] }
      return zip(first, second).enumerated().flatMap { agrees($1.0, $1.1, "\(place).\($0)") }
    case (.number(let first)?, .number(let second)?):
      let tolerance = key == "grad_norm" ? 1e-3 : 1e-5
      return abs(first - second) <= tolerance * max(1, abs(second)) ? [] : ["\(place): \(first) \(second)"]
    default: return found == expected ? [] : ["\(place): \(String(describing: found)) \(String(describing: expected))"]
    }
  }

  @Test(arguments: ["events", "events-epochs"])
  func trainerStateIsWhatTransformersWrites(name: String) throws {
    let scratch = try ScratchDirectory()
    let recorded = RecordedRun(name: name)
    let run = try run(recorded, in: scratch("out"))
    let expected = try FileSystem.names(in: recorded.directory).filter { $0.hasPrefix("trainer_state-") }
    var found: [String] = []
    try run.run { event in
      guard case .saved(let path) = event else { return true }
      let name = "trainer_state-\(run.trainer.step).json"
      found.append(name)
      let text = try FileSystem.text("\(path)/trainer_state.json").replacing(scratch("out"), with: "OUT")
      let json = try JSONValue(contentsOf: "\(recorded.directory)/\(name)")
      #expect(agrees(JSONValue(parsing: text), json, name) == [])
      // The layout: transformers' own document, read and written again, is the file to the byte.
      #expect(json.pythonText(sortedKeys: true) + "\n" == (try FileSystem.text("\(recorded.directory)/\(name)")))
      return true
    }
    #expect(found.sorted() == expected)
    let json = try recorded.json()
    let left = TrainingCheckpoint.all(in: scratch("out")).map { FileSystem.lastComponent($0.path) }
    #expect(left == json["left"]?.elements?.compactMap(\.stringValue))
    #expect(run.history.bestCheckpoint.map(FileSystem.lastComponent) == json["best"]?.stringValue)
    #expect(agrees(.array(run.history.log), json["history"].map(sorted), "history") == [])
    try run.finish()
    for (name, values) in try recorded.tensors("after/adapter_model.safetensors") {
      #expect(relativeError(run.trainer.model.parameters.values(of: name), values) < 1e-4, "\(name)")
    }
    let saved = try StoredAdapter(directory: scratch("out"))
    #expect(saved.weights.entries.count == run.trainer.model.parameters.entries.count)
  }

  /// As transformers' own file sorts the keys of what it holds in memory unsorted.
  private func sorted(_ json: JSONValue) -> JSONValue {
    JSONValue(parsing: json.pythonText(sortedKeys: false)).map { value in
      guard case .array(let entries) = value else { return value }
      let order = ["loss", "grad_norm", "learning_rate", "eval_loss", "eval_runtime", "eval_samples_per_second"]
      return .array(
        entries.map { entry in
          .object(
            (entry.members ?? []).sorted { left, right in
              let place = { (key: String) in
                order.firstIndex(of: key) ?? (key == "step" ? 100 : key == "epoch" ? 99 : 50)
              }
              return place(left.key) < place(right.key)
            })
        })
    } ?? json
  }

  @Test(arguments: 1..<20)
  func aRunThatWentOnEqualsOneNeverStopped(stop: Int) throws {
    let scratch = try ScratchDirectory()
    let change: (inout TrainingArguments) -> Void = {
      $0.saveSteps = 1
      $0.saveInterval = .steps
      $0.evaluationSteps = 1
      $0.saveLimit = 2
      $0.sampling = stop % 2 == 0 ? .groupByLength : .random
      $0.neftuneAlpha = 1
    }
    let whole = try run(in: scratch("whole"), change)
    try whole.run { _ in true }
    let first = try run(in: scratch("out"), change)
    #expect(throws: TrainingError.self) {
      try first.run { event in
        if case .step(let step) = event { step.step < stop } else { true }
      }
    }
    let second = try run(in: scratch("out"), change)
    try second.resume(from: try #require(second.newestCheckpoint))
    #expect(second.trainer.step == stop)
    try second.run { _ in true }
    let parameters = second.trainer.model.parameters
    for (own, other) in zip(parameters.states, whole.trainer.model.parameters.states) {
      #expect(own.all.values == other.all.values, "\(own.name)")
    }
    #expect(second.trainer.model.generator == whole.trainer.model.generator)
    let logged = { (run: TrainingRun) in
      run.history.log.compactMap { $0["loss"] ?? $0["eval_loss"] ?? $0["train_loss"] }
    }
    #expect(logged(second) == logged(whole))
    for run in [whole, second] { try run.finish() }
    #expect(
      try contents(scratch("whole/adapter_model.safetensors")) == contents(scratch("out/adapter_model.safetensors")))
  }

  @Test(
    arguments: ["llama-adalora", "llama-adalora-dropout", "llama-p-tuning", "llama-loha-dropout"], [2, 5, 8, 13, 17])
  func aRunOfAMethodWithAStateOfItsOwnGoesOnToTheSameBits(name: String, stop: Int) throws {
    let scratch = try ScratchDirectory()
    let recorded = RecordedRun(name: name)
    let change: (inout TrainingArguments) -> Void = {
      $0.saveSteps = 1
      $0.saveInterval = .steps
      $0.saveLimit = 1
    }
    let whole = try run(recorded, in: scratch("whole"), change)
    let stop = min(stop, whole.trainer.steps - 1)
    try whole.run { _ in true }
    let first = try run(recorded, in: scratch("out"), change)
    _ = try? first.run { event in if case .step(let step) = event { step.step < stop } else { true } }
    let second = try run(recorded, in: scratch("out"), change)
    try second.resume(from: try #require(second.newestCheckpoint))
    #expect(second.trainer.step == stop)
    try second.run { _ in true }
    for run in [whole, second] { try run.finish() }
    #expect(
      try contents(scratch("whole/adapter_model.safetensors")) == contents(scratch("out/adapter_model.safetensors")))
    #expect(
      try FileSystem.text(scratch("whole/adapter_config.json")) == FileSystem.text(scratch("out/adapter_config.json")))
  }

  @Test func aCheckpointOfAnotherRunIsRefusedWithWhatDiffers() throws {
    let scratch = try ScratchDirectory()
    let first = try run(in: scratch("out"))
    _ = try? first.run { event in if case .step(let step) = event { step.step < 3 } else { true } }
    let path = try #require(first.newestCheckpoint)
    func failure(_ change: (inout TrainingArguments) -> Void) -> TrainingError? {
      do {
        try run(in: scratch("out"), change).resume(from: path)
        return nil
      } catch { return error as? TrainingError }
    }
    #expect(
      failure { $0.learningRate = 1 } == .otherRun(path: path, what: "learning_rate", found: "1.0", expected: "0.05"))
    #expect(failure { $0.seed = 8 } == .otherRun(path: path, what: "seed", found: "8", expected: "7"))
    #expect(failure { $0.saveLimit = 1 } == nil)
    let other = RecordedRun(name: "grouped")
    let foreign = try run(other, in: scratch("out"))
    guard case .otherRun(_, let what, _, _)? = (Result { try foreign.resume(from: path) }).failure as? TrainingError
    else { return #expect(Bool(false), "another run's checkpoint was taken") }
    #expect(what == "the records' SHA-256")
    #expect(throws: TrainingError.noCheckpoint(path: "/nonexistent")) { try first.resume(from: "/nonexistent") }
    try FileSystem.remove("\(path)/training_state.json")
    guard case .badCheckpoint? = failure({ _ in }) else {
      return #expect(Bool(false), "a checkpoint without state was taken")
    }
  }

  @Test func theLimitKeepsTheNewestAndTheBest() throws {
    let scratch = try ScratchDirectory()
    let make = { (steps: [Int]) in
      for step in steps { try FileSystem.makeDirectories(scratch("out/checkpoint-\(step)")) }
    }
    let left = { TrainingCheckpoint.all(in: scratch("out")).map(\.step) }
    try make([4, 8, 12, 100])
    try TrainingCheckpoint.rotate(in: scratch("out"), limit: nil, best: nil)
    try TrainingCheckpoint.rotate(in: scratch("out"), limit: 0, best: nil)
    #expect(left() == [4, 8, 12, 100])
    try TrainingCheckpoint.rotate(in: scratch("out"), limit: 3, best: scratch("out/checkpoint-4"))
    #expect(left() == [4, 12, 100])
    try TrainingCheckpoint.rotate(in: scratch("out"), limit: 1, best: scratch("out/checkpoint-4"))
    #expect(left() == [4, 100])
    try TrainingCheckpoint.rotate(in: scratch("out"), limit: 1, best: nil)
    #expect(left() == [100])
  }

  @Test func aLossThatIsNotFiniteStopsBeforeTheStepAndNamesTheCheckpoint() throws {
    let scratch = try ScratchDirectory()
    let run = try run(in: scratch("out")) {
      $0.saveSteps = 2
      $0.loadsBest = false
      $0.saveInterval = .steps
    }
    #expect(
      throws: TrainingError.notFinite(step: 4, what: "the loss", checkpoint: scratch("out/checkpoint-2"))
    ) {
      try run.run { event in
        guard case .step(let step) = event, step.step == 3 else { return true }
        run.trainer.model.parameters.values[0, 0] = .infinity
        return true
      }
    }
    #expect(run.trainer.step == 3)
  }
}

extension Result {
  fileprivate var failure: Failure? { if case .failure(let error) = self { error } else { nil } }
}
