internal import LanguageModels
internal import PEFT
internal import TensorFiles

/// Where the first operand's model and tokenizer are: an adapter's configuration names its base.
private struct ModelPlaces {
  private(set) var base: String
  /// The operand, if it is an adapter.
  var adapter: String?

  init(_ invocation: Invocation) throws {
    let path = invocation.operands[0]
    base = path
    if FileSystem.kind(FileSystem.join(path, "config.json")) != .file,
      FileSystem.kind(FileSystem.join(path, PeftConfig.fileName)) == .file
    {
      adapter = path
      base = try AutoPeftModelForCausalLM.baseDirectory(of: path, hub: Hub(isOffline: invocation.has("offline")))
    }
  }

  /// The directory with the tokenizer: the adapter's, if it has one of its own.
  var texts: String {
    guard let adapter, FileSystem.kind(FileSystem.join(adapter, "tokenizer.json")) == .file else { return base }
    return adapter
  }

  /// The model with the adapters of the operand and of `--adapter`.
  func load(_ invocation: Invocation) throws -> PeftModel {
    // The weights are mapped: a file that is cut must be an error, not the end of the process.
    do { try MappedFile.survivesCuts() } catch { throw AdapterError.file(error) }
    let model = try PeftModel(base: base)
    var active: [(name: String, weight: Float)] = []
    for (index, word) in ((adapter.map { [$0] } ?? []) + invocation.all("adapter")).enumerated() {
      let input = try adapterInput(word)
      guard Float(input.weight).isFinite else {
        throw UsageError.badWeight(adapter: input.directory, found: "\(input.weight)")
      }
      let name = index == 0 ? "default" : "adapter\(index)"
      try model.load(input.directory, named: name)
      active.append((name, Float(input.weight)))
    }
    if !active.isEmpty { try model.setActive(active) }
    return model
  }

  /// The tokenizer, which must fit the model.
  func tokenizer(for model: PeftModel) throws -> Tokenizer {
    let tokenizer = try Tokenizer(directory: texts)
    try tokenizer.check(vocabulary: model.model.vocabularySize)
    return tokenizer
  }
}

/// `peft-tool tree MODEL [ADAPTER]`
@Sendable func treeCommand(_ invocation: Invocation, _ console: Console) async throws -> Int32 {
  let model = try ModelPlaces(invocation).load(invocation)
  if invocation.operands.count > 1 { try model.load(invocation.operands[1], named: "default") }
  if invocation.has("json") {
    console.json(.object([.init("tree", .string(model.tree))]))
  } else {
    console.output(model.tree + "\n")
  }
  return 0
}

/// `peft-tool perplexity MODEL FILE`; `-` is standard input.
@Sendable func perplexityCommand(_ invocation: Invocation, _ console: Console) async throws -> Int32 {
  let places = try ModelPlaces(invocation)
  let model = try places.load(invocation)
  let tokenizer = try places.tokenizer(for: model)
  let text: String
  if invocation.operands[1] == "-" {
    text = try StandardInput.text()
  } else {
    do { text = try FileSystem.text(invocation.operands[1]) } catch { throw AdapterError.file(error) }
  }
  let result = try model.perplexity(try tokenizer.encode(text), window: try invocation.integer("window"))
  if invocation.has("json") {
    console.json(
      .object([
        .init("perplexity", .number(result.value)), .init("loss", .number(result.meanLoss)),
        .init("tokens", .integer(result.tokens)),
      ]))
  } else {
    console.line("perplexity \(fixed(result.value, 4)) over \(countText(result.tokens, "token"))")
  }
  return 0
}

/// What `generate` was asked for.
private struct GenerateRequest {
  let sampling: Sampling
  let stop: StopConditions
  let chat: ChatRequest?

  init(_ invocation: Invocation, _ places: ModelPlaces) throws {
    var sampling = Sampling()
    sampling.temperature = try Self.number(invocation, "temperature", 0...100) ?? 0
    sampling.topP = try Self.number(invocation, "top-p", 0...1)
    sampling.minP = try Self.number(invocation, "min-p", 0...1)
    sampling.repetitionPenalty = try Self.number(invocation, "repetition-penalty", 0.01...100) ?? 1
    sampling.topK = try Self.integer(invocation, "top-k", 1...1 << 30)
    sampling.seed = UInt64(try Self.integer(invocation, "seed", 0...Int.max) ?? 0)
    self.sampling = sampling
    var stop = StopConditions()
    stop.newTokens = try Self.integer(invocation, "max-new-tokens", 1...1 << 30) ?? 100
    if !invocation.has("ignore-eos") { stop.ends = StopConditions.endIDs(directory: places.base) }
    stop.texts = invocation.all("stop")
    self.stop = stop
    chat = try ChatRequest(invocation, directory: places.texts)
  }

  private static func number(
    _ invocation: Invocation, _ flag: String, _ range: ClosedRange<Double>
  ) throws -> Double? {
    guard let value = try invocation.number(flag) else { return nil }
    guard range.contains(value) else {
      throw UsageError.badValue(
        flag: flag, found: "\(value)", expected: "a number from \(range.lowerBound) to \(range.upperBound)")
    }
    return value
  }

  private static func integer(
    _ invocation: Invocation, _ flag: String, _ range: ClosedRange<Int>
  ) throws -> Int? {
    guard let value = try invocation.integer(flag) else { return nil }
    guard range.contains(value) else {
      throw UsageError.badValue(flag: flag, found: "\(value)", expected: "a whole number from \(range.lowerBound)")
    }
    return value
  }

  /// The ids of a prompt, in the template's words if there is one.
  func ids(_ prompt: Prompt, _ tokenizer: Tokenizer) throws -> [Int] {
    guard let chat else { return try tokenizer.encode(prompt.text) }
    return try tokenizer.encode(chat.render(prompt), addsSpecial: false)
  }
}

/// `peft-tool generate MODEL`
@Sendable func generateCommand(_ invocation: Invocation, _ console: Console) async throws -> Int32 {
  let places = try ModelPlaces(invocation)
  let request = try GenerateRequest(invocation, places)
  let prompts: [Prompt]
  switch (invocation.value("prompt"), invocation.value("prompts")) {
  case (let text?, nil): prompts = [Prompt(text == "-" ? try StandardInput.text() : text)]
  case (nil, let file?): prompts = try Prompt.all(in: file, for: request.chat)
  default:
    throw UsageError.oneNeeded(
      command: "generate",
      [
        .init(flag: "prompt", summary: "a text, or - for standard input"),
        .init(flag: "prompts", summary: "a JSONL file of prompts"),
      ])
  }
  let model = try places.load(invocation)
  let tokenizer = try places.tokenizer(for: model)
  let inputs = try prompts.map { try request.ids($0, tokenizer) }
  let isBatch = invocation.value("prompts") != nil
  let writesJSON = isBatch || invocation.has("json")
  for ids in inputs {
    var stream = try TextStream(tokenizer, after: ids, stops: request.stop.texts)
    let started = Clock.seconds
    var first = started
    let tokens = try model.generate(ids, sampling: request.sampling, stop: request.stop) {
      (token: Int) throws(ModelError) -> Bool in
      if first == started { first = Clock.seconds }
      let text = try stream.add(token)
      if !writesJSON && !text.isEmpty { console.modelText(text) }
      return !stream.isStopped && !Task.isCancelled
    }
    try Task.checkCancellation()
    let rest = try stream.finish()
    if writesJSON {
      console.json(
        .object([
          .init("text", .string(stream.text)), .init("tokens", .array(tokens.map { .integer($0) })),
          .init("prompt_tokens", .integer(ids.count)),
        ]))
    } else {
      console.modelText(rest + "\n")
    }
    let seconds = Clock.seconds
    let rate = tokens.count > 1 && seconds > first ? Double(tokens.count - 1) / (seconds - first) : 0
    if !isBatch {
      console.note(
        "\(countText(ids.count, "token")) read in \(fixed(first - started, 2)) s, \(countText(tokens.count, "token")) made, "
          + "\(fixed(rate, 1)) a second, peak memory \(bytesText(peakResidentBytes))")
    }
  }
  return 0
}
