/// NumPy's `default_rng`: PCG64 seeded through `SeedSequence`.
///
/// Source: numpy/random/bit_generator.pyx `SeedSequence`; src/pcg64/pcg64.h (XSL-RR); _generator.pyx `choice`, `shuffle`;
/// src/distributions/distributions.c `random_interval`, `random_bounded_uint64`; checked against NumPy in the tests.
public struct NumPyGenerator {
  private var state: UInt128
  private let increment: UInt128
  /// The upper half of a 64-bit draw of which only the lower 32 bits were used.
  private var kept: UInt32?

  public init(seed: UInt64) {
    let words = SeedSequence(seed).words(8)
    func long(_ index: Int) -> UInt128 { UInt128(UInt64(words[index]) | UInt64(words[index + 1]) << 32) }
    let start = long(0) << 64 | long(2)
    let stream = long(4) << 64 | long(6)
    increment = stream << 1 | 1
    state = 0
    step()
    state &+= start
    step()
  }

  private mutating func step() {
    state = state &* 0x2360_ED05_1FC6_5DA4_4385_DF64_9FCC_F645 &+ increment
  }

  /// The next 64 random bits.
  public mutating func nextLongBits() -> UInt64 {
    step()
    let mixed = UInt64(truncatingIfNeeded: state >> 64) ^ UInt64(truncatingIfNeeded: state)
    let turn = UInt64(truncatingIfNeeded: state >> 122)
    return mixed >> turn | mixed << ((64 - turn) & 63)
  }

  /// The next 32 random bits: both halves of a draw are used, the lower first.
  public mutating func nextBits() -> UInt32 {
    if let upper = kept {
      kept = nil
      return upper
    }
    let bits = nextLongBits()
    kept = UInt32(truncatingIfNeeded: bits >> 32)
    return UInt32(truncatingIfNeeded: bits)
  }

  /// A number from 0 to `most`, by masking and refusing: what `shuffle` draws.
  private mutating func interval(_ most: UInt64) -> UInt64 {
    guard most > 0 else { return 0 }
    let mask = UInt64.max >> UInt64(most.leadingZeroBitCount)
    while true {
      let value = (most <= UInt64(UInt32.max) ? UInt64(nextBits()) : nextLongBits()) & mask
      if value <= most { return value }
    }
  }

  /// A number from 0 to `most`, by Lemire's method: what `integers` and `choice` draw.
  private mutating func bounded(_ most: UInt64) -> UInt64 {
    guard most > 0 else { return 0 }
    if most <= UInt64(UInt32.max) {
      if most == UInt64(UInt32.max) { return UInt64(nextBits()) }
      let span = UInt32(most) + 1
      var product = UInt64(nextBits()) * UInt64(span)
      if UInt32(truncatingIfNeeded: product) < span {
        let threshold = (UInt32.max - UInt32(most)) % span
        while UInt32(truncatingIfNeeded: product) < threshold { product = UInt64(nextBits()) * UInt64(span) }
      }
      return product >> 32
    }
    if most == UInt64.max { return nextLongBits() }
    let span = most + 1
    var product = span.multipliedFullWidth(by: nextLongBits())
    if product.low < span {
      let threshold = (UInt64.max - most) % span
      while product.low < threshold { product = span.multipliedFullWidth(by: nextLongBits()) }
    }
    return product.high
  }

  /// `choice(count, size: size, replace=False)`.
  public mutating func choice(_ count: Int, size: Int) -> [Int64] {
    precondition(size >= 0 && size <= count, "more chosen than there are")
    let cutoff = 50
    if count > 10_000 && size > count / cutoff {
      var all = Array(Int64(0)..<Int64(count))
      tailShuffle(&all, size)
      return Array(all[(count - size)...])
    }
    // Floyd's method with a set, then a shuffle of the result.
    var chosen: Set<Int64> = []
    var result: [Int64] = []
    for number in count - size..<count {
      let drawn = Int64(bounded(UInt64(number)))
      let value = chosen.insert(drawn).inserted ? drawn : Int64(number)
      if value != drawn { chosen.insert(value) }
      result.append(value)
    }
    shuffleFromOne(&result)
    return result
  }

  private mutating func tailShuffle(_ values: inout [Int64], _ size: Int) {
    let count = values.count
    for index in stride(from: count - 1, to: max(count - size, 1) - 1, by: -1) {
      values.swapAt(index, Int(bounded(UInt64(index))))
    }
  }

  private mutating func shuffleFromOne(_ values: inout [Int64]) {
    for index in stride(from: values.count - 1, to: 0, by: -1) {
      values.swapAt(index, Int(bounded(UInt64(index))))
    }
  }

  /// `shuffle` of a one-dimensional array, in place.
  public mutating func shuffle(_ values: inout [Int64]) {
    for index in stride(from: values.count - 1, to: 0, by: -1) {
      values.swapAt(index, Int(interval(UInt64(index))))
    }
  }

  /// Numbers below `length`, each as often as the others or once more, in random order.
  ///
  /// Source: peft/tuners/unilora/model.py `generate_index`.
  public func balancedIndices(count: Int, length: Int) -> [Int64] {
    var generator = self
    let times = count / length
    var data = (0..<Int64(length)).flatMap { [Int64](repeating: $0, count: times) }
    if count % length > 0 { data += generator.choice(length, size: count % length) }
    generator.shuffle(&data)
    return data
  }
}

/// NumPy's `SeedSequence` for one whole number.
private struct SeedSequence {
  private var pool = [UInt32](repeating: 0, count: 4)

  init(_ seed: UInt64) {
    var entropy = [UInt32(truncatingIfNeeded: seed)]
    if seed >> 32 != 0 { entropy.append(UInt32(truncatingIfNeeded: seed >> 32)) }
    var constant: UInt32 = 0x43B0_D7E5
    func hash(_ value: UInt32) -> UInt32 {
      var value = value ^ constant
      constant = constant &* 0x931E_8875
      value = value &* constant
      return value ^ value >> 16
    }
    func mix(_ x: UInt32, _ y: UInt32) -> UInt32 {
      let result = 0xCA01_F9DD &* x &- 0x4973_F715 &* y
      return result ^ result >> 16
    }
    for index in 0..<4 { pool[index] = hash(index < entropy.count ? entropy[index] : 0) }
    for source in 0..<4 {
      for target in 0..<4 where source != target { pool[target] = mix(pool[target], hash(pool[source])) }
    }
  }

  /// `generate_state(count)` in 32-bit words.
  func words(_ count: Int) -> [UInt32] {
    var constant: UInt32 = 0x8B51_F9DD
    return (0..<count).map { index in
      var value = pool[index % 4] ^ constant
      constant = constant &* 0x58F3_8DED
      value = value &* constant
      return value ^ value >> 16
    }
  }
}
