/// How many singular values of a change are kept.
public struct RankRule: Sendable, Equatable {
  /// What the number of kept values follows from.
  public enum Choice: Sendable, Equatable {
    /// So many, zeros where the change has fewer.
    case fixed(Int)
    /// The fewest with at least this share of the sum of squares, from 0 to 1.
    ///
    /// Source: peft/tuners/lora/conversion.py `_find_cutoff_index`.
    case energy(Double)
    /// Those greater than the greatest divided by this. Source: sd-scripts networks/resize_lora.py `index_sv_ratio`.
    case ratio(Double)
    /// The fewest with at least this share of the sum. Source: the same, `index_sv_cumulative`.
    case cumulative(Double)
    /// The fewest with at least this share of the root of the sum of squares. Source: the same, `index_sv_fro`.
    case frobenius(Double)
  }

  public var choice: Choice
  /// The greatest rank that a rule may choose; nil for no bound.
  public var limit: Int?
  /// True to keep one more than the rule says, and one of a change whose greatest value is at most 1e-6: what kohya's script does.
  public var countsAsKohya: Bool

  public init(_ choice: Choice, limit: Int? = nil, countsAsKohya: Bool = false) {
    self.choice = choice
    self.limit = limit
    self.countsAsKohya = countsAsKohya
  }

  /// All that is not zero.
  static let whole = RankRule(.energy(1))

  /// Singular values that kohya's script takes for none.
  private static let kohyaZero = 1e-6

  /// True if all changes get the same rank.
  var isFixed: Bool { if case .fixed = choice { true } else { false } }

  /// How many leading values to look at first; nil where only all of them tell.
  var firstCount: Int? {
    switch choice {
    case .fixed(let rank): max(1, rank)
    case .cumulative: nil
    case .energy, .ratio, .frobenius: countsAsKohya ? nil : 16
    }
  }

  /// The rank of a change with these singular values, in falling order; at least 1.
  ///
  /// - Parameter extent: the lesser extent of the change, which has no more singular values.
  func rank(of values: [Double], extent: Int) -> Int {
    let squares = values.map { $0 * $0 }
    let found: Int
    switch choice {
    case .fixed(let rank): return max(1, rank)
    case .energy(let share): found = Self.fewest(squares, share)
    case .ratio(let ratio): found = values.count { $0 > values[0] / ratio }
    case .cumulative(let share): found = Self.fewest(values, share)
    case .frobenius(let share): found = Self.fewest(squares, share * share)
    }
    var rank = max(1, found)
    if countsAsKohya {
      rank = (values.first ?? 0) <= Self.kohyaZero ? 1 : min(rank, max(1, extent - 1)) + 1
    }
    return min(rank, limit ?? rank, max(1, extent))
  }

  /// The rank of a change of which only the leading singular values are known; nil if more must be.
  ///
  /// - Parameters:
  ///   - isWhole: true if there are no others.
  ///   - squares: the sum of squares that counts, what rounding made left out.
  ///   - floor: values up to this are what rounding made, and no rule but a fixed rank keeps them.
  /// Zero if all known values are rounding's.
  func rank(
    ofLeading values: [Double], isWhole: Bool, squares: Double, floor: Double, extent: Int
  ) -> Int? {
    if case .fixed(let rank) = choice {
      let rank = min(max(1, rank), max(1, extent))
      return isWhole || values.count >= rank ? rank : nil
    }
    let signal = Array(values.prefix { $0 > floor })
    guard let first = signal.first else { return values.isEmpty && !isWhole ? nil : 0 }
    let isKnown = isWhole || signal.count < values.count
    var found: Int?
    switch choice {
    case .energy(let share): found = Self.fewest(signal.map { $0 * $0 }, reaching: share * squares)
    case .frobenius(let share): found = Self.fewest(signal.map { $0 * $0 }, reaching: share * share * squares)
    case .ratio(let ratio):
      let count = signal.count { $0 > first / ratio }
      found = count < signal.count ? count : nil
    case .cumulative, .fixed: found = isWhole ? rank(of: signal, extent: extent) : nil
    }
    if found == nil, isKnown { found = signal.count }
    if let limit, found ?? values.count >= limit { return min(limit, extent) }
    return found.map { min(max(1, $0), extent) }
  }

  /// The fewest of falling values whose sum is at least a share of that of all.
  private static func fewest(_ values: [Double], _ share: Double) -> Int {
    fewest(values, reaching: share * values.reduce(0, +)) ?? values.count
  }

  /// The fewest of values whose sum reaches another; nil if that of all does not.
  private static func fewest(_ values: [Double], reaching wanted: Double) -> Int? {
    var sum = 0.0
    for (index, value) in values.enumerated() {
      sum += value
      if sum >= wanted { return index + 1 }
    }
    return nil
  }
}
