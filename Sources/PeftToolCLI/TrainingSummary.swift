internal import PEFT
internal import TensorFiles
internal import Training

/// What a run will be: parameters, steps, tokens, memory and, if asked for, time.
struct TrainingSummary {
  private let trainer: Trainer
  private let data: TrainingData
  private let parameters: Int
  private let weightBytes: Int

  init(_ trainer: Trainer, _ data: TrainingData, parameters: Int, weightBytes: Int) {
    self.trainer = trainer
    self.data = data
    self.parameters = parameters
    self.weightBytes = weightBytes
  }

  private var trained: Int { trainer.model.parameters.count }
  private var tokens: Int { trainer.recordTokens }

  /// What each run begins with.
  var head: [String] {
    let packed = data.records.count < data.documentCount ? " packed into \(grouped(data.records.count))" : ""
    let cut =
      data.truncatedCount > 0
      ? "; \(countText(data.truncatedCount, "record")) cut, \(countText(data.lostTokens, "token")) lost "
        + "(\(fixed(100 * Double(data.lostTokens) / Double(tokens + data.lostTokens), 1)) %)" : ""
    return [
      "trainable params: \(grouped(trained)) || all params: \(grouped(parameters)) || trainable%: "
        + fixed(100 * Double(trained) / Double(parameters), 4),
      "\(countText(data.documentCount, "record"))\(packed), \(countText(tokens, "token")), "
        + countText(trainer.steps, "step") + cut,
    ]
  }

  /// Prints all of it. Cost: a batch forwards and backwards, for the guess at the time.
  func show(_ console: Console, asJSON: Bool) {
    let plan = trainer.memoryPlan
    let started = Clock.seconds
    let tried = trainer.tryBatch()
    let seconds =
      (Clock.seconds - started) * Double(trainer.runTokens) / Double(max(1, tried)) / Double(trainer.ranks.count)
    guard !asJSON else {
      console.json(
        .object([
          .init("trainable_parameters", .integer(trained)), .init("all_parameters", .integer(parameters)),
          .init("records", .integer(data.documentCount)), .init("rows", .integer(data.records.count)),
          .init("truncated_records", .integer(data.truncatedCount)), .init("lost_tokens", .integer(data.lostTokens)),
          .init("steps", .integer(trainer.steps)), .init("epochs", .integer(trainer.epochs)),
          .init("tokens", .integer(trainer.runTokens)), .init("largest_batch_tokens", .integer(plan.batchTokens)),
          .init("activation_bytes", .integer(plan.keptBytes)), .init("scratch_bytes", .integer(plan.scratchBytes)),
          .init("parameter_bytes", .integer(plan.parameterBytes)), .init("weight_bytes", .integer(weightBytes)),
          .init("memory_bytes", .integer(plan.workspaceBytes + weightBytes)), .init("seconds", .number(seconds)),
        ]))
      return
    }
    for line in head { console.line(line) }
    for line in table([
      ["tokens of the run", grouped(trainer.runTokens)],
      ["tokens of the largest batch", grouped(plan.batchTokens)],
      [
        "memory",
        "\(bytesText(plan.workspaceBytes + weightBytes)): weights \(bytesText(weightBytes)), activations "
          + "\(bytesText(plan.keptBytes)), scratch \(bytesText(plan.scratchBytes)), trained parameters with their moments "
          + bytesText(plan.parameterBytes),
      ],
      ["time", "about \(durationText(seconds)), from one batch of \(grouped(tried)) tokens"],
    ]) { console.line(line) }
  }
}
