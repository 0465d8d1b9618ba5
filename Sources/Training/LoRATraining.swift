internal import LanguageModels
internal import TensorMath

/// LoRA in training: y = base(x) + s·(x̃·Aᵀ)·Bᵀ, with x̃ = x where dropout keeps it, divided by 1 - p.
///
/// Gradients: h = x̃Aᵀ, dh = s·gB: dB = s·gᵀh, dA = dhᵀx̃, dx̃ = dh·A. Source: peft/tuners/lora/layer.py `Linear.forward`.
final class LoRATraining: LinearAdapter {
  private struct Pass: Kept {
    let projected: LentMatrix
    let mask: DropoutMask?
  }

  private let a: TrainedParameter
  private let b: TrainedParameter
  private let bias: TrainedParameter?
  private let scale: Float
  private let dropout: Double

  init(a: TrainedParameter, b: TrainedParameter, bias: TrainedParameter? = nil, scale: Float, dropout: Double) {
    self.a = a
    self.b = b
    self.bias = bias
    self.scale = scale
    self.dropout = dropout
  }

  func forward(_ x: LentMatrix, _ layer: FrozenLinear, _ pass: TrainingPass) -> (output: LentMatrix, kept: any Kept) {
    let output = layer(x, in: pass.workspace)
    let mask = pass.mask(dropout, columns: x.columns)
    let input = mask.map { $0(x, in: pass.workspace) } ?? x
    let projected = pass.workspace.matrix(x.rows, a.value.rows)
    projected.setProduct(input, a.value, transposingSecond: true)
    output.setProduct(projected, b.value, transposingSecond: true, scale: scale, adding: true)
    if let bias { output.addToRows(bias.value.values.map { $0 * scale }) }
    return (output, Pass(projected: projected, mask: mask))
  }

  func backward(
    _ g: LentMatrix, input: LentMatrix, kept: any Kept, _ layer: FrozenLinear, _ pass: TrainingPass, wantsInput: Bool
  ) -> LentMatrix? {
    guard let kept = kept as? Pass else { preconditionFailure("kept by another adapter") }
    let dropped = kept.mask.map { $0(input, in: pass.workspace) } ?? input
    b.gradient.setProduct(g, transposingFirst: true, kept.projected, scale: scale, adding: true)
    if let bias { g.addColumnSums(to: bias.gradient, scale: scale) }
    let slope = pass.workspace.matrix(g.rows, b.value.columns)
    slope.setProduct(g, b.value, scale: scale)
    a.gradient.setProduct(slope, transposingFirst: true, dropped, adding: true)
    guard wantsInput else { return nil }
    let gradient = layer.inputGradient(g, in: pass.workspace)
    if let mask = kept.mask {
      let change = pass.workspace.matrix(input.rows, input.columns)
      change.setProduct(slope, a.value)
      gradient.add(mask(change, in: pass.workspace))
    } else {
      gradient.setProduct(slope, a.value, adding: true)
    }
    return gradient
  }
}
