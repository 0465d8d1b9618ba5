import Glibc
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
  /// True for records of mixed lengths, of which answers are learnt, in place of full ones.
  let isMixed: Bool
  /// Tokens of a full record, or the most of a mixed one.
  let length: Int

  private static let batchSize = 4

  func run() throws {
    printMachine()
    if isMixed { return try runMixed() }
    let limit = productRate()
    print("sgemm, OpenBLAS's own threads: \(fixed(limit / 1e9, 1)) GFLOP/s")
    for checkpoints in [true, false] { try measure(checkpoints: checkpoints, limit: limit) }
    guard let python else { return }
    for checkpoints in ["plain", "checkpointed"] {
      let script = "Fixtures/scripts/bench_train.py"
      let words = [python, script, model, checkpoints, "\(Self.batchSize)", "\(length)", "\(rounds)"]
      print("PEFT, \(checkpoints): \(lastLine(of: words.joined(separator: " ") + " 2>/dev/null"))")
    }
  }

  /// Both sides take the same records in their order; tokens are those of records, padding not counted.
  private func runMixed() throws {
    let records = mixedRecords(vocabulary: try CausalLanguageModel(directory: model).vocabularySize)
    let tokens = records.reduce(0) { $0 + $1.tokens.count }
    let labelled = records.reduce(0) { $0 + $1.labelledCount }
    print(
      "\(records.count) records of \(tokens) tokens, \(labelled) of them learnt; the longest has "
        + "\(records.map(\.tokens.count).max() ?? 0)")
    let path = "/tmp/peft-bench/instructions.jsonl"
    var text = ""
    for record in records { text += "{\"input_ids\": \(record.tokens), \"labels\": \(record.labels)}\n" }
    try FileSystem.makeDirectories(FileSystem.parentDirectory(path))
    if FileSystem.exists(path) { try FileSystem.remove(path) }
    try OpenFile.create(path).write(text)
    try measure(records, name: "mixed", checkpoints: false) { _ in "" }
    guard let python else { return }
    let words = [python, "Fixtures/scripts/bench_train_mixed.py", model, path, "\(Self.batchSize)", "\(rounds)"]
    print("PEFT, mixed: \(lastLine(of: words.joined(separator: " ") + " 2>/dev/null"))")
  }

  /// Lengths as instruction data has them: most are short, some many times as long; a prompt, and an answer that is learnt.
  private func mixedRecords(vocabulary: Int) -> [TrainingRecord] {
    var generator = TorchGenerator(seed: 1)
    return (0..<Self.batchSize * (rounds + 1)).map { _ in
      let spread = generator.normal(count: 2, mean: 0, deviation: 1)
      let prompt = min(length / 2, Int(45 * exp(0.6 * Double(spread[0]))) + 4)
      let answer = min(length - prompt, Int(60 * exp(0.9 * Double(spread[1]))) + 2)
      let tokens = (0..<prompt + answer).map { _ in Int(generator.nextBits()) % vocabulary }
      return TrainingRecord(tokens: tokens, labels: [Int](repeating: -100, count: prompt) + tokens[prompt...])
    }
  }

  private func measure(checkpoints: Bool, limit: Double) throws {
    let base = try CausalLanguageModel(directory: model)
    var generator = TorchGenerator(seed: 1)
    let records = (0..<Self.batchSize * 8).map { _ in
      let tokens = (0..<length).map { _ in Int(generator.nextBits()) % base.vocabularySize }
      return TrainingRecord(tokens: tokens, labels: tokens)
    }
    let work = floatingPointOperations(base, checkpoints: checkpoints)
    try measure(records, name: checkpoints ? "checkpointed" : "plain", checkpoints: checkpoints) { rate in
      "\(fixed(work / 1e9, 3)) GFLOP a token, \(fixed(rate * work / limit, 2)) of sgemm's limit; "
    }
  }

  private func measure(
    _ records: [TrainingRecord], name: String, checkpoints: Bool, remark: (_ rate: Double) -> String
  ) throws {
    let base = try CausalLanguageModel(directory: model)
    let adapter = try StoredAdapter(directory: try freshAdapter())
    let trained = try TrainableModel(base, adapter: adapter)
    var arguments = TrainingArguments()
    arguments.batchSize = Self.batchSize
    arguments.maxSteps = rounds + 1
    arguments.checkpointsActivations = checkpoints
    arguments.sampling = .sequential
    var rates: [Double] = []
    var (tokens, seconds) = (0, 0.0)
    var early = 0
    var last = now()
    try Trainer(trained, records: records, arguments: arguments).run { step in
      let time = now()
      // The first step finds its buffers.
      if step.step > 1 {
        rates.append(Double(step.tokens) / (time - last))
        tokens += step.tokens
        seconds += time - last
      }
      if step.step <= 10 { early = ownPeakBytes }
      last = time
      return true
    }
    print(
      "\(name): median \(fixed(median(rates), 1)), best \(fixed(rates.max() ?? 0, 1)), all \(fixed(Double(tokens) / seconds, 1)) "
        + "tokens a second, \(remark(median(rates)))\(megabytes(trained.workspaceBytes)) MB of buffers, peak memory "
        + "\(megabytes(early)) MB after ten steps, \(megabytes(ownPeakBytes)) MB after \(rounds + 1)")
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
    let seen = Double(length + 1) / 2
    let attention = layers * hidden * seen
    return 4 * (linear + head) + 14 * attention + (checkpoints ? 2 * linear + 4 * attention : 0)
  }

  /// Operations a second of products as a layer has them, on OpenBLAS's threads: before anything has set their number.
  private func productRate() -> Double {
    let (rows, inner, columns) = (Self.batchSize * length, 576, 1536)
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
