internal import CKernels

/// torch's CPU random generator: MT19937, seeded as `torch.manual_seed` seeds it.
///
/// Source: aten/src/ATen/core/MT19937RNGEngine.h and DistributionTemplates.h of PyTorch 2.15; checked against golden
/// values from torch in the tests.
public struct TorchGenerator: Sendable, Equatable {
  private var state: [UInt32]
  private var next = 624
  /// The second of a pair of normal numbers that were drawn one by one: the next such draw takes it.
  var keptNormal: Double?

  /// Only the low 32 bits of `seed` count, as in torch.
  public init(seed: UInt64) {
    state = [UInt32(truncatingIfNeeded: seed)]
    state.reserveCapacity(624)
    for index in 1..<624 {
      let previous = state[index - 1]
      state.append(1_812_433_253 &* (previous ^ (previous >> 30)) &+ UInt32(index))
    }
  }

  /// A generator in the middle of its stream; nil unless there are 624 words and `next` is at most 624.
  public init?(words: [UInt32], next: Int) {
    guard words.count == 624, (0...624).contains(next) else { return nil }
    state = words
    self.next = next
  }

  /// The state: 624 words, and the place of the next one.
  public var words: (words: [UInt32], next: Int) { (state, next) }

  /// The next 32 random bits.
  public mutating func nextBits() -> UInt32 {
    if next == 624 { refill() }
    var bits = state[next]
    next += 1
    bits ^= bits >> 11
    bits ^= (bits << 7) & 0x9D2C_5680
    bits ^= (bits << 15) & 0xEFC6_0000
    return bits ^ (bits >> 18)
  }

  private mutating func refill() {
    kernels_twister_refill(&state)
    next = 0
  }

  /// Passes over words. Cost: what making them costs, without drawing from them.
  public mutating func skip(words: Int) {
    var rest = words
    while rest > 0 {
      if next == 624 { refill() }
      let step = min(rest, 624 - next)
      next += step
      rest -= step
    }
  }

  /// `torch.bernoulli` of a density, or of one for each element: one word each.
  mutating func keep(_ count: Int, density: Float, densities: [Float]?, into keep: UnsafeMutablePointer<UInt8>) {
    precondition(densities.map { $0.count >= count } ?? true, "densities are missing")
    // Soundness: the kernel writes `count` bytes, which the caller has, and reads as many densities.
    if let densities {
      kernels_twister_keep(&state, &next, count, density, densities, keep)
    } else {
      kernels_twister_keep(&state, &next, count, density, nil, keep)
    }
  }

  /// Draws of two words each: a bit is 1 where the lower 53 of the 64 are below `limit`. Nil passes over them.
  mutating func draws(_ count: Int, limit: UInt64, into bits: UnsafeMutablePointer<UInt64>?) {
    kernels_twister_draws(&state, &next, count, limit, bits)
  }

  /// `count` values as `torch.empty(count).uniform_(low, high)` draws them in f32.
  public mutating func uniform(count: Int, low: Float, high: Float) -> [Float] {
    // torch's loop is compiled with fused multiply-add.
    (0..<count).map { _ in low.addingProduct(Float(nextBits() & 0xFF_FFFF) * 0x1p-24, high - low) }
  }

  /// `torch.nn.init.kaiming_uniform_(tensor, a: negativeSlope)` for a tensor with that fan-in: uniform within
  /// √3·gain/√fanIn. LoRA's slope is √5. Source: torch/nn/init.py `kaiming_uniform_`, used by peft
  /// `LoraLayer.reset_lora_parameters`.
  public mutating func kaimingUniform(
    count: Int, fanIn: Int, negativeSlope: Double = 5.0.squareRoot()
  ) -> [Float] {
    guard fanIn > 0 else { return [] }
    let gain = (2.0 / (1.0 + negativeSlope * negativeSlope)).squareRoot()
    let bound = Float(3.0.squareRoot() * (gain / Double(fanIn).squareRoot()))
    return uniform(count: count, low: -bound, high: bound)
  }
}
