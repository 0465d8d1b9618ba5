internal import Glibc
internal import TensorMath

/// How well a model foretells a text.
public struct Perplexity: Sendable, Hashable {
  /// Tokens that were foretold.
  public let tokens: Int
  /// Mean of -log p of each token, in nats.
  public let meanLoss: Double
  /// e to the mean loss.
  public var value: Double { exp(meanLoss) }
}

extension PeftModel {
  /// Reads tokens in windows without overlap, each as long as the context or `window`; the first token of each is given.
  ///
  /// Throws `.unsupported` for less than two tokens, `.tokenOutside`.
  public func perplexity(_ tokens: [Int], window: Int? = nil) throws(ModelError) -> Perplexity {
    guard tokens.count >= 2 else {
      throw .unsupported(what: "a perplexity of \(tokens.count) tokens", reason: "two are needed at least.")
    }
    let length = max(2, min(window ?? 1024, model.contextLength - virtualTokens))
    var (loss, count) = (0.0, 0)
    for start in stride(from: 0, to: tokens.count, by: length) {
      let part = Array(tokens[start..<min(start + length, tokens.count)])
      guard part.count >= 2 else { break }
      let logits = try logits(part, cache: makeCache())
      for index in 0..<part.count - 1 {
        let row = logits.values[index * logits.columns..<(index + 1) * logits.columns]
        let largest = row.max() ?? 0
        let total = row.reduce(0.0) { $0 + Double(expf($1 - largest)) }
        loss += log(total) + Double(largest) - Double(row[row.startIndex + part[index + 1]])
        count += 1
      }
    }
    return Perplexity(tokens: count, meanLoss: loss / Double(count))
  }
}
