import LanguageModels
import PEFT
import TensorFiles
import TensorMath
import TestSupport
import Testing

@testable import Training

/// Steps and masks against torch's, and what must not depend on how a batch is cut.
@Suite struct ArithmeticTests {
  private let file = Result { try SafetensorsFile(path: Fixtures.path("training/numbers.safetensors")) }

  private func values(_ name: String) throws -> [Float] {
    let file = try file.get()
    let entry = try #require(file[name])
    return Float.decoded(try file.file.bytes(entry.byteRange), .f32)
  }

  @Test(arguments: ["0.0", "0.1"])
  func adamWIsTorchsFusedOneToTheBit(decay: String) throws {
    let workspace = Workspace()
    let start = try values("adamw.\(decay).start")
    let store = ParameterStore([.init(name: "x", shape: [start.count], values: start)], in: workspace)
    var optimizer = AdamW()
    (optimizer.beta2, optimizer.epsilon) = (0.99, 1e-7)
    for step in 0..<5 {
      store.gradients.copy(try values("adamw.\(decay).gradient.\(step)"))
      store.update(optimizer, decay: try #require(Double(decay))) { _ in 3e-3 }
      #expect(
        store.values.values.map(\.bitPattern) == (try values("adamw.\(decay).value.\(step)")).map(\.bitPattern),
        "step \(step)")
    }
  }

  @Test(arguments: ["0.05", "0.3", "0.5"])
  func dropoutIsTorchsToTheBit(probability: String) throws {
    let workspace = Workspace()
    let x = workspace.matrix(5, 37)
    x.copy((1...5 * 37).map(Float.init))
    var generator = TorchGenerator(seed: 9)
    for name in ["dropout.\(probability)", "dropout.\(probability).next"] {
      let mask = DropoutMask(
        probability: try #require(Double(probability)), rows: [Bool](repeating: true, count: 5), columns: 37,
        from: &generator)
      #expect(try mask(x, in: workspace).values == values(name))
    }
  }

  /// Rows of one length, so that a batch of four is the same as two of two.
  @Test func twoBatchesOfAStepEqualOneOfTwiceTheSize() throws {
    let recorded = RecordedRun(name: "llama-lora")
    let records = (0..<8).map { row in
      let tokens = (0..<6).map { (row * 7 + $0 * 13) % 90 + 3 }
      return TrainingRecord(
        tokens: tokens, labels: tokens.enumerated().map { $0.offset <= row % 3 ? -100 : $0.element })
    }
    func losses(_ batch: Int, _ accumulation: Int) throws -> (losses: [Double], values: [Float]) {
      let model = try recorded.trainer().model
      var arguments = TrainingArguments()
      (arguments.batchSize, arguments.accumulationSteps, arguments.learningRate) = (batch, accumulation, 1e-2)
      let trainer = Trainer(model, records: records, arguments: arguments)
      var found: [Double] = []
      try trainer.run {
        found.append($0.loss)
        return true
      }
      return (found, model.parameters.values.values)
    }
    let (one, two) = (try losses(4, 1), try losses(2, 2))
    #expect(one.losses.count == 6 && two.losses.count == 6)
    #expect(zip(one.losses, two.losses).allSatisfy { abs($0 - $1) < 1e-6 })
    #expect(relativeError(two.values, one.values) < 1e-4)
  }

  @Test func withoutDropoutThePaddingSideChangesNoBit() throws {
    let run = RecordedRun(name: "llama-lora")
    let records = try RecordedRun.records()
    let found = try [false, true].map { left in
      let model = try run.trainer().model
      let batch = TokenBatch(records, padsLeft: left)
      let loss = model.addGradients(of: batch, share: 1 / Double(batch.labelledCount))
      return [Float(loss)] + model.parameters.gradients.values
    }
    #expect(found[0] == found[1])
  }

  /// The plan is made before the first step; the workspace says afterwards what was taken.
  @Test(arguments: ["llama", "gpt2", "opt", "qwen3", "gemma"], [false, true])
  func thePredictedMemoryIsWhatARunTakes(base: String, checkpointed: Bool) throws {
    let recorded = RecordedRun(name: base == "llama" ? "llama-lora" : "\(base)-lora")
    let trainer = try recorded.trainer {
      $0.batchSize = 8
      $0.maxSteps = 2
      $0.checkpointsActivations = checkpointed
    }
    let records = (0..<16).map { row in
      TrainingRecord(tokens: .init(repeating: row + 3, count: 60), labels: .init(repeating: row + 3, count: 60))
    }
    let long = Trainer(trainer.model, records: records, arguments: trainer.arguments)
    try long.run { _ in true }
    let (plan, real) = (long.memoryPlan, trainer.model.workspaceBytes)
    #expect(plan.batchTokens == 480)
    let ratio = Double(real) / Double(plan.workspaceBytes)
    #expect((0.75...1.25).contains(ratio), "\(base): \(real) bytes were taken, \(plan) predicted")
  }
}
