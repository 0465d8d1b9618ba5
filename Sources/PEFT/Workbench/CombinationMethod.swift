internal import TensorFiles
internal import TensorMath

/// How the changes of several adapters become one, other than by their weighted sum.
///
/// Every rule works on ΔW itself, never on its factors: what A and B are apart is an accident. An adapter without a module counts as
/// one that does not change it. The rules are those of full models, see `TensorMix`, without a base.
public enum CombinationMethod: Sendable, Equatable {
  /// The share `density` of greatest magnitude of each change; signs are elected by the weighted sum; what agrees is added, and divided
  /// by its weights if `normalizes`. Source: Yadav et al., TIES-Merging, 2023.
  case ties(density: Double, normalizes: Bool)
  /// A random share of each change, divided by the share. Source: Yu et al., Language Models are Super Mario, 2023.
  case dare(density: Double, elects: Bool)
  /// The share `density` of greatest magnitude of each change.
  case magnitude(density: Double)
  /// What is left of each change without the share `gamma` of greatest magnitude and the least. Source: Davari and Belilovsky, Model
  /// Breadcrumbs, 2023.
  case breadcrumbs(density: Double, gamma: Double)
  /// A random part of each change, likelier where its row ranks it higher, rescaled. Source: Deep et al., DELLA-Merging, 2024.
  case della(density: Double, epsilon: Double, elects: Bool)
  /// The way from the first change to the second on a sphere; t = w₂ / (w₁ + w₂).
  case slerp
  /// As `slerp`, by normalised directions.
  case nuslerp

  /// The rule for these weights.
  func mix(_ weights: [Double]) -> TensorMix {
    func changes(_ pruning: ChangeMix.Pruning, _ change: (inout ChangeMix) -> Void = { _ in }) -> TensorMix {
      var mix = ChangeMix(weights: weights, pruning: weights.map { _ in pruning })
      change(&mix)
      return .changes(mix)
    }
    let t = weights.count == 2 ? weights[1] / (weights[0] + weights[1]) : 0
    switch self {
    case .ties(let density, let normalizes):
      return changes(.magnitude(density: density)) { ($0.elects, $0.normalizes) = (true, normalizes) }
    case .dare(let density, let elects):
      return changes(.random(density: Float(density))) { mix in
        mix.elects = elects
        mix.weights = weights.map { $0 / density }
      }
    case .magnitude(let density): return changes(.magnitude(density: density))
    case .breadcrumbs(let density, let gamma): return changes(.outliers(density: density, gamma: gamma))
    case .della(let density, let epsilon, let elects):
      return changes(.ranked(density: density, epsilon: epsilon)) { ($0.elects, $0.rescales) = (elects, true) }
    case .slerp: return .slerp(t: t)
    case .nuslerp: return .nuslerp(t: t, .whole)
    }
  }

  /// The words of torch's generator that so many changes of so many elements take.
  func draws(_ elements: Int, of changes: Int) -> Int {
    guard case .changes(let rule) = mix([Double](repeating: 1, count: changes)) else { return 0 }
    return rule.draws(elements)
  }

  /// True if it takes just two adapters, with weights that do not sum to 0.
  public var isPath: Bool { self == .slerp || self == .nuslerp }
}

/// One module's changes mixed by a method; computed when it is read.
struct MixedChange: Sendable {
  let method: CombinationMethod
  /// The adapters' weights; their scales are part of the changes.
  let weights: [Double]
  /// Each adapter's change; nil where it has none.
  let changes: [FactoredChange?]
  let output: Int
  let input: Int
  /// Where the draws begin.
  let generator: TorchGenerator

  /// The mixed ΔW. Precision: changes in f32, sums in f64, rounded once to f32. Throws `.file`.
  func matrix() throws(AdapterError) -> Matrix<Double> {
    var dense: [[Float]] = []
    for change in changes {
      guard let change else {
        dense.append([Float](repeating: 0, count: output * input))
        continue
      }
      dense.append(try change.matrix().values.map { Float($0) })
    }
    let mixer = TensorMixer(
      mix: method.mix(weights), inputs: weights.count, hasBase: false, shape: [output, input])
    var result = Matrix<Double>(rows: output, columns: input)
    do {
      try mixer.run(generator: generator) { elements, block in
        for slot in dense.indices { block.set(slot, dense[slot][elements]) }
      } write: { block, first in
        for (index, value) in block.result.enumerated() { result.values[first + index] = Double(value) }
      }
    } catch {
      preconditionFailure("mixing memory failed: \(error)")
    }
    return result
  }
}
