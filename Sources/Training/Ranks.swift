/// Programs that do one piece of work together, or one that does it alone.
///
/// All ranks call the same methods in the same order; each call returns when all have made it. Where a rank is gone, the
/// engine that started them ends the others: no call says so.
public protocol Ranks: Sendable {
  /// Which of the ranks this one is, counted from zero. Rank 0 speaks and writes for all.
  var rank: Int { get }
  /// How many there are.
  var count: Int { get }
  /// What every rank gave, by ranks.
  func gather(_ bytes: [UInt8]) -> [[UInt8]]
  /// What every rank gave, one after the other. All give as many.
  func gather(_ values: [Float]) -> [Float]
  /// Of `count` parts of the same length, which stand one after the other, each goes to the rank of its place. What this one got,
  /// one after the other. All give as many.
  func exchange(_ values: [Float]) -> [Float]
  /// The last call, of every rank that comes to its end.
  func end()
  /// Ends all ranks at once, after a failure of this one.
  func endAll(code: Int32)
}

/// A program alone.
public struct OneRank: Ranks {
  public let rank = 0
  public let count = 1

  public init() {}

  public func gather(_ bytes: [UInt8]) -> [[UInt8]] { [bytes] }
  public func gather(_ values: [Float]) -> [Float] { values }
  public func exchange(_ values: [Float]) -> [Float] { values }
  public func end() {}
  public func endAll(code: Int32) {}
}

extension Ranks {
  /// True for the rank that speaks and writes.
  public var isFirst: Bool { rank == 0 }
  public var isAlone: Bool { count == 1 }

  /// Waits for all.
  public func wait() { if !isAlone { _ = gather([UInt8]()) } }

  /// What rank 0 says. The others' `text` does not count.
  public func shared(_ text: String) -> String {
    isAlone ? text : String(decoding: gather(isFirst ? Array(text.utf8) : [])[0], as: UTF8.self)
  }

  /// True if all ranks say so.
  public func allAgree(_ agrees: Bool) -> Bool {
    isAlone ? agrees : gather([agrees ? UInt8(1) : 0]).allSatisfy { $0 == [1] }
  }

  /// Numbers that every rank gave, by ranks, to the bit.
  func gather(_ values: [Double]) -> [[Double]] {
    guard !isAlone else { return [values] }
    let bytes = values.flatMap { value in (0..<8).map { UInt8(truncatingIfNeeded: value.bitPattern >> ($0 * 8)) } }
    return gather(bytes).map { bytes in
      stride(from: 0, to: bytes.count, by: 8).map { start in
        Double(bitPattern: (0..<8).reduce(UInt64(0)) { $0 | UInt64(bytes[start + $1]) << UInt64($1 * 8) })
      }
    }
  }
}
