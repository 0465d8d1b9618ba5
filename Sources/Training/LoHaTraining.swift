internal import LanguageModels
internal import PEFT
internal import TensorFiles
internal import TensorMath

/// LoHa in training: y = base(x) + s·x·((w1a·w1b)⊙(w2a·w2b))ᵀ.
///
/// Gradients: G = s·gᵀx, P1 and P2 the products: dw1a = (G⊙P2)w1bᵀ, dw1b = w1aᵀ(G⊙P2), dw2a = (G⊙P1)w2bᵀ, dw2b = w2aᵀ(G⊙P1),
/// dx = g(W + ΔW). Source: peft/tuners/loha/layer.py `HadaWeight`.
final class LoHaTraining: OccasionalAdapter {
  private struct Pass: Kept {
    let dropped: LycorisDropout.Draw
  }

  private let first: (a: TrainedParameter, b: TrainedParameter)
  private let second: (a: TrainedParameter, b: TrainedParameter)
  private let scale: Float
  private let dropout: LycorisDropout
  let parameterNames: [String]
  var takesPart = false

  init(
    first: (a: TrainedParameter, b: TrainedParameter), second: (a: TrainedParameter, b: TrainedParameter), scale: Float,
    dropout: LycorisDropout = LycorisDropout(), parameterNames: [String] = []
  ) {
    (self.first, self.second, self.scale, self.dropout) = (first, second, scale, dropout)
    self.parameterNames = parameterNames
  }

  func forward(_ x: LentMatrix, _ layer: FrozenLinear, _ pass: TrainingPass) -> (output: LentMatrix, kept: any Kept) {
    let output = layer(x, in: pass.workspace)
    let dropped = dropout.draw(outputs: layer.outFeatures, pass)
    if dropped.leavesOut { return (output, Pass(dropped: dropped)) }
    takesPart = true
    let change = pass.workspace.matrix(output.rows, output.columns)
    change.setProduct(x, self.change(pass.workspace), transposingSecond: true, scale: scale)
    dropped.scaleColumns(of: change)
    output.add(change)
    return (output, Pass(dropped: dropped))
  }

  func backward(
    _ g: LentMatrix, input: LentMatrix, kept: any Kept, _ layer: FrozenLinear, _ pass: TrainingPass, wantsInput: Bool
  ) -> LentMatrix? {
    guard let dropped = (kept as? Pass)?.dropped else { preconditionFailure("kept by another adapter") }
    let workspace = pass.workspace
    if dropped.leavesOut { return wantsInput ? layer.inputGradient(g, in: workspace) : nil }
    let own = g.copied(in: workspace)
    dropped.scaleColumns(of: own)
    let slope = workspace.matrix(g.columns, input.columns)
    slope.setProduct(own, transposingFirst: true, input, scale: scale)
    for (half, other) in [(first, second), (second, first)] {
      let part = slope.copied(in: workspace)
      part.multiply(product(other, workspace))
      half.a.gradient.setProduct(part, half.b.value, transposingSecond: true, adding: true)
      half.b.gradient.setProduct(half.a.value, transposingFirst: true, part, adding: true)
    }
    guard wantsInput else { return nil }
    let gradient = layer.inputGradient(g, in: workspace)
    gradient.setProduct(own, change(workspace), scale: scale, adding: true)
    return gradient
  }

  private func product(_ pair: (a: TrainedParameter, b: TrainedParameter), _ workspace: Workspace) -> LentMatrix {
    let result = workspace.matrix(pair.a.value.rows, pair.b.value.columns)
    result.setProduct(pair.a.value, pair.b.value)
    return result
  }

  private func change(_ workspace: Workspace) -> LentMatrix {
    let result = product(first, workspace)
    result.multiply(product(second, workspace))
    return result
  }
}

extension TrainedMethod {
  static let loHa = TrainedMethod(
    type: "LOHA",
    module: { reader, path throws(ModelError) in
      let stem = AdapterReader.stem(path)
      guard reader.holds("\(stem).hada_w1_a"), let layer = reader.linears[path], !layer.isTransposed else { return }
      let rank = reader.shape("\(stem).hada_w1_a").last ?? 0
      for side in ["w1", "w2"] {
        try reader.train("\(stem).hada_\(side)_a", [layer.outFeatures, rank])
        try reader.train("\(stem).hada_\(side)_b", [rank, layer.inFeatures])
      }
      let scale = try reader.lycorisScale(path)
      let dropout = try reader.lycorisDropout(dividesByMean: true)
      reader.make { store, parts in
        let pair = { (side: String) in
          (a: store.parameter("\(stem).hada_\(side)_a"), b: store.parameter("\(stem).hada_\(side)_b"))
        }
        let adapter = LoHaTraining(
          first: pair("w1"), second: pair("w2"), scale: scale, dropout: dropout,
          parameterNames: ["w1", "w2"].flatMap { ["\(stem).hada_\($0)_a", "\(stem).hada_\($0)_b"] })
        parts.linears[path] = adapter
        if dropout.module > 0 { parts.occasional.append(adapter) }
        if dropout.module > 0 || dropout.ranks > 0 { parts.drawsVary = true }
      }
    })
}
