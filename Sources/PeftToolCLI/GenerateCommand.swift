internal import LanguageModels
internal import PEFT
internal import TensorFiles

/// How a model is to go on, as the options of `generate` and `chat` say.
struct GenerationRequest {
  var sampling: Sampling
  var stop: StopConditions

  /// Tokens that `generate` makes at most, if it is not told.
  static let newTokens = 100

  /// - Parameter directory: the model's, whose configuration names the tokens that end a sequence.
  init(_ invocation: Invocation, directory: String, newTokens: Int = Self.newTokens) throws(UsageError) {
    sampling = Sampling()
    sampling.temperature = try invocation.number("temperature") ?? 0
    sampling.topP = try invocation.number("top-p")
    sampling.minP = try invocation.number("min-p")
    sampling.repetitionPenalty = try invocation.number("repetition-penalty") ?? 1
    sampling.topK = try invocation.integer("top-k")
    sampling.seed = UInt64(try invocation.integer("seed") ?? 0)
    stop = StopConditions()
    stop.newTokens = try invocation.integer("max-new-tokens") ?? newTokens
    if !invocation.has("ignore-eos") { stop.ends = StopConditions.endIDs(directory: directory) }
    stop.texts = invocation.all("stop")
  }
}

/// What a model said, written as it came.
struct Continuation {
  let text: String
  let tokens: [Int]
  /// Seconds until the first token, and tokens a second after it.
  let readingSeconds: Double
  let rate: Double

  /// Lets a model go on from a prompt: the text goes to the console as it comes, or as one JSON document at its end.
  ///
  /// - Parameter isStopped: asked after each token; true ends the text there.
  /// Throws `CancellationError` if the task is cancelled, and what `PeftModel.generate` and `TextStream` throw.
  init(
    of ids: [Int], _ model: PeftModel, _ tokenizer: Tokenizer, _ request: GenerationRequest,
    keeping kept: KeptSequence? = nil,
    _ console: Console, asJSON: Bool, isStopped: () -> Bool = { false }
  ) throws {
    var stream = try TextStream(tokenizer, after: ids, stops: request.stop.texts)
    let started = Clock.seconds
    var first = started
    tokens = try model.generate(ids, sampling: request.sampling, stop: request.stop, keeping: kept) {
      (token: Int) throws(ModelError) -> Bool in
      if first == started { first = Clock.seconds }
      let text = try stream.add(token)
      if !asJSON && !text.isEmpty { console.modelText(text) }
      return !stream.isStopped && !Task.isCancelled && !isStopped()
    }
    try Task.checkCancellation()
    let rest = try stream.finish()
    text = stream.text
    if asJSON {
      console.json(
        .object([
          .init("text", .string(text)), .init("tokens", .array(tokens.map { .integer($0) })),
          .init("prompt_tokens", .integer(ids.count)),
        ]))
    } else {
      console.modelText(rest + "\n")
    }
    let seconds = Clock.seconds
    readingSeconds = first - started
    rate = tokens.count > 1 && seconds > first ? Double(tokens.count - 1) / (seconds - first) : 0
  }
}

/// `peft-tool generate MODEL`
@Sendable func generateCommand(_ invocation: Invocation, _ console: Console) async throws -> Int32 {
  let places = try ModelPlaces(invocation)
  let request = try GenerationRequest(invocation, directory: places.base)
  let chat = invocation.has("chat") ? try ChatRequest(invocation, directory: places.texts) : nil
  let isBatch = invocation.has("prompts")
  let prompts =
    if let file = invocation.value("prompts") {
      try Prompt.all(in: file, for: chat)
    } else {
      [Prompt(invocation.value("prompt") == "-" ? try StandardInput.text() : invocation.value("prompt") ?? "")]
    }
  let model = try places.load(invocation)
  let tokenizer = try places.tokenizer(for: model)
  let inputs = try prompts.map { prompt in
    // The template's words have the special tokens already.
    try tokenizer.encode(chat?.render(prompt) ?? prompt.text, addsSpecial: chat == nil)
  }
  for ids in inputs {
    let answer = try Continuation(
      of: ids, model, tokenizer, request, console, asJSON: isBatch || invocation.has("json"))
    guard !isBatch else { continue }
    console.note(
      "\(countText(ids.count, "token")) read in \(fixed(answer.readingSeconds, 2)) s, "
        + "\(countText(answer.tokens.count, "token")) made, \(fixed(answer.rate, 1)) a second, "
        + "peak memory \(bytesText(peakResidentBytes))")
  }
  return 0
}
