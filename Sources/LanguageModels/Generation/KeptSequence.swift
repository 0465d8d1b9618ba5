/// Tokens whose keys and values are kept from one generation to the next, such as the turns of a chat.
///
/// A generation that begins with the same tokens computes the others only. What was computed with other adapters than those that act
/// now is not used, and nothing is kept where an aLoRA acts, which begins anew in each prompt.
public final class KeptSequence {
  private var kept: (cache: KeyValueCache, tokens: [Int], model: PeftModel, changes: Int)?

  public init() {}

  /// Tokens that are kept.
  public var count: Int { kept?.tokens.count ?? 0 }

  /// The cache cut to the tokens that `prompt` begins with, at least one token short of it; nil if none are kept. The sequence has lost
  /// it until `keep`: a pass that fails in the middle leaves no cache.
  func resumed(_ prompt: [Int], on model: PeftModel) -> KeyValueCache? {
    defer { kept = nil }
    guard let kept, kept.model === model, kept.changes == model.changes, !model.isInvocable else { return nil }
    let common = zip(kept.tokens, prompt.dropLast()).prefix { $0 == $1 }.count
    guard common > 0 else { return nil }
    kept.cache.cut(to: model.virtualTokens + common)
    return kept.cache
  }

  /// Keeps a cache and the tokens that it holds, the first ones of `tokens`.
  func keep(_ cache: KeyValueCache, of tokens: [Int], on model: PeftModel) {
    kept = (cache, Array(tokens.prefix(max(0, cache.count - model.virtualTokens))), model, model.changes)
  }
}
