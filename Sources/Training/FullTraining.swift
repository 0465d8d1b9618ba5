internal import LanguageModels
internal import TensorMath

/// A linear layer whose weight is trained as a whole, a copy of the base's: `modules_to_save`.
///
/// Gradients: dW = gᵀx, dx = gW. Source: peft/utils/other.py `ModulesToSaveWrapper`.
final class FullTraining: LinearAdapter {
  private struct Pass: Kept {}

  private let weight: TrainedParameter

  init(weight: TrainedParameter) { self.weight = weight }

  func forward(_ x: LentMatrix, _ layer: FrozenLinear, _ pass: TrainingPass) -> (output: LentMatrix, kept: any Kept) {
    let output = pass.workspace.matrix(x.rows, layer.outFeatures)
    output.setProduct(x, weight.value, transposingSecond: !layer.isTransposed)
    if !layer.bias.isEmpty { output.addToRows(layer.bias) }
    return (output, Pass())
  }

  func backward(
    _ g: LentMatrix, input: LentMatrix, kept: any Kept, _ layer: FrozenLinear, _ pass: TrainingPass, wantsInput: Bool
  ) -> LentMatrix? {
    if layer.isTransposed {
      weight.gradient.setProduct(input, transposingFirst: true, g, adding: true)
    } else {
      weight.gradient.setProduct(g, transposingFirst: true, input, adding: true)
    }
    guard wantsInput else { return nil }
    let gradient = pass.workspace.matrix(input.rows, input.columns)
    gradient.setProduct(g, weight.value, transposingSecond: layer.isTransposed)
    return gradient
  }
}
