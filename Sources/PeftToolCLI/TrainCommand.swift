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
      Operand(name: "DATA", summary: "JSONL, JSON or text file of records, or a directory of them"),
      Operand(name: "OUT", summary: "directory to be made"),
    ],
    flags: trainFlags,
    detail: """
      Trains a LoRA on the layers of a decoder as transformers' Trainer with PEFT does: the same order of batches, dropout masks, loss, \
      clipping, fused AdamW and schedules for the same seed, in f32 on the CPU. A line of DATA holds input_ids with labels, text, \
      prompt and completion, or messages. OUT is an adapter that PEFT loads.

      'mpirun -n R peft-tool train ...', of a program that was built with MPI, shares the batches of each step among R ranks: the same run, \
      to the bit, as one program with R times --gradient-accumulation-steps.
      """,
    run: trainCommand, isShared: true)

  private static let trainFlags: [Flag] =
    TrainingArguments.settings.map { setting in
      Flag(
        setting.name.replacing("_", with: "-"), value: setting.isSwitch ? nil : "VALUE", setting.summary,
        default: setting.isSwitch ? nil : setting.defaultText,
        takes: setting.choices.isEmpty ? nil : .choice(setting.choices))
    } + [
      Flag("gradient-checkpointing", "the old name of --activation-checkpointing"),
      Flag("warmup-ratio", value: "X", "the old name of --warmup-steps, for a share"),
      Flag(
        "arguments", value: "FILE", "settings by transformers' names, as JSON or YAML",
        detail:
          "Names of TRL, axolotl, LLaMA-Factory and mlx-lm are taken too, and each is said with what it became. Options on the command "
          + "line win over the file."),
      Flag("eval-data", value: "PATH", "records of evaluation", default: "valid.jsonl of a directory"),
      Flag("max-length", value: "N", "tokens of a record at most", default: "1024, or the model's context"),
      Flag("truncate", "cut longer records instead of refusing them"),
      Flag("packing", "put records together up to the greatest length; none sees another"),
      Flag("all-turns", "learn all of a record, not completions and the assistant's turns alone"),
      Flag("dry-run", letter: "n", "show parameters, steps, memory and time, and write nothing"),
      Flag(
        "report", value: "FILE", "write a page with curves of the run and samples of text",
        detail:
          "One HTML file that needs nothing else: loss, evaluation, learning rate, gradient norm, tokens a second, and what the "
          + "adapter writes after each --sample-prompt. It is written anew while the run goes on, and a browser that shows it "
          + "reads it again."),
      Flag(
        "sample-prompt", value: "TEXT", "show in the report what the adapter goes on with",
        detail:
          "Before the run, at each evaluation and at the end; greedily, through the chat template where the model has one.",
        repeats: true, needs: "report"),
      Flag("sample-tokens", value: "N", "tokens of a sample at most", default: "48", needs: "report"),
      Flag("log", value: "FILE", "write a JSON document for each step, log and evaluation"),
      Flag(
        "resume-from-checkpoint", value: "PATH", "go on from a checkpoint of this run, or from its 'last'",
        detail:
          "The run continues to the same bits as one that was never stopped. Base, records, the adapter's configuration and "
          + "all settings that decide the result must be what they were; what differs is named."),
      Flag("force", letter: "f", "replace OUT if it exists and is not empty", remedy: .replaceOutput),
      jsonFlag,
    ]
}

/// What a run is made of, read and checked.
private struct PreparedTraining {
  let trainer: Trainer
  let run: TrainingRun
  let summary: TrainingSummary
  let held: TrainingData?
  let contextLength: Int

  init(_ invocation: Invocation, _ settings: TrainingSettings, _ ranks: any Ranks) throws {
    let (base, config, data, output) = (
      invocation.operands[0], invocation.operands[1], invocation.operands[2], invocation.operands[3]
    )
    if settings.resumed == nil, ranks.isFirst {
      try OutputDirectory.check(
        target: output, replacing: invocation.has("force"),
        inputs: [base, config, data, settings.evaluationData(data), invocation.value("arguments")].compactMap { $0 })
    }
    let model = try CausalLanguageModel(directory: base)
    let reader = try recordReader(settings, base, model)
    let records = try TrainingData(path: data, reader)
    held = try settings.evaluationData(data).map { path in try TrainingData(path: path, reader) }
    let adapter = try startingAdapter(config, base: model.base, seed: settings.arguments.seed)
    try settings.check(adapter.config)
    let trained = try TrainableModel(model, adapter: adapter, seed: settings.arguments.seed)
    try trained.check(records.records, path: data)
    trainer = Trainer(
      trained, records: records.records, arguments: settings.arguments, padsLeft: padsLeft(base), ranks: ranks)
    let all = model.parameterCount + trained.parameters.count
    run = try TrainingRun(
      trainer, held: held?.records ?? [], output: output, config: adapter.config, base: try model.base.fingerprint(),
      parameters: all - model.embeddingParameterCount)
    summary = TrainingSummary(trainer, records, parameters: all, weightBytes: model.base.checkpoint.dataBytes)
    contextLength = model.contextLength
  }
}

/// `peft-tool train BASE CONFIG DATA OUT`
@Sendable func trainCommand(_ invocation: Invocation, _ console: Console) async throws -> Int32 {
  let (base, data, output) = (invocation.operands[0], invocation.operands[2], invocation.operands[3])
  let ranks = console.ranks
  let settings = try ranks.together { try TrainingSettings(invocation) }
  for note in settings.notes { console.note(note) }
  let prepared = try ranks.together { try PreparedTraining(invocation, settings, ranks) }
  let (trainer, run, summary, held) = (prepared.trainer, prepared.run, prepared.summary, prepared.held)
  try run.checkRanks()
  if invocation.has("dry-run") {
    summary.show(console, asJSON: invocation.has("json"))
    return 0
  }
  for line in summary.head { console.note(line) }
  if let resumed = settings.resumed {
    guard let path = resumed == "last" ? run.newestCheckpoint : resumed else {
      throw TrainingError.noCheckpoint(path: output)
    }
    try ranks.together { try run.resume(from: path) }
    console.note(
      trainer.step < trainer.steps
        ? "going on from \(path): step \(trainer.step) of \(trainer.steps)"
        : "\(path) is at the last step, \(trainer.steps): nothing is left to train")
  } else {
    try ranks.together {
      try Task.checkCancellation()
      if ranks.isFirst, FileSystem.kind(output) != nil { try FileSystem.remove(output) }
    }
  }
  let before = settings.resumed == nil ? held.map { trainer.evaluate($0.records) } : nil
  if let before { console.note("evaluation before: loss \(fixed(before.loss, 4))") }
  let report =
    try ranks.isFirst
    ? invocation.value("report").map { path in
      try TrainingReport(
        path: path, replacing: invocation.has("force") || settings.resumed != nil, run: run, lines: summary.head,
        names: (base, invocation.operands[1], data),
        samples: try TextSamples(invocation, base: base, context: prepared.contextLength))
    } : nil
  try report?.begin(samplesFirst: settings.resumed == nil)
  let log =
    try !ranks.isFirst ? nil : invocation.value("log").map { try TrainingLog(path: $0, goingOnFrom: trainer.step) }
  let lines = TrainingLines(console, first: trainer.step, steps: trainer.steps)
  try Interruption.patiently {
    try run.run { event in
      try log?.add(event)
      lines.show(event)
      try report?.add(event)
      return !Task.isCancelled
    }
  }
  lines.finish()
  let after = held.map { trainer.evaluate($0.records) }
  try Interruption.patiently {
    try run.finish()
    try report?.finish(after)
  }
  if invocation.has("json") {
    var answer: [JSONValue.Member] = [
      .init("steps", .integer(trainer.steps)), .init("loss", .number(lines.loss)),
      .init("tokens", .integer(lines.tokens)), .init("seconds", .number(lines.seconds)),
    ]
    if let after {
      answer += [.init("eval_loss", .number(after.loss)), .init("eval_nll_per_token", .number(after.lossPerToken))]
    }
    if let best = run.bestCheckpoint { answer.append(.init("best_checkpoint", .string(best))) }
    console.json(.object(answer))
  } else {
    if let after {
      console.line("evaluation after: loss \(fixed(after.loss, 4)), for a token \(fixed(after.lossPerToken, 4))")
    }
    let what = run.bestCheckpoint.map { "the adapter of \($0)" } ?? countText(trainer.steps, "step")
    console.line("wrote \(output): \(what)" + (lines.tokens > 0 ? ", loss \(fixed(lines.loss, 4))" : ""))
  }
  return 0
}

/// What turns records into tokens for a model.
private func recordReader(
  _ settings: TrainingSettings, _ base: String, _ model: CausalLanguageModel
) throws -> RecordReader {
  let hasTokenizer = ["tokenizer.json", "vocab.json"].contains {
    FileSystem.kind(FileSystem.join(base, $0)) == .file
  }
  let tokenizer = hasTokenizer ? try Tokenizer(directory: base) : nil
  var reader = RecordReader(
    tokenizer: tokenizer, template: try? ChatTemplate(directory: base), end: endOfText(base),
    vocabulary: model.vocabularySize, maxLength: min(settings.maxLength ?? 1024, model.contextLength))
  reader.truncates = settings.truncates
  reader.learnsAll = settings.learnsAll
  reader.packs = settings.packs
  return reader
}

/// The adapter to begin with: the one given, or a fresh one of a configuration.
private func startingAdapter(_ given: String, base: BaseModel, seed: UInt64) throws -> StoredAdapter {
  let hasWeights = [Adapter.weightsName, Adapter.torchName].contains {
    FileSystem.kind(FileSystem.join(given, $0)) == .file
  }
  if hasWeights { return try StoredAdapter(directory: given) }
  let (config, path) = try PeftConfig.load(path: given)
  try config.checkUnknownKeys(path: path, ignored: [])
  let text = try Tokenizer.promptTokens(config, base: base.path)
  return try AdapterInitializer(base: base, config: config, configPath: path, seed: seed, promptTokens: text).made()
}

/// True if the tokenizer's configuration puts padding before a text.
private func padsLeft(_ directory: String) -> Bool {
  let json = try? JSONValue(
    contentsOf: FileSystem.join(directory, "tokenizer_config.json"), readsLongIntegers: true)
  return json?["padding_side"]?.stringValue == "left"
}

/// The text that ends a sequence, as the tokenizer's configuration names it.
private func endOfText(_ directory: String) -> String? {
  let json = try? JSONValue(
    contentsOf: FileSystem.join(directory, "tokenizer_config.json"), readsLongIntegers: true)
  return json?["eos_token"]?.stringValue ?? json?["eos_token"]?["content"]?.stringValue
}
