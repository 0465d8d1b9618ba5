internal import LanguageModels
internal import TensorMath

/// DoRA in training: y = t⊙(xWᵀ + s·(xAᵀ)Bᵀ) + b, t = m / ‖W + s·BA‖ by rows, the norm a constant of the gradient.
///
/// With dropout, y = xWᵀ + b - x̃Wᵀ + t⊙(x̃Wᵀ + s·(x̃Aᵀ)Bᵀ): the base's product of the whole input, and another of what is kept.
/// Gradients: e = g⊙t, z the sum that t multiplies: dm = Σ g⊙z / ‖·‖, dB = s·eᵀh, dA = (s·eB)ᵀx̃, dx̃ = eW + s·eBA.
/// Source: peft/tuners/lora/dora.py `DoraLinearLayer.forward`; variants.py `DoraLinearVariant`.
final class DoRATraining: LinearAdapter {
  private struct Pass: Kept {
    let projected: LentMatrix
    /// What t multiplies.
    let sum: LentMatrix
    let norms: [Float]
    let mask: DropoutMask?
  }

  private let a: TrainedParameter
  private let b: TrainedParameter
  private let magnitude: TrainedParameter
  private let scale: Float
  private let dropout: Double

  init(a: TrainedParameter, b: TrainedParameter, magnitude: TrainedParameter, scale: Float, dropout: Double) {
    (self.a, self.b, self.magnitude, self.scale, self.dropout) = (a, b, magnitude, scale, dropout)
  }

  var drops: Bool { dropout > 0 }

  func forward(_ x: LentMatrix, _ layer: FrozenLinear, _ pass: TrainingPass) -> (output: LentMatrix, kept: any Kept) {
    let workspace = pass.workspace
    let mask = pass.mask(dropout, columns: x.columns)
    let input = mask.map { $0(x, in: workspace) } ?? x
    let projected = workspace.matrix(x.rows, a.value.rows)
    projected.setProduct(input, a.value, transposingSecond: true)
    let plain = layer.withoutBias
    let base = plain(input, in: workspace)
    let sum = base.copied(in: workspace)
    sum.setProduct(projected, b.value, transposingSecond: true, scale: scale, adding: true)
    let norms = norms(layer, workspace)
    let output = sum.copied(in: workspace)
    output.scaleColumns(by: factors(norms))
    if mask != nil {
      output.add(base, scale: -1)
      output.add(plain(x, in: workspace))
    }
    if !layer.bias.isEmpty { output.addToRows(layer.bias) }
    return (output, Pass(projected: projected, sum: sum, norms: norms, mask: mask))
  }

  func backward(
    _ g: LentMatrix, input: LentMatrix, kept: any Kept, _ layer: FrozenLinear, _ pass: TrainingPass, wantsInput: Bool
  ) -> LentMatrix? {
    guard let kept = kept as? Pass else { preconditionFailure("kept by another adapter") }
    let workspace = pass.workspace
    let dropped = kept.mask.map { $0(input, in: workspace) } ?? input
    let slopes = workspace.zeros(1, g.columns)
    g.addColumnProducts(with: kept.sum, to: slopes)
    slopes.scaleColumns(by: kept.norms.map { 1 / $0 })
    magnitude.gradient.add(slopes)
    let scaled = g.copied(in: workspace)
    scaled.scaleColumns(by: factors(kept.norms))
    b.gradient.setProduct(scaled, transposingFirst: true, kept.projected, scale: scale, adding: true)
    let slope = workspace.matrix(g.rows, b.value.columns)
    slope.setProduct(scaled, b.value, scale: scale)
    a.gradient.setProduct(slope, transposingFirst: true, dropped, adding: true)
    guard wantsInput else { return nil }
    if kept.mask != nil { scaled.add(g, scale: -1) }
    let gradient = layer.inputGradient(scaled, in: workspace)
    gradient.setProduct(slope, a.value, adding: true)
    guard let mask = kept.mask else { return gradient }
    let result = layer.inputGradient(g, in: workspace)
    result.add(mask(gradient, in: workspace))
    return result
  }

  private func factors(_ norms: [Float]) -> [Float] { zip(magnitude.value.values, norms).map { $0 / $1 } }

  /// The lengths of the rows of W + s·BA, sums in f64.
  private func norms(_ layer: FrozenLinear, _ workspace: Workspace) -> [Float] {
    let (out, input) = (layer.outFeatures, layer.inFeatures)
    let changed = layer.isTransposed ? workspace.matrix(input, out) : workspace.matrix(out, input)
    if layer.isTransposed {
      changed.setProduct(a.value, transposingFirst: true, b.value, transposingSecond: true, scale: scale)
    } else {
      changed.setProduct(b.value, a.value, scale: scale)
    }
    for row in 0..<changed.rows {
      LentMatrix(changed, from: row * changed.columns, rows: 1, columns: changed.columns)
        .addToRows(layer.weight.row(row))
    }
    guard layer.isTransposed else {
      return (0..<out).map { row in
        Float(LentMatrix(changed, from: row * input, rows: 1, columns: input).squareSum.squareRoot())
      }
    }
    var sums = [Double](repeating: 0, count: out)
    for row in 0..<input {
      for column in 0..<out { sums[column] += Double(changed[row, column]) * Double(changed[row, column]) }
    }
    return sums.map { Float($0.squareRoot()) }
  }
}
