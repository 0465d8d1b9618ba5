/// What the workbench did to the modules of an adapter, and how far the result is from what was asked for.
public struct WorkbenchReport: Sendable {
  /// One module.
  public struct Module: Sendable {
    public internal(set) var path: String
    /// Ranks that go in; of several adapters their sum.
    public let fromRank: Int
    public let rank: Int
    /// ‖ΔW‖² of what was asked for; nil where nothing was computed, because nothing is lost.
    public internal(set) var squares: Double?
    /// ‖result - ΔW‖², what is cut away and what rounding to the dtype adds.
    public let lostSquares: Double
    /// Σσ of what is kept, as a share of all.
    public var keptSum: Double?
    /// The greatest singular value, and its ratio to the least that is kept.
    public var greatest: Double?
    public var spread: Double?

    /// The module of a part of a pipeline.
    func within(_ component: String) -> Module {
      var module = self
      module.path = "\(component).\(path)"
      return module
    }

    /// ‖result - ΔW‖/‖ΔW‖; zero where ΔW is zero and nothing is lost.
    public var error: Double { WorkbenchReport.ratio(lostSquares, squares) }
    /// The share of ‖ΔW‖² that is kept.
    public var energy: Double {
      guard let squares, squares > 0 else { return 1 }
      return max(0, 1 - lostSquares / squares)
    }
  }

  public internal(set) var modules: [Module]
  /// Things worth a word.
  public internal(set) var notes: [String]

  /// ‖result - ΔW‖/‖ΔW‖ of all modules together.
  public var error: Double {
    Self.ratio(modules.reduce(0) { $0 + $1.lostSquares }, modules.reduce(0) { $0 + ($1.squares ?? 0) })
  }

  /// The share of ‖ΔW‖² that is kept of all modules together.
  public var energy: Double { max(0, 1 - error * error) }

  /// The root of what is lost as a share of all; zero where nothing is.
  static func ratio(_ lost: Double, _ squares: Double?) -> Double {
    guard lost > 0 else { return 0 }
    guard let squares, squares > 0 else { return .infinity }
    return (lost / squares).squareRoot()
  }
}
