internal import Glibc

/// The learning rate's course over a run's steps, as a factor of its greatest value.
///
/// Source: transformers/optimization.py `get_scheduler`.
public struct LearningRateSchedule: Sendable, Equatable {
  /// The names that `lr_scheduler_type` takes here.
  public enum Kind: String, Sendable, CaseIterable {
    case linear, cosine, polynomial, constant
    case cosineWithRestarts = "cosine_with_restarts"
    case constantWithWarmup = "constant_with_warmup"
    case inverseSquareRoot = "inverse_sqrt"
  }

  public var kind: Kind = .linear
  /// Steps over which the rate rises from zero.
  public var warmupSteps = 0
  /// Waves of a cosine; nil for half a wave, or one restart.
  public var cycles: Double?
  public var power = 1.0
  /// The rate at the end of a polynomial, not a factor.
  public var endRate = 1e-7
  /// Steps in which an inverse square root halves at first; nil for those of the warm-up, or 10,000.
  public var timescale: Int?

  public init() {}

  /// The factor of the rate that step `step`, counted from 0, uses.
  public func factor(step: Int, steps: Int, rate: Double) -> Double {
    let (k, n, w) = (Double(step), Double(steps), Double(warmupSteps))
    if kind == .constant { return 1 }
    if step < warmupSteps { return k / max(1, w) }
    let progress = (k - w) / max(1, n - w)
    switch kind {
    case .constant, .constantWithWarmup: return 1
    case .linear: return max(0, (n - k) / max(1, n - w))
    case .cosine: return max(0, 0.5 * (1 + cos(.pi * (cycles ?? 0.5) * 2 * progress)))
    case .cosineWithRestarts:
      if progress >= 1 { return 0 }
      return max(0, 0.5 * (1 + cos(.pi * fmod((cycles ?? 1) * progress, 1))))
    case .polynomial:
      if step > steps { return endRate / rate }
      let remaining = 1 - (k - w) / (n - w)
      return ((rate - endRate) * pow(remaining, power) + endRate) / rate
    case .inverseSquareRoot:
      let scale = Double(timescale ?? (warmupSteps > 0 ? warmupSteps : 10_000))
      return 1 / ((k + scale - w) / scale).squareRoot()
    }
  }
}
