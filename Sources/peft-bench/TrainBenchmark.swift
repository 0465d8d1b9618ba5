import LanguageModels
import PEFT
import TensorFiles
import TensorMath
import Training

/// Tokens a second of training a LoRA, beside what the machine's matrix products allow and, where a Python is given, PEFT.
struct TrainBenchmark {
  /// A causal language model.
  let model: String
  /// An interpreter with PEFT; nil to leave the peer out.
  let python: String?
  let rounds: Int

  private static let (batchSize, length) = (4, 256)

  func run() throws {
    printMachine()
    let limit = productRate()
    print("sgemm, OpenBLAS's own threads: \(fixed(limit / 1e9, 1)) GFLOP/s")
    for checkpoints in [true, false] { try measure(checkpoints: checkpoints, limit: limit) }
    guard let python else { return }
    for checkpoints in ["plain", "checkpointed"] {
      let script = "Fixtures/scripts/bench_train.py"
      let words = [python, script, model, checkpoints, "\(Self.batchSize)", "\(Self.length)", "\(rounds)"]
      print("PEFT, \(checkpoints): \(lastLine(of: words.joined(separator: " ") + " 2>/dev/null"))")
    }
  }

  private func measure(checkpoints: Bool, limit: Double) throws {
    let base = try CausalLanguageModel(directory: model)
    let adapter = try StoredAdapter(directory: try freshAdapter())
    let trained = try TrainableModel(base, adapter: adapter)
    var arguments = TrainingArguments()
    arguments.batchSize = Self.batchSize
    arguments.maxSteps = rounds + 1
    arguments.checkpointsActivations = checkpoints
    var generator = TorchGenerator(seed: 1)
    let records = (0..<Self.batchSize * 8).map { _ in
      let tokens = (0..<Self.length).map { _ in Int(generator.nextBits()) % base.vocabularySize }
      return TrainingRecord(tokens: tokens, labels: tokens)
    }
    var rates: [Double] = []
    var last = now()
    try Trainer(trained, records: records, arguments: arguments).run { step in
      let time = now()
      if step.step > 1 { rates.append(Double(step.tokens) / (time - last)) }
      last = time
      return true
    }
    let work = floatingPointOperations(base, checkpoints: checkpoints)
    let share = median(rates) * work / limit
    print(
      "\(checkpoints ? "checkpointed" : "plain"): median \(fixed(median(rates), 1)), best \(fixed(rates.max() ?? 0, 1)) tokens a second, "
        + "\(fixed(work / 1e9, 3)) GFLOP a token, \(fixed(share, 2)) of sgemm's limit; "
        + "\(megabytes(trained.workspaceBytes)) MB of buffers, peak memory \(megabytes(ownPeakBytes)) MB")
  }

  /// Operations of a token forwards and backwards, LoRA's own left out.
  private func floatingPointOperations(_ model: CausalLanguageModel, checkpoints: Bool) -> Double {
    let json = model.config.json
    func value(_ key: String) -> Double { Double(json[key]?.integerValue ?? 0) }
    let (hidden, inner, layers, heads) = (
      value("hidden_size"), value("intermediate_size"), value("num_hidden_layers"), value("num_attention_heads")
    )
    let keyWidth = hidden / heads * (json["num_key_value_heads"]?.integerValue.map(Double.init) ?? heads)
    let linear = layers * (2 * hidden * hidden + 2 * hidden * keyWidth + 3 * hidden * inner)
    let head = hidden * value("vocab_size")
    let seen = Double(Self.length + 1) / 2
    let attention = layers * hidden * seen
    return 4 * (linear + head) + 14 * attention + (checkpoints ? 2 * linear + 4 * attention : 0)
  }

  /// Operations a second of products as a layer has them, on OpenBLAS's threads: before anything has set their number.
  private func productRate() -> Double {
    let (rows, inner, columns) = (Self.batchSize * Self.length, 576, 1536)
    let a = Matrix(rows: rows, columns: inner, values: [Float](repeating: 0.5, count: rows * inner))
    let b = Matrix(rows: columns, columns: inner, values: [Float](repeating: 0.25, count: columns * inner))
    var c = Matrix<Float>(rows: rows, columns: columns)
    var best = Double.infinity
    for _ in 0..<20 {
      let start = now()
      c.add(a, times: b, transposingSecond: true)
      best = min(best, now() - start)
    }
    return 2 * Double(rows * inner * columns) / best
  }

  private func freshAdapter() throws -> String {
    let directory = "/tmp/peft-bench/train-adapter"
    if FileSystem.kind(directory) != nil { try FileSystem.remove(directory) }
    var config = PeftConfig()
    config.rank = 8
    config.targetModules = .names(["q_proj", "v_proj"])
    config.taskType = "CAUSAL_LM"
    config.dropout = 0.05
    let base = try BaseModel(path: model, taskType: "CAUSAL_LM")
    try AdapterInitializer(base: base, config: config, configPath: "", seed: 0).write(to: directory)
    return directory
  }
}
