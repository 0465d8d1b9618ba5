internal import Glibc

extension TorchGenerator {
  /// The next 64 random bits: the first draw is the upper half.
  public mutating func nextLongBits() -> UInt64 {
    let upper = UInt64(nextBits())
    return upper << 32 | UInt64(nextBits())
  }

  /// The first numbers of `torch.randperm(count)`.
  ///
  /// Cost: in proportion to `first`, not to `count`: only exchanged places are kept.
  /// Source: aten/src/ATen/native/TensorFactories.cpp `randperm_cpu`.
  public mutating func permutation(of count: Int, first: Int) -> [Int] {
    var exchanged: [Int: Int] = [:]
    var result: [Int] = []
    // Short permutations are drawn with 32 bits a step.
    let isShort = count < Int(UInt32.max) / 20
    for index in 0..<min(first, count) {
      guard index < count - 1 else {
        result.append(exchanged[index] ?? index)
        break
      }
      let rest = count - index
      let step = isShort ? Int(nextBits()) % rest : Int(nextLongBits() % UInt64(rest))
      let other = index + step
      let value = exchanged[other] ?? other
      exchanged[other] = exchanged[index] ?? index
      exchanged[index] = nil
      result.append(value)
    }
    return result
  }

  /// `count` values as `torch.normal(mean, deviation)` draws them in f32.
  ///
  /// From 16 values on, blocks of sixteen uniform numbers become eight pairs (Box-Muller), and a rest is filled by drawing the last sixteen
  /// anew; below, pairs are made in f64.
  /// Precision: torch computes logarithm, sine and cosine with vector code of its own; the last bit may differ.
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

  private static func pair(_ values: inout [Float], _ start: Int, _ mean: Float, _ deviation: Float) {
    for index in start..<start + 8 {
      let radius = Float((-2 * log(1 - Double(values[index]))).squareRoot())
      let angle = Float(2 * Double.pi) * values[index + 8]
      values[index] = mean.addingProduct(radius * Float(cos(Double(angle))), deviation)
      values[index + 8] = mean.addingProduct(radius * Float(sin(Double(angle))), deviation)
    }
  }

  private mutating func fewNormals(_ count: Int, _ mean: Double, _ deviation: Double) -> [Float] {
    var kept: Double?
    return (0..<count).map { _ in
      if let second = kept {
        kept = nil
        return Float(second * deviation + mean)
      }
      let turn = Double(nextLongBits() & (1 << 53 - 1)) * 0x1p-53
      let other = Double(nextLongBits() & (1 << 53 - 1)) * 0x1p-53
      let radius = (-2 * log1p(-other)).squareRoot()
      kept = radius * sin(2 * Double.pi * turn)
      return Float(radius * cos(2 * Double.pi * turn) * deviation + mean)
    }
  }
}
