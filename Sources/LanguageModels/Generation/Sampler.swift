internal import Glibc
internal import TensorMath

/// How the next token is chosen. Source: transformers/generation/logits_process.py, in its order.
public struct Sampling: Sendable {
  /// 0 takes the likeliest token.
  public var temperature: Double = 0
  /// Only that many of the likeliest tokens; nil for all.
  public var topK: Int?
  /// Only the likeliest tokens that together have this probability.
  public var topP: Double?
  /// Only tokens that are at least this many times as likely as the likeliest.
  public var minP: Double?
  /// Divides the positive logits of tokens that have occurred, and multiplies the negative ones.
  public var repetitionPenalty: Double = 1
  public var seed: UInt64 = 0

  public init() {}
}

/// Chooses tokens from logits.
struct Sampler {
  private let sampling: Sampling
  private var generator: TorchGenerator

  init(_ sampling: Sampling) {
    self.sampling = sampling
    generator = TorchGenerator(seed: sampling.seed)
  }

  /// The next token. `seen` are the tokens so far.
  mutating func next(_ logits: [Float], seen: Set<Int>) -> Int {
    var scores = logits
    if sampling.repetitionPenalty != 1 {
      let penalty = Float(sampling.repetitionPenalty)
      for token in seen where token < scores.count { scores[token] *= scores[token] < 0 ? penalty : 1 / penalty }
    }
    guard sampling.temperature > 0 else {
      var best = 0
      for index in scores.indices where scores[index] > scores[best] { best = index }
      return best
    }
    let inverse = 1 / Float(sampling.temperature)
    // What is e³⁰ times less likely than the likeliest has no share that counts, and need not be sorted.
    let cutoff = (scores.max() ?? 0) * inverse - 30
    var kept: [(token: Int, score: Float)] = []
    for (token, score) in scores.enumerated() where score * inverse >= cutoff { kept.append((token, score * inverse)) }
    // Scores that are no numbers leave nothing to draw from.
    guard !kept.isEmpty else { return 0 }
    kept.sort { $0.score > $1.score }
    if let topK = sampling.topK, topK < kept.count {
      let least = kept[max(0, topK - 1)].score
      kept = Array(kept.prefix { $0.score >= least })
    }
    if let topP = sampling.topP, topP < 1 {
      let shares = Self.shares(kept)
      var (sum, count) = (0.0, 0)
      while count < kept.count, sum < topP || count == 0 { (sum, count) = (sum + shares[count], count + 1) }
      kept = Array(kept.prefix(count))
    }
    if let minP = sampling.minP {
      let shares = Self.shares(kept)
      kept = Array(kept.prefix(max(1, shares.prefix { $0 >= minP * shares[0] }.count)))
    }
    let shares = Self.shares(kept)
    var left = Double(generator.nextLongBits() >> 11) * 0x1p-53
    for (index, share) in shares.enumerated() {
      left -= share
      if left < 0 { return kept[index].token }
    }
    return kept[kept.count - 1].token
  }

  /// Probabilities of scores that are sorted downwards.
  private static func shares(_ scores: [(token: Int, score: Float)]) -> [Double] {
    let largest = scores.first?.score ?? 0
    let powers = scores.map { exp(Double($0.score - largest)) }
    let total = powers.reduce(0, +)
    return powers.map { $0 / total }
  }
}
