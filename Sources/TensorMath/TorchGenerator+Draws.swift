internal import Glibc

extension TorchGenerator {
  /// The next 64 random bits: the first draw is the upper half.
  public mutating func nextLongBits() -> UInt64 {
    let upper = UInt64(nextBits())
    return upper << 32 | UInt64(nextBits())
  }

  /// `kaiming_uniform_(tensor, a: √5)` of a bf16 tensor: drawn in f32, then rounded; what rounds up to the excluded upper
  /// bound becomes the lower one.
  public mutating func kaimingUniformBF16(count: Int, fanIn: Int) -> [Float] {
    guard fanIn > 0 else { return [] }
    let bound = roundedToBF16(Float(1 / Double(fanIn).squareRoot()))
    return kaimingUniform(count: count, fanIn: fanIn).map { value in
      let rounded = roundedToBF16(value)
      return rounded == bound ? -bound : rounded
    }
  }

  /// The first numbers of `torch.randperm(count)`.
  ///
  /// Cost: short permutations, which are drawn from the front, cost as much as `first`; from 2³²/20 numbers on all are
  /// drawn, but only the first are held.
  /// Source: aten/src/ATen/native/TensorFactories.cpp `randperm_cpu`.
  public mutating func permutation(of count: Int, first: Int) -> [Int] {
    if count >= Int(UInt32.max) / 20 { return longPermutation(of: count, first: first) }
    var exchanged: [Int: Int] = [:]
    var result: [Int] = []
    for index in 0..<min(first, count) {
      guard index < count - 1 else {
        result.append(exchanged[index] ?? index)
        break
      }
      let other = index + Int(nextBits()) % (count - index)
      result.append(exchanged[other] ?? other)
      exchanged[other] = exchanged[index] ?? index
      exchanged[index] = nil
    }
    return result
  }

  /// The inside-out shuffle: number i goes to a place up to i, and what stood there goes to place i.
  private mutating func longPermutation(of count: Int, first: Int) -> [Int] {
    let kept = min(first, count)
    var result: [Int] = []
    for index in 0..<count {
      let place = Int(nextLongBits() % UInt64(index + 1))
      if index < kept { result.append(place < index ? result[place] : index) }
      if place < kept { result[place] = index }
    }
    return result
  }

  /// `count` values as `torch.normal(mean, deviation)` draws them in f32.
  ///
  /// From 16 values on, blocks of sixteen uniform numbers become eight pairs (Box-Muller), and a rest is filled by drawing the last sixteen
  /// anew; below, pairs are made in f64.
  /// Precision: bit for bit what torch computes on processors with AVX2, whose approximations `TorchMath` has.
  /// Source: aten/src/ATen/native/cpu/DistributionTemplates.h `normal_fill`, `normal_distribution`.
  public mutating func normal(count: Int, mean: Double, deviation: Double) -> [Float] {
    guard count >= 16 else { return fewNormals(count, mean, deviation) }
    var values = uniform(count: count, low: 0, high: 1)
    for start in stride(from: 0, to: count - 15, by: 16) { Self.pair(&values, start, Float(mean), Float(deviation)) }
    if count % 16 != 0 {
      let start = count - 16
      for (index, value) in uniform(count: 16, low: 0, high: 1).enumerated() { values[start + index] = value }
      Self.pair(&values, start, Float(mean), Float(deviation))
    }
    return values
  }

  /// As `normal` for a tensor of 16 bits, before rounding: only whole blocks are drawn before the rest.
  public mutating func narrowNormal(count: Int, mean: Double, deviation: Double) -> [Float] {
    let whole = count / 16 * 16
    var values = normal(count: count < 16 ? count : whole, mean: mean, deviation: deviation)
    guard whole < count, count >= 16 else { return values }
    values.removeLast(16 - (count - whole))
    return values + normal(count: 16, mean: mean, deviation: deviation)
  }

  private static func pair(_ values: inout [Float], _ start: Int, _ mean: Float, _ deviation: Float) {
    for index in start..<start + 8 {
      let radius = (-2 * TorchMath.log(1 - values[index])).squareRoot()
      let turn = TorchMath.sineAndCosine(2 * Float(Double.pi) * values[index + 8])
      values[index] = mean.addingProduct(radius * turn.cosine, deviation)
      values[index + 8] = mean.addingProduct(radius * turn.sine, deviation)
    }
  }

  private mutating func fewNormals(_ count: Int, _ mean: Double, _ deviation: Double) -> [Float] {
    (0..<count).map { _ in
      if let second = keptNormal {
        keptNormal = nil
        return Float(second * deviation + mean)
      }
      let turn = Double(nextLongBits() & (1 << 53 - 1)) * 0x1p-53
      let other = Double(nextLongBits() & (1 << 53 - 1)) * 0x1p-53
      let radius = (-2 * log1p(-other)).squareRoot()
      keptNormal = radius * sin(2 * Double.pi * turn)
      return Float(radius * cos(2 * Double.pi * turn) * deviation + mean)
    }
  }
}
