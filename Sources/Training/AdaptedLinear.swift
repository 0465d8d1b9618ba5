internal import LanguageModels
internal import TensorMath

/// What a pass forwards keeps of one layer for the pass backwards. Each adapter has its own.
protocol Kept {}

/// An adapter beside a frozen linear layer while it is trained.
protocol LinearAdapter: AnyObject {
  /// The output of layer and adapter together, and what the way back needs.
  func forward(_ x: LentMatrix, _ layer: FrozenLinear, _ pass: TrainingPass) -> (output: LentMatrix, kept: any Kept)

  /// Adds to the gradients of the adapter's parameters. The gradient of x, if it is wanted.
  ///
  /// - Parameter g: the gradient of the output.
  /// - Parameter input: x again.
  func backward(
    _ g: LentMatrix, input: LentMatrix, kept: any Kept, _ layer: FrozenLinear, _ pass: TrainingPass, wantsInput: Bool
  ) -> LentMatrix?
}

/// A linear layer of a model in training, with an adapter or without.
struct AdaptedLinear {
  let layer: FrozenLinear
  let adapter: (any LinearAdapter)?

  func forward(_ x: LentMatrix, _ pass: TrainingPass) -> (output: LentMatrix, kept: (any Kept)?) {
    adapter?.forward(x, layer, pass) ?? (layer(x, in: pass.workspace), nil)
  }

  /// - Parameter input: computes x again; called only if the adapter needs it.
  func backward(
    _ g: LentMatrix, input: () -> LentMatrix, kept: (any Kept)?, _ pass: TrainingPass, wantsInput: Bool
  ) -> LentMatrix? {
    if let adapter, let kept {
      return adapter.backward(g, input: input(), kept: kept, layer, pass, wantsInput: wantsInput)
    }
    return wantsInput ? layer.inputGradient(g, in: pass.workspace) : nil
  }
}
