/// Text that a model adds to a prompt, piece by piece: an asynchronous sequence that computes each token when it is asked for.
///
/// Ends at an end-of-sequence token, a stop text, or the greatest number of tokens. Cancelling the task that iterates throws
/// `CancellationError`.
public struct GeneratedText: AsyncSequence {
  let model: PeftModel
  let tokenizer: Tokenizer
  let prompt: [Int]
  let sampling: Sampling
  let stop: StopConditions

  public func makeAsyncIterator() -> Iterator { Iterator(self) }

  /// Computes the text of one run.
  public struct Iterator: AsyncIteratorProtocol {
    private let source: GeneratedText
    private var state: (tokens: TokenGeneration, text: TextStream)?
    private var isOver = false

    init(_ source: GeneratedText) { self.source = source }

    /// The next piece of text, of whole characters; nil at the end. Throws what `PeftModel.generate` throws.
    public mutating func next() async throws -> String? {
      while !isOver {
        try Task.checkCancellation()
        var (tokens, text) =
          try state
          ?? (
            TokenGeneration(source.model, source.prompt, source.sampling, source.stop),
            TextStream(source.tokenizer, after: source.prompt, stops: source.stop.texts)
          )
        let token = try tokens.next()
        let piece = try token.map { token in try text.add(token) } ?? text.finish()
        isOver = token == nil || text.isStopped
        state = (tokens, text)
        if !piece.isEmpty { return piece }
        await Task.yield()
      }
      return nil
    }
  }
}

extension PeftModel {
  /// What the model says after a prompt, piece by piece.
  public func pieces(
    after prompt: String, _ tokenizer: Tokenizer, sampling: Sampling = Sampling(),
    stop: StopConditions = StopConditions()
  ) throws(ModelError) -> GeneratedText {
    GeneratedText(
      model: self, tokenizer: tokenizer, prompt: try tokenizer.encode(prompt), sampling: sampling, stop: stop)
  }

  /// What the model says after a prompt. Throws as `generate`, and `.tokenizerTooCostly`.
  public func text(
    after prompt: String, _ tokenizer: Tokenizer, sampling: Sampling = Sampling(),
    stop: StopConditions = StopConditions()
  ) throws(ModelError) -> String {
    let ids = try tokenizer.encode(prompt)
    var tokens = try TokenGeneration(self, ids, sampling, stop)
    var text = try TextStream(tokenizer, after: ids, stops: stop.texts)
    while let token = try tokens.next() {
      _ = try text.add(token)
      if text.isStopped { break }
    }
    _ = try text.finish()
    return text.text
  }
}
