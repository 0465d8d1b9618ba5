internal import Glibc
internal import LanguageModels
internal import PEFT
internal import TensorFiles
internal import Training

extension CommandTable {
  /// `train`: its flags are the settings of `TrainingArguments`, and what the data need.
  static let trainCommandEntry = Command(
    name: "train", summary: "train an adapter",
    operands: [
      Operand(name: "BASE", summary: "directory of a causal language model", isModel: true),
      Operand(name: "CONFIG", summary: "adapter_config.json of a fresh adapter, or an adapter to go on from"),
      Operand(name: "DATA", summary: "JSONL file of records"),
      Operand(name: "OUT", summary: "directory to be made"),
    ],
    flags: TrainingArguments.settings.map { setting in
      Flag(
        setting.name.replacing("_", with: "-"), value: setting.isSwitch ? nil : "X", setting.summary,
        default: setting.isSwitch ? nil : setting.defaultText)
    } + [
      Flag(
        "arguments", value: "FILE", "JSON object of settings by transformers' names",
        detail: "Options on the command line win over the file."),
      Flag("eval-data", value: "FILE", "JSONL file whose loss is printed before and after"),
      Flag("max-length", value: "N", "tokens of a record at most", default: "1024, or the model's context"),
      Flag("truncate", "cut longer records instead of refusing them"),
      Flag("all-turns", "learn all of a conversation, not the assistant's turns alone"),
      Flag("log", value: "FILE", "write a JSON document for each step"),
      Flag("force", letter: "f", "replace OUT if it exists and is not empty"),
      jsonFlag,
    ],
    detail: """
      Trains a LoRA on the layers of a decoder as transformers' Trainer with PEFT does: the same order of batches, dropout masks, loss, \
      clipping, fused AdamW and schedules for the same seed, in f32 on the CPU. A line of DATA holds input_ids with labels, text, \
      prompt and completion, or messages. OUT is an adapter that PEFT loads.
      """,
    run: trainCommand)
}

/// `peft-tool train BASE CONFIG DATA OUT`
@Sendable func trainCommand(_ invocation: Invocation, _ console: Console) async throws -> Int32 {
  let (base, config, data, output) = (
    invocation.operands[0], invocation.operands[1], invocation.operands[2], invocation.operands[3]
  )
  let arguments = try trainingArguments(invocation)
  try OutputDirectory.check(target: output, replacing: invocation.has("force"), inputs: [base, config])
  let model = try CausalLanguageModel(directory: base)
  let hasTokenizer = ["tokenizer.json", "vocab.json"].contains {
    FileSystem.kind(FileSystem.join(base, $0)) == .file
  }
  let tokenizer = hasTokenizer ? try Tokenizer(directory: base) : nil
  var reader = TrainingData.Reader(
    tokenizer: tokenizer, template: try? ChatTemplate(directory: base), end: endOfText(base),
    vocabulary: model.vocabularySize,
    maxLength: min(try invocation.integer("max-length") ?? 1024, model.contextLength))
  reader.truncates = invocation.has("truncate")
  reader.learnsAllTurns = invocation.has("all-turns")
  let records = try TrainingData(path: data, reader)
  let held = try invocation.value("eval-data").map { path in try TrainingData(path: path, reader) }
  let scratch = try ScratchAdapter(config, base: model.base, seed: arguments.seed)
  defer { scratch.remove() }
  let adapter = try StoredAdapter(directory: scratch.directory)
  let trained = try TrainableModel(model, adapter: adapter, seed: arguments.seed)
  try trained.check(records.records, path: data)
  let trainer = Trainer(trained, records: records.records, arguments: arguments, padsLeft: padsLeft(base))
  let all = model.parameterCount + trained.parameters.count
  let tokens = records.records.reduce(0) { $0 + $1.tokens.count }
  console.note(
    "trainable params: \(grouped(trained.parameters.count)) || all params: \(grouped(all)) || trainable%: "
      + fixed(100 * Double(trained.parameters.count) / Double(all), 4))
  console.note(
    "\(countText(records.records.count, "record")), \(countText(tokens, "token")), \(countText(trainer.steps, "step"))"
      + (records.truncatedCount > 0
        ? "; \(countText(records.truncatedCount, "record")) cut, \(countText(records.lostTokens, "token")) lost" : ""))
  let before = held.map { trainer.evaluate($0.records) }
  if let before { console.note("evaluation before: loss \(fixed(before, 4))") }
  let log = try invocation.value("log").map { try File.create($0) }
  var written = 0
  let started = Clock.seconds
  var (seen, last) = (0, 0.0)
  try trainer.run { step in
    (seen, last) = (seen + step.tokens, step.loss)
    let rate = Double(seen) / max(Clock.seconds - started, 1e-9)
    if let log {
      let line = Array((stepJSON(step).compactText + "\n").utf8)
      try log.write(line.span.bytes, at: written)
      written += line.count
    }
    console.note(
      "step \(step.step)/\(trainer.steps) loss \(fixed(step.loss, 4)) norm \(fixed(step.gradientNorm, 3)) "
        + "rate \(step.learningRate) \(fixed(rate, 1)) tokens/s")
    try Task.checkCancellation()
    return true
  }
  let after = held.map { trainer.evaluate($0.records) }
  try trained.save(
    to: output, config: adapter.config, replacing: invocation.has("force"), inputs: [base, config])
  if invocation.has("json") {
    var answer: [JSONValue.Member] = [
      .init("steps", .integer(trainer.steps)), .init("loss", .number(last)), .init("tokens", .integer(seen)),
      .init("seconds", .number(Clock.seconds - started)),
    ]
    if let after { answer.append(.init("eval_loss", .number(after))) }
    console.json(.object(answer))
  } else {
    if let after { console.line("evaluation after: loss \(fixed(after, 4))") }
    console.line("wrote \(output): \(countText(trainer.steps, "step")), loss \(fixed(last, 4))")
  }
  return 0
}

/// Settings of `--arguments`, then those of the command line.
private func trainingArguments(_ invocation: Invocation) throws -> TrainingArguments {
  var arguments = TrainingArguments()
  if let path = invocation.value("arguments") {
    let json: JSONValue
    do { json = try JSONValue(contentsOf: path) } catch { throw TrainingError.file(error) }
    for member in json.members ?? [] { try arguments.set(member.key, member.value) }
  }
  for setting in TrainingArguments.settings {
    guard let word = invocation.value(setting.name.replacing("_", with: "-")) else { continue }
    try arguments.set(setting.name, JSONValue(parsing: word) ?? .string(word))
  }
  return arguments
}

/// The adapter to begin with: the one given, or a fresh one of a configuration in a directory of its own.
private struct ScratchAdapter {
  let directory: String
  private let scratch: String?

  init(_ given: String, base: BaseModel, seed: UInt64) throws {
    let hasWeights = ["adapter_model.safetensors", "adapter_model.bin"].contains {
      FileSystem.kind(FileSystem.join(given, $0)) == .file
    }
    guard !hasWeights else {
      (directory, scratch) = (given, nil)
      return
    }
    let (config, path) = try PeftConfig.load(path: given)
    try config.checkUnknownKeys(path: path, ignored: [])
    let parent = FileSystem.join(
      getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp", "peft-train-\(UInt64.random(in: 0...UInt64.max))")
    (directory, scratch) = (FileSystem.join(parent, "adapter"), parent)
    do { try FileSystem.makeDirectory(parent) } catch { throw TrainingError.file(error) }
    try AdapterInitializer(base: base, config: config, configPath: path, seed: seed).write(to: directory)
  }

  func remove() { if let scratch { try? FileSystem.remove(scratch) } }
}

private func stepJSON(_ step: TrainingStep) -> JSONValue {
  .object([
    .init("step", .integer(step.step)), .init("epoch", .number(step.epoch)), .init("loss", .number(step.loss)),
    .init("grad_norm", .number(step.gradientNorm)), .init("learning_rate", .number(step.learningRate)),
    .init("tokens", .integer(step.tokens)),
  ])
}

/// True if the tokenizer's configuration puts padding before a text.
private func padsLeft(_ directory: String) -> Bool {
  let json = try? JSONValue(contentsOf: FileSystem.join(directory, "tokenizer_config.json"))
  return json?["padding_side"]?.stringValue == "left"
}

/// The text that ends a sequence, as the tokenizer's configuration names it.
private func endOfText(_ directory: String) -> String? {
  let json = try? JSONValue(contentsOf: FileSystem.join(directory, "tokenizer_config.json"))
  return json?["eos_token"]?.stringValue ?? json?["eos_token"]?["content"]?.stringValue
}
