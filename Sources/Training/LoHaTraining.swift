internal import LanguageModels
internal import PEFT
internal import TensorFiles
internal import TensorMath

/// LoHa in training: y = base(x) + s·x·((w1a·w1b)⊙(w2a·w2b))ᵀ.
///
/// Gradients: G = s·gᵀx, P1 and P2 the products: dw1a = (G⊙P2)w1bᵀ, dw1b = w1aᵀ(G⊙P2), dw2a = (G⊙P1)w2bᵀ, dw2b = w2aᵀ(G⊙P1),
/// dx = g(W + ΔW). Source: peft/tuners/loha/layer.py `HadaWeight`.
final class LoHaTraining: LinearAdapter {
  private struct Pass: Kept {}

  private let first: (a: TrainedParameter, b: TrainedParameter)
  private let second: (a: TrainedParameter, b: TrainedParameter)
  private let scale: Float

  init(
    first: (a: TrainedParameter, b: TrainedParameter), second: (a: TrainedParameter, b: TrainedParameter), scale: Float
  ) {
    (self.first, self.second, self.scale) = (first, second, scale)
  }

  func forward(_ x: LentMatrix, _ layer: FrozenLinear, _ pass: TrainingPass) -> (output: LentMatrix, kept: any Kept) {
    let output = layer(x, in: pass.workspace)
    output.setProduct(x, change(pass.workspace), transposingSecond: true, scale: scale, adding: true)
    return (output, Pass())
  }

  func backward(
    _ g: LentMatrix, input: LentMatrix, kept: any Kept, _ layer: FrozenLinear, _ pass: TrainingPass, wantsInput: Bool
  ) -> LentMatrix? {
    let workspace = pass.workspace
    let slope = workspace.matrix(g.columns, input.columns)
    slope.setProduct(g, transposingFirst: true, input, scale: scale)
    for (own, other) in [(first, second), (second, first)] {
      let part = slope.copied(in: workspace)
      part.multiply(product(other, workspace))
      own.a.gradient.setProduct(part, own.b.value, transposingSecond: true, adding: true)
      own.b.gradient.setProduct(own.a.value, transposingFirst: true, part, adding: true)
    }
    guard wantsInput else { return nil }
    let gradient = layer.inputGradient(g, in: workspace)
    gradient.setProduct(g, change(workspace), scale: scale, adding: true)
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

extension AdapterReader {
  /// alpha / r of a LyCORIS method for a module; both have patterns, which are LoRA's.
  ///
  /// Throws `.unsupported` for dropout of ranks or modules, `.adapter` as `LoRAScaling`.
  func lycorisScale(_ path: String) throws(ModelError) -> Float {
    for key in ["rank_dropout", "module_dropout"] where try number(key) != 0 {
      throw .unsupported(what: "training \(config.peftType.rawValue) with \(key)", reason: "only 0 is trained here.")
    }
    let names = [
      ("r", "r"), ("alpha", "lora_alpha"), ("rank_pattern", "rank_pattern"), ("alpha_pattern", "alpha_pattern"),
    ]
    let members =
      [JSONValue.Member("peft_type", .string("LORA"))]
      + names.compactMap { own, theirs in config.settings[own].map { JSONValue.Member(theirs, $0) } }
    let values = try withAdapterErrors({ () throws(AdapterError) in
      let config = try PeftConfig(json: .object(members), path: PeftConfig.fileName)
      return try LoRAScaling(config, path: PeftConfig.fileName).values(for: path)
    })
    return Float(values.scale)
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
      reader.make { store, parts in
        let pair = { (side: String) in
          (a: store.parameter("\(stem).hada_\(side)_a"), b: store.parameter("\(stem).hada_\(side)_b"))
        }
        parts.linears[path] = LoHaTraining(first: pair("w1"), second: pair("w2"), scale: scale)
      }
    })
}
