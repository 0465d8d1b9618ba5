/// How alike the changes of two adapters are, module by module.
public struct AdapterComparison: Sendable {
  /// One module that both adapters change.
  public struct Row: Sendable {
    public let path: String
    /// ⟨ΔW_A, ΔW_B⟩ / (‖ΔW_A‖·‖ΔW_B‖); nil where it is not determined, or one of them is zero.
    public let cosine: Double?
    /// ‖ΔW_A - ΔW_B‖ / ‖ΔW_A‖; nil where it is not determined, or ΔW_A is zero.
    public let relativeDifference: Double?
    /// Of the spaces that the columns span: what the changes write to. Nil without directions, and where they are not computed.
    public let columns: Overlap?
    /// Of the spaces that the rows span: what the changes read.
    public let rows: Overlap?
  }

  /// ‖UᵀV‖² / min(k, l): the mean of cos² over the angles between two spaces of k and l directions.
  public struct Overlap: Sendable {
    /// From 0 for spaces that have nothing in common to 1 if one lies in the other.
    public let value: Double
    /// What random spaces of as many directions have on average.
    public let chance: Double
  }

  /// Modules of both adapters, in the natural order of their paths.
  public let rows: [Row]
  public let onlyInFirst: [String]
  public let onlyInSecond: [String]
  /// Modules of both that are not compared: the adapters alone do not determine ΔW, its extents differ, or it is too large to be held.
  public let undeterminedCount: Int
  /// The cosine of both adapters' whole changes, a module that one lacks being zero there; without the undetermined ones.
  public let cosine: Double?
  /// ‖ΔW_A - ΔW_B‖ / ‖ΔW_A‖ over all modules, as `cosine`.
  public let relativeDifference: Double?
  /// True if the changes were taken with a base.
  public let hasBase: Bool

  /// Compares two adapters, of whatever methods.
  ///
  /// With a base, changes are those that a merge makes; without one, those that the adapters hold whole. Singular vectors of a change
  /// without factors are computed up to a lesser extent of 1024.
  /// Precision: f64. Cost: O(r²·(in + out)) a module where both changes are products, else one pass over each weight and 2²⁶
  /// elements each in memory.
  /// Throws as `ModuleStatistics.init`.
  public init(
    _ first: String, _ second: String, base: String? = nil, options: MergeOptions = MergeOptions()
  ) async throws {
    let one = try AdapterDeltas(directory: first, base: base, options: options)
    let two = try AdapterDeltas(directory: second, base: base, options: options)
    var rows: [Row] = []
    var sums = ModuleDelta.Comparison()
    var (undetermined, determined) = (0, 0)
    for path in one.paths where two.contains(path) {
      try Task.checkCancellation()
      guard let a = try one.delta(of: path), let b = try two.delta(of: path), let found = a.comparison(with: b) else {
        undetermined += 1
        rows.append(Row(path: path, cosine: nil, relativeDifference: nil, columns: nil, rows: nil))
        continue
      }
      determined += 1
      sums.firstSquares += found.firstSquares
      sums.secondSquares += found.secondSquares
      sums.product += found.product
      sums.differenceSquares += found.differenceSquares
      rows.append(
        Row(
          path: path, cosine: found.cosine, relativeDifference: found.relativeDifference,
          columns: found.columns.flatMap(Overlap.init), rows: found.rows.flatMap(Overlap.init)))
    }
    onlyInFirst = one.paths.filter { !two.contains($0) }
    onlyInSecond = two.paths.filter { !one.contains($0) }
    for path in onlyInFirst {
      guard let norm = try one.delta(of: path)?.norm else { continue }
      sums.firstSquares += norm * norm
      sums.differenceSquares += norm * norm
    }
    for path in onlyInSecond {
      guard let norm = try two.delta(of: path)?.norm else { continue }
      sums.secondSquares += norm * norm
      sums.differenceSquares += norm * norm
    }
    self.rows = rows
    undeterminedCount = undetermined
    cosine = determined == 0 && !rows.isEmpty ? nil : sums.cosine
    relativeDifference = determined == 0 && !rows.isEmpty ? nil : sums.relativeDifference
    hasBase = base != nil
  }
}

extension ModuleDelta.Comparison {
  fileprivate var cosine: Double? {
    let norms = firstSquares.squareRoot() * secondSquares.squareRoot()
    return norms > 0 ? max(-1, min(1, product / norms)) : nil
  }

  fileprivate var relativeDifference: Double? {
    firstSquares > 0 ? (differenceSquares / firstSquares).squareRoot() : nil
  }
}

extension AdapterComparison.Overlap {
  fileprivate init?(_ overlap: ModuleDelta.Overlap) {
    guard overlap.fewer > 0, overlap.extent > 0 else { return nil }
    value = min(1, overlap.cosineSquares / Double(overlap.fewer))
    chance = Double(overlap.more) / Double(overlap.extent)
  }
}
