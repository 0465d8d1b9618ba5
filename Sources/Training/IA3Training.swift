internal import LanguageModels
internal import TensorFiles
internal import TensorMath

/// (IA)³ in training: a factor for each output, or in a feed-forward layer for each input.
///
/// Outputs: y = l⊙(xWᵀ + b); dl = Σ g⊙(xWᵀ + b), dx = (g⊙l)W. Inputs: y = (x⊙l)Wᵀ + b; u = gW: dl = Σ u⊙x, dx = u⊙l.
/// Source: peft/tuners/ia3/layer.py `Linear.forward`.
final class IA3Training: LinearAdapter {
  private struct Pass: Kept {
    /// The base's output; nil for factors of inputs.
    let base: LentMatrix?
  }

  private let factors: TrainedParameter
  private let actsOnInput: Bool

  init(factors: TrainedParameter, actsOnInput: Bool) { (self.factors, self.actsOnInput) = (factors, actsOnInput) }

  func forward(_ x: LentMatrix, _ layer: FrozenLinear, _ pass: TrainingPass) -> (output: LentMatrix, kept: any Kept) {
    let scaled = actsOnInput ? x.copied(in: pass.workspace) : layer(x, in: pass.workspace)
    let base = actsOnInput ? nil : scaled.copied(in: pass.workspace)
    scaled.scaleColumns(by: factors.value.values)
    return (actsOnInput ? layer(scaled, in: pass.workspace) : scaled, Pass(base: base))
  }

  func backward(
    _ g: LentMatrix, input: LentMatrix, kept: any Kept, _ layer: FrozenLinear, _ pass: TrainingPass, wantsInput: Bool
  ) -> LentMatrix? {
    guard let kept = kept as? Pass else { preconditionFailure("kept by another adapter") }
    if let base = kept.base {
      g.addColumnProducts(with: base, to: factors.gradient)
      guard wantsInput else { return nil }
      let scaled = g.copied(in: pass.workspace)
      scaled.scaleColumns(by: factors.value.values)
      return layer.inputGradient(scaled, in: pass.workspace)
    }
    let slope = layer.inputGradient(g, in: pass.workspace)
    slope.addColumnProducts(with: input, to: factors.gradient)
    slope.scaleColumns(by: factors.value.values)
    return slope
  }
}

extension TrainedMethod {
  /// The shape says on which side the factors act.
  static let ia3 = TrainedMethod(
    type: "IA3",
    module: { reader, path throws(ModelError) in
      let name = "\(AdapterReader.stem(path)).ia3_l"
      guard reader.holds(name), let layer = reader.linears[path] else { return }
      let actsOnInput = reader.shape(name).first == 1
      try reader.train(name, actsOnInput ? [1, layer.inFeatures] : [layer.outFeatures, 1])
      reader.make { $1.linears[path] = IA3Training(factors: $0.parameter(name), actsOnInput: actsOnInput) }
    })
}
