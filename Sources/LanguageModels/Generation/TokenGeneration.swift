internal import TensorMath

/// The tokens that a model adds to a prompt, one at a time.
struct TokenGeneration {
  private let model: PeftModel
  private let stop: StopConditions
  let cache: KeyValueCache
  private var sampler: Sampler
  private var seen: Set<Int>
  private var input: [Int]
  private var count = 0
  private var isOver = false

  /// Throws `.contextTooLong`, and `.unsupported` for an empty prompt, before anything is computed.
  /// - Parameter kept: what an earlier run has of the same beginning.
  init(
    _ model: PeftModel, _ prompt: [Int], _ sampling: Sampling, _ stop: StopConditions, keeping kept: KeptSequence? = nil
  ) throws(ModelError) {
    let needed = model.virtualTokens + prompt.count + max(0, stop.newTokens - 1)
    guard needed <= model.model.contextLength else {
      throw .contextTooLong(tokens: needed + 1, limit: model.model.contextLength)
    }
    guard !prompt.isEmpty else {
      throw .unsupported(what: "an empty prompt", reason: "the model needs a token to go on from.")
    }
    self.model = model
    self.stop = stop
    cache = kept?.resumed(prompt, on: model) ?? model.makeCache()
    sampler = Sampler(sampling)
    seen = Set(prompt)
    input = Array(prompt.dropFirst(max(0, cache.count - model.virtualTokens)))
  }

  /// The next token; nil once an end-of-sequence token came, which is left out, or all were made.
  ///
  /// Throws `.tokenOutside`, and `.file` if the checkpoint is cut meanwhile.
  mutating func next() throws(ModelError) -> Int? {
    guard !isOver, count < stop.newTokens else { return nil }
    let logits = try model.logits(input, cache: cache, lastOnly: true)
    let token = sampler.next(logits.values, seen: seen)
    guard !stop.ends.contains(token) else {
      isOver = true
      return nil
    }
    seen.insert(token)
    input = [token]
    count += 1
    return token
  }
}
