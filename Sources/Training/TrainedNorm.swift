internal import TensorMath

/// A norm of a model in training, its weight and bias trained or not.
///
/// Gradients: dw = Σ g⊙x̂, db = Σ g. Source: peft/tuners/ln_tuning/layer.py, `modules_to_save`.
struct TrainedNorm {
  let frozen: RowNorm
  let weight: TrainedParameter?
  let bias: TrainedParameter?

  var isTrained: Bool { weight != nil || bias != nil }

  /// The norm with the values that its parameters have now.
  private var current: RowNorm {
    switch frozen {
    case .rootMeanSquare(let stored, let plus, let epsilon):
      .rootMeanSquare(weight: weight?.value.values ?? stored, plus: plus, epsilon: epsilon)
    case .centred(let stored, let shift, let epsilon):
      .centred(weight: weight?.value.values ?? stored, bias: bias?.value.values ?? shift, epsilon: epsilon)
    }
  }

  func callAsFunction(_ x: LentMatrix, width: Int? = nil, in workspace: Workspace) -> LentMatrix {
    current(x, width: width, in: workspace)
  }

  /// Adds to the parameters' gradients, and to `gradient` what `g`, the gradient of the norm of x, means for x.
  func backward(
    of x: LentMatrix, _ g: LentMatrix, width: Int? = nil, to gradient: LentMatrix?, in workspace: Workspace
  ) {
    if isTrained {
      let columns = width ?? x.columns
      current.addParameterGradients(
        of: x, g, width: width, weight: weight?.gradient ?? workspace.matrix(1, columns), bias: bias?.gradient)
    }
    if let gradient { current.addGradient(of: x, g, width: width, to: gradient) }
  }
}
