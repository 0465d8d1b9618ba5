import LanguageModels
import PEFT
import TensorFiles
import TensorMath
import TestSupport
import Testing

@testable import Training

/// Several ranks that train one adapter.
@Suite struct RanksTests {
  /// What a run came to: figures of each step, parameters with their moments, and the generator.
  struct Course: Equatable, Sendable {
    var steps: [TrainingStep] = []
    var states: [[Float]] = []
    var generator: TorchGenerator?
  }

  private static func course(
    _ recorded: RecordedRun, steps: Int, ranks: any Ranks = OneRank(), _ change: (inout TrainingArguments) -> Void
  ) throws -> Course {
    let trainer = try recorded.trainer(ranks: ranks, change)
    var course = Course()
    try trainer.run { step in
      course.steps.append(step)
      return step.step < steps
    }
    course.states = trainer.model.parameters.states.map { $0.all.values }
    course.generator = trainer.model.generator
    return course
  }

  /// The methods, settings and directions of padding that are trained, each with its dropout.
  @Test(arguments: RecordedRun.all, [2, 4])
  func ranksTakeTheStepsOfOneWithAsManyBatchesMoreToTheBit(run: RecordedRun, count: Int) throws {
    let batches = try run.trainer().arguments.accumulationSteps
    guard try !run.trainer().model.drawsVary else {
      for result in onRanks(count, { ranks in try Self.course(run, steps: 2, ranks: ranks) { _ in } }) {
        #expect(throws: TrainingError.self) { try result.get() }
      }
      return
    }
    let expected = try Self.course(run, steps: 3) { $0.accumulationSteps = batches * count }
    for result in onRanks(count, { ranks in try Self.course(run, steps: 3, ranks: ranks) { _ in } }) {
      let found = try result.get()
      #expect(found.steps == expected.steps)
      #expect(found == expected)
    }
  }

  /// To the end, over epochs whose last step has batches for some ranks only.
  @Test(arguments: ["llama-lora-dropout", "grouped", "llama-prompt", "llama-adalora-dropout", "neftune"], [2, 3, 5])
  func aWholeRunOfRanksHasTheBitsOfOne(name: String, count: Int) throws {
    let run = RecordedRun(name: name)
    for batches in [1, 2] {
      let change: @Sendable (inout TrainingArguments) -> Void = { arguments in
        arguments.batchSize = 2
        arguments.evaluationBatchSize = 3
        arguments.labelSmoothing = 0.1
      }
      let expected = try Self.course(run, steps: .max) { arguments in
        change(&arguments)
        arguments.accumulationSteps = batches * count
      }
      let results = onRanks(count) { ranks in
        try Self.course(run, steps: .max, ranks: ranks) { arguments in
          change(&arguments)
          arguments.accumulationSteps = batches
        }
      }
      for result in results { #expect(try result.get() == expected) }
    }
  }

  @Test(arguments: [1, 2, 3, 4, 7]) func anEvaluationByRanksIsThatOfOne(count: Int) throws {
    let run = RecordedRun(name: "llama-lora")
    let change: @Sendable (inout TrainingArguments) -> Void = {
      $0.evaluationBatchSize = 3
      $0.labelSmoothing = 0.1
    }
    let records = try RecordedRun.records()
    let expected = try run.trainer(change).evaluate(records)
    let results = onRanks(count) { ranks in try run.trainer(ranks: ranks, change).evaluate(RecordedRun.records()) }
    for result in results { #expect(try result.get() == expected) }
  }

  /// A run in a directory, with checkpoints and evaluations.
  private static func run(
    _ output: String, ranks: any Ranks = OneRank(), _ change: (inout TrainingArguments) -> Void = { _ in }
  ) throws -> TrainingRun {
    let recorded = RecordedRun(name: "events")
    let trainer = try recorded.trainer(ranks: ranks, change)
    let base = try CausalLanguageModel(directory: Fixtures.path("training/bases/llama"))
    return try TrainingRun(
      trainer, held: Array(try RecordedRun.records().prefix(5)), output: output,
      config: PeftConfig.load(directory: recorded.path("before")), base: try base.base.fingerprint(), parameters: 1000)
  }

  /// All that a run leaves but for times, which are not compared.
  private func left(_ directory: String) throws -> [String: String] {
    var found: [String: String] = [:]
    for name in try FileSystem.names(in: directory) {
      let path = FileSystem.join(directory, name)
      if FileSystem.kind(path) == .directory {
        for (inner, text) in try left(path) { found["\(name)/\(inner)"] = text }
      } else if name == "trainer_state.json" {
        let log = try JSONValue(contentsOf: path)["log_history"]?.elements ?? []
        found[name] = log.map { entry in
          (entry.members ?? []).filter { !$0.key.contains("per_second") && !$0.key.hasSuffix("runtime") }
            .map { "\($0.key) \($0.value.compactText)" }.joined(separator: " ")
        }.joined(separator: "\n")
      } else {
        found[name] = try SHA256.digest(of: OpenFile.open(reading: path))
      }
    }
    return found
  }

  @Test(arguments: [2, 4]) func ranksLeaveTheFilesOfOneAndGoOnFromThem(count: Int) throws {
    let scratch = try ScratchDirectory()
    let settings: @Sendable (inout TrainingArguments) -> Void = {
      $0.accumulationSteps = 1
      $0.batchSize = 1
      $0.maxSteps = 12
      $0.saveSteps = 4
      $0.loadsBest = true
      $0.evaluationSteps = 4
      $0.loggingSteps = 3
    }
    let alone: @Sendable (inout TrainingArguments) -> Void = {
      settings(&$0)
      $0.accumulationSteps = count
    }
    let whole = try Self.run(scratch("whole/out"), alone)
    try whole.run { _ in true }
    try whole.finish()
    let expected = try left(scratch("whole/out"))
    #expect(expected.count >= 12)
    let output = scratch("ranks/out")
    let results = onRanks(count) { ranks in
      let run = try Self.run(output, ranks: ranks, settings)
      try run.checkRanks()
      try run.run { _ in true }
      try run.finish()
    }
    for result in results { try result.get() }
    #expect(try left(output) == expected)

    // One goes on from what ranks wrote, and ranks from what one wrote.
    try FileSystem.remove(output)
    for path in ["first/out", "second/out"] {
      let first = path == "first/out"
      let stopped: @Sendable (TrainingRun) throws -> Void = { run in
        // Where the last rank is told to stop, all do.
        #expect(throws: TrainingError.self) {
          try run.run { event in
            guard case .step(let step) = event else { return true }
            return step.step < 6 || run.trainer.ranks.rank < run.trainer.ranks.count - 1
          }
        }
      }
      let ended: @Sendable (TrainingRun) throws -> Void = { run in
        try run.resume(from: #require(run.newestCheckpoint))
        #expect(run.trainer.step == 6)
        try run.run { _ in true }
        try run.finish()
      }
      let place = scratch(path)
      for isFirst in [true, false] {
        let part = isFirst ? stopped : ended
        if isFirst == first {
          for result in onRanks(count, { ranks in try part(try Self.run(place, ranks: ranks, settings)) }) {
            try result.get()
          }
        } else {
          try part(try Self.run(place, alone))
        }
      }
      #expect(
        try contents("\(place)/adapter_model.safetensors") == contents(scratch("whole/out/adapter_model.safetensors")))
    }
  }

  @Test func aRankWithOtherSettingsIsNamed() throws {
    let scratch = try ScratchDirectory()
    let output = scratch("out")
    for (rank, key) in [(1, "learning_rate"), (2, "seed")] {
      let results = onRanks(3) { ranks in
        let run = try Self.run(output, ranks: ranks) { arguments in
          guard ranks.rank == rank else { return }
          if key == "seed" { arguments.seed = 8 } else { arguments.learningRate = 0.5 }
        }
        try run.checkRanks()
      }
      for result in results {
        #expect(throws: TrainingError.otherRank(rank: rank, what: key)) { try result.get() }
      }
    }
  }

  /// As processors that compute other bits would have it.
  @Test func ranksThatDriftApartAreFoundBeforeACheckpointIsWritten() throws {
    let scratch = try ScratchDirectory()
    let output = scratch("out")
    let results = onRanks(2) { ranks in
      let run = try Self.run(output, ranks: ranks)
      try run.run { event in
        guard case .step(let step) = event, step.step == 1, ranks.rank == 1 else { return true }
        let values = run.trainer.model.parameters.values
        values.copy(values.values.map { $0.nextUp })
        return true
      }
    }
    for result in results {
      #expect(
        performing: { try result.get() },
        throws: { error in
          guard case TrainingError.otherRank(rank: 1, _) = error else { return false }
          return true
        })
    }
    #expect(!FileSystem.exists(output))
  }

  @Test(
    arguments: RecordedRun.all.filter { $0.name.contains("dropout") || $0.name.contains("neftune") } + [
      RecordedRun(name: "left")
    ])
  func theDrawsOfABatchAreToldFromItsExtents(run: RecordedRun) throws {
    let model = try run.trainer().model
    guard !model.drawsVary else {
      #expect(throws: TrainingError.self) { try DrawCount(model) }
      return
    }
    let before = model.generator
    let draws = try DrawCount(model)
    #expect(model.generator == before && model.parameters.gradients.values.allSatisfy { $0 == 0 })
    for lengths in [[3], [5, 2], [4, 4, 1, 7]] {
      let tokens = lengths.map { (0..<$0).map { 3 + $0 } }
      let batch = TokenBatch(sequences: tokens, labels: tokens, padsLeft: lengths.count == 2)
      let generator = model.generator
      _ = model.addGradients(of: batch, share: 1)
      #expect(generator.words(to: model.generator) == draws.words(of: batch))
      #expect(draws.words(of: batch) > 0 || run.name == "llama-oft-dropout")
    }
  }
}
