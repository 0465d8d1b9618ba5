internal import TensorFiles

/// What was extracted of the difference of two models, and what was not.
public struct ExtractionReport: Sendable {
  /// A module that got factors.
  public struct Module: Sendable {
    /// Of an expert parameter that of the parameter.
    public let path: String
    public let rank: Int
    /// The greatest rank that the change can have.
    public let extent: Int
    /// ‖ΔW‖².
    public let squares: Double
    /// ‖ΔW - B·A‖² of the factors as they are stored.
    public let lostSquares: Double
    /// The greatest singular value and the least that is kept.
    public let greatest: Double
    public let least: Double
    /// Singular values up to this may be the work of rounding the fine-tuned weights to their dtype.
    public let floor: Double
    /// Kept ranks above the floor.
    public let signalRank: Int

    /// ‖ΔW - B·A‖/‖ΔW‖.
    public var error: Double { WorkbenchReport.ratio(lostSquares, squares) }
    /// The share of ‖ΔW‖² that is kept.
    public var energy: Double { squares > 0 ? max(0, 1 - lostSquares / squares) : 1 }
  }

  /// A tensor that differs and has no factors.
  public struct Other: Sendable {
    /// What it is.
    public enum Kind: String, Sendable, CaseIterable {
      case embedding, head, norm, bias
      /// A weight of whose change no singular value is above what rounding makes.
      case rounding
      /// What no adapter holds that is made here.
      case other
    }

    /// The name in the model.
    public let name: String
    public let kind: Kind
    /// The squares of its change, summed; of rows that the base lacks those of their values.
    public let squares: Double
    /// True if the adapter holds the tensor in full.
    public let isSaved: Bool
  }

  public internal(set) var modules: [Module]
  public internal(set) var others: [Other]
  /// Tensors that are equal in both models.
  public internal(set) var unchanged: Int
  /// Things worth a word.
  public internal(set) var notes: [String]

  /// ‖ΔW‖² of all that differs.
  public var squares: Double {
    modules.reduce(0) { $0 + $1.squares } + others.reduce(0) { $0 + $1.squares }
  }

  /// ‖result - fine-tuned‖² of all that differs.
  public var lostSquares: Double {
    modules.reduce(0) { $0 + $1.lostSquares } + others.reduce(0) { $0 + ($1.isSaved ? 0 : $1.squares) }
  }

  /// ‖result - fine-tuned‖/‖ΔW‖ of all that differs, what was not carried counted.
  public var error: Double { WorkbenchReport.ratio(lostSquares, squares) }

  /// The share of ‖ΔW‖² that is kept.
  public var energy: Double { max(0, 1 - error * error) }
}
