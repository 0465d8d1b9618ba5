/// How several tensors of one shape become one. The rules are mergekit's; tensors are those of models, or changes of adapters.
///
/// Source: mergekit 0.1.5, merge_methods/{linear,slerp,nuslerp,generalized_task_arithmetic,model_stock}.py, sparsify.py.
public enum TensorMix: Sendable, Equatable {
  /// What counts as one vector where angles and lengths do.
  public enum Vectors: Sendable, Equatable {
    /// The whole tensor.
    case whole
    /// Each stretch along the last axis.
    case rows
    /// Each stretch along the first axis.
    case columns
  }

  /// Σ factors[i] · tensor i.
  case sum([Double])
  /// The way from the first tensor to the second on a sphere; straight where they point the same or opposite ways.
  case slerp(t: Double)
  /// As `slerp`, on changes if there is a base.
  case nuslerp(t: Double, Vectors)
  /// The base, moved towards the mean by as much as the angles between the changes say. Needs a base and two tensors.
  case stock(Vectors)
  /// The base plus a sum of changes, of which some are left out.
  case changes(ChangeMix)
}

/// A sum of changes; see `TensorMix.changes`.
public struct ChangeMix: Sendable, Equatable {
  /// Which elements of a change are kept.
  public enum Pruning: Sendable, Equatable {
    case none
    /// The share `density` of greatest magnitude, at least one. Of equal ones the first in memory's order.
    case magnitude(density: Double)
    /// The share `density` that is left when the share `gamma` of greatest magnitude and the least are taken away.
    case outliers(density: Double, gamma: Double)
    /// Each with the probability `density`, by torch's draws.
    case random(density: Float)
    /// Each with a probability between density ± epsilon, that rises with its rank by magnitude along the second axis.
    case ranked(density: Double, epsilon: Double)
  }

  /// What each change is multiplied by.
  public var weights: [Double]
  /// One for each change.
  public var pruning: [Pruning]
  /// True to keep only elements whose sign is that of the weighted sum of all changes.
  public var elects = false
  /// True to divide by the weights of what is kept; see `MixingBlock.ChangeRule`.
  public var normalizes = false
  /// True to multiply what is kept of a change so that its magnitudes sum to what they did before.
  public var rescales = false
  /// What the sum is multiplied by.
  public var scale = 1.0

  public init(weights: [Double], pruning: [Pruning]) {
    precondition(weights.count == pruning.count, "a rule for each change")
    self.weights = weights
    self.pruning = pruning
  }

  /// The words that torch's generator gives for changes of so many elements.
  func draws(_ elements: Int) -> Int {
    elements
      * pruning.count { rule in
        switch rule {
        case .random(let density): density < 1
        case .ranked(let density, _): density > 0 && density < 1
        default: false
        }
      }
  }
}
