internal import CKernels

/// The magnitudes that a rule keeps: those between two bounds, and of those that are a bound some, by their place in memory's order.
public struct MagnitudeBand: Sendable {
  var bounds = kernels_band()

  /// - Parameter low: the least magnitude; of the changes that have it those whose number among them is in `lowKept` are kept.
  /// - Parameter high: the greatest magnitude, of which the first `highKept` are kept; nil if there is no bound above.
  init(low: UInt32, lowKept: Range<Int>, high: UInt32?, highKept: Int) {
    bounds.low = low
    bounds.low_from = UInt64(lowKept.lowerBound)
    bounds.low_to = UInt64(lowKept.upperBound)
    bounds.high = high ?? .max
    bounds.high_to = UInt64(highKept)
  }
}

/// Counts of magnitudes by their bits in f32, from which exact bounds of the k greatest are found without sorting.
///
/// Two passes over the values: the first counts the upper halves of the bits, the second the lower halves within the upper ones that
/// bounds lie in. Memory: 256 KiB, and 512 KiB for each bound. Edge: NaNs count as greater than infinities.
public struct MagnitudeCounts: Sendable {
  private var upper = [UInt64](repeating: 0, count: 1 << 15)
  private var lower: [UInt32: [UInt64]] = [:]
  private var isCountingLower = false

  public init() {}

  mutating func add(_ base: UnsafePointer<Float>?, _ x: UnsafePointer<Float>, _ count: Int) {
    guard isCountingLower else {
      kernels_count_magnitudes(base, x, count, &upper)
      return
    }
    for half in Array(lower.keys) { kernels_count_lower_halves(base, x, count, half, &lower[half, default: []]) }
  }

  /// Ends the first pass: the second counts around the values with these numbers, in rising order from zero.
  public mutating func count(around places: [Int]) {
    isCountingLower = true
    for place in places { lower[upperHalf(of: place).half] = [UInt64](repeating: 0, count: 1 << 16) }
  }

  /// Where the value with a number in rising order lies, and how many are below that half.
  private func upperHalf(of place: Int) -> (half: UInt32, below: Int) {
    var below = 0
    for (half, count) in upper.enumerated() {
      if below + Int(count) > place { return (UInt32(half), below) }
      below += Int(count)
    }
    return (UInt32(upper.count - 1), below)
  }

  /// The bits of the value with a number in rising order, how many are less, and how many are the same.
  private func value(at place: Int) -> (bits: UInt32, below: Int, same: Int) {
    var (half, below) = upperHalf(of: place)
    for (rest, count) in (lower[half] ?? []).enumerated() {
      if below + Int(count) > place { return (half << 16 | UInt32(rest), below, Int(count)) }
      below += Int(count)
    }
    half += 1
    return (half << 16, below, 0)
  }

  /// The band of the `kept` greatest. Of those equal to the least of them the first in memory's order are kept.
  ///
  /// Traps unless the passes were made around `total - kept`.
  public func greatest(_ kept: Int, of total: Int) -> MagnitudeBand {
    let (bits, below, same) = value(at: total - kept)
    return MagnitudeBand(low: bits, lowKept: 0..<kept - (total - below - same), high: nil, highKept: 0)
  }

  /// The band of the values with these numbers, in rising order where equal ones follow each other as in memory.
  ///
  /// Traps unless the range has elements and the passes were made around its first and last.
  public func band(_ places: Range<Int>) -> MagnitudeBand {
    let (low, lowBelow, lowSame) = value(at: places.lowerBound)
    let (high, highBelow, _) = value(at: places.upperBound - 1)
    let first = places.lowerBound - lowBelow
    if low == high {
      return MagnitudeBand(low: low, lowKept: first..<first + places.count, high: nil, highKept: 0).only
    }
    return MagnitudeBand(low: low, lowKept: first..<lowSame, high: high, highKept: places.upperBound - highBelow)
  }
}

extension MagnitudeBand {
  /// The band without what lies above its lower bound.
  fileprivate var only: MagnitudeBand {
    var band = self
    // No bits lie between a bound and the next.
    band.bounds.high = bounds.low + 1
    band.bounds.high_to = 0
    return band
  }
}
