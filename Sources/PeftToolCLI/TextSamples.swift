internal import LanguageModels
internal import PEFT
internal import TensorFiles
internal import Training

/// What an adapter that is being trained goes on with after given prompts, for `--sample-prompt`.
struct TextSamples {
  /// The prompts as they were given.
  let prompts: [String]
  private let base: String
  private let tokenizer: Tokenizer?
  private let tokens: [[Int]]
  private let stop: StopConditions

  /// - Parameter context: tokens that the model takes.
  /// Throws `UsageError.badValue` for a prompt that leaves no room for an answer, and what the tokenizer and the template throw.
  init(_ invocation: Invocation, base: String, context: Int) throws {
    self.base = base
    prompts = invocation.all("sample-prompt")
    var stop = StopConditions()
    stop.newTokens = try invocation.integer("sample-tokens") ?? 48
    guard stop.newTokens > 0 else {
      throw UsageError.badValue(
        flag: "sample-tokens", found: "\(stop.newTokens)", expected: "a whole number from 1")
    }
    stop.ends = StopConditions.endIDs(directory: base)
    self.stop = stop
    guard !prompts.isEmpty else {
      (tokenizer, tokens) = (nil, [])
      return
    }
    let tokenizer = try Tokenizer(directory: base)
    let template = try? ChatTemplate(directory: base)
    self.tokenizer = tokenizer
    tokens = try prompts.map { prompt in
      let ids =
        try template.map {
          try tokenizer.encode($0.render([ChatTemplate.message(role: "user", prompt)]), addsSpecial: false)
        } ?? tokenizer.encode(prompt)
      guard !ids.isEmpty, ids.count + stop.newTokens <= context else {
        throw UsageError.badValue(
          flag: "sample-prompt", found: prompt,
          expected: "a text of at most \(max(0, context - stop.newTokens)) tokens, of which it has \(ids.count)")
      }
      return ids
    }
  }

  /// The text that the adapter gives after each prompt, token by token the likeliest.
  ///
  /// The adapter goes, as it would be saved, beside the base, whose weights are mapped.
  /// Throws what loading and generating throw.
  func texts(of run: TrainingRun) throws -> [String] {
    guard let tokenizer, !prompts.isEmpty else { return [] }
    let model = try PeftModel(base: base)
    try model.add(run.adapter(), named: "default")
    return try tokens.map { ids in
      var stream = try TextStream(tokenizer, after: ids)
      _ = try model.generate(ids, stop: stop) { (token: Int) throws(ModelError) -> Bool in
        _ = try stream.add(token)
        return !Task.isCancelled
      }
      _ = try stream.finish()
      return stream.text
    }
  }
}
