internal import LanguageModels
internal import PEFT
internal import TensorFiles
internal import TensorMath

/// AdaLoRA in training: y = base(x) + c·((x̃Aᵀ)⊙E)Bᵀ, c = alpha / (rank + 1e-5).
///
/// Gradients: h = x̃Aᵀ, d = c·gB: dE = Σ d⊙h, dA = (d⊙E)ᵀx̃, dB = c·gᵀ(h⊙E), dx̃ = (d⊙E)A.
/// Source: peft/tuners/adalora/layer.py `SVDLinear.forward`.
final class AdaLoRATraining: LinearAdapter {
  private struct Pass: Kept {
    let projected: LentMatrix
    let mask: DropoutMask?
  }

  let a: TrainedParameter
  let e: TrainedParameter
  let b: TrainedParameter
  private let scale: Float
  private let dropout: Double

  init(a: TrainedParameter, e: TrainedParameter, b: TrainedParameter, scale: Float, dropout: Double) {
    (self.a, self.e, self.b, self.scale, self.dropout) = (a, e, b, scale, dropout)
  }

  var drops: Bool { dropout > 0 }

  func forward(_ x: LentMatrix, _ layer: FrozenLinear, _ pass: TrainingPass) -> (output: LentMatrix, kept: any Kept) {
    let output = layer(x, in: pass.workspace)
    let mask = pass.mask(dropout, columns: x.columns)
    let projected = pass.workspace.matrix(x.rows, a.value.rows)
    projected.setProduct(mask.map { $0(x, in: pass.workspace) } ?? x, a.value, transposingSecond: true)
    let scaled = projected.copied(in: pass.workspace)
    scaled.scaleColumns(by: e.value.values)
    output.setProduct(scaled, b.value, transposingSecond: true, scale: scale, adding: true)
    return (output, Pass(projected: projected, mask: mask))
  }

  func backward(
    _ g: LentMatrix, input: LentMatrix, kept: any Kept, _ layer: FrozenLinear, _ pass: TrainingPass, wantsInput: Bool
  ) -> LentMatrix? {
    guard let kept = kept as? Pass else { preconditionFailure("kept by another adapter") }
    let scaled = kept.projected.copied(in: pass.workspace)
    scaled.scaleColumns(by: e.value.values)
    b.gradient.setProduct(g, transposingFirst: true, scaled, scale: scale, adding: true)
    let slope = pass.workspace.matrix(g.rows, b.value.columns)
    slope.setProduct(g, b.value, scale: scale)
    slope.addColumnProducts(with: kept.projected, to: e.gradient)
    slope.scaleColumns(by: e.value.values)
    let dropped = kept.mask.map { $0(input, in: pass.workspace) } ?? input
    a.gradient.setProduct(slope, transposingFirst: true, dropped, adding: true)
    guard wantsInput else { return nil }
    let through = pass.workspace.matrix(input.rows, input.columns)
    through.setProduct(slope, a.value)
    let gradient = layer.inputGradient(g, in: pass.workspace)
    gradient.add(kept.mask.map { $0(through, in: pass.workspace) } ?? through)
    return gradient
  }
}

extension TrainedMethod {
  static let adaLoRA = TrainedMethod(
    type: "ADALORA",
    module: { reader, path throws(ModelError) in
      let stem = AdapterReader.stem(path)
      guard reader.holds("\(stem).lora_E"), let layer = reader.linears[path] else { return }
      let rank = reader.shape("\(stem).lora_E").first ?? 0
      try reader.train("\(stem).lora_A", [rank, layer.inFeatures])
      try reader.train("\(stem).lora_E", [rank, 1])
      try reader.train("\(stem).lora_B", [layer.outFeatures, rank])
      let (alpha, dropout) = (try reader.number("lora_alpha"), try reader.number("lora_dropout"))
      let scale = Float((alpha > 0 ? alpha : Double(rank)) / (Double(rank) + 1e-5))
      reader.make { store, parts in
        let adapter = AdaLoRATraining(
          a: store.parameter("\(stem).lora_A"), e: store.parameter("\(stem).lora_E"),
          b: store.parameter("\(stem).lora_B"), scale: scale, dropout: dropout)
        parts.linears[path] = adapter
        (parts.budget as? RankAllocator)?.add(adapter, path: path)
      }
    },
    whole: { reader throws(ModelError) in
      guard reader.config.settings["rank_pattern"]?.isEmptyOrFalse ?? true else {
        throw .unsupported(
          what: "going on with a pruned ADALORA", reason: "its ranks are no longer those it began with.")
      }
      let schedule = RankAllocator.Schedule(
        target: try reader.integer("target_r"), start: try reader.integer("tinit"),
        end: try reader.integer("tfinal"), interval: try reader.integer("deltaT", 1...1_000_000_000),
        total: try reader.integer("total_step", 1...1_000_000_000), beta1: Float(try reader.number("beta1")),
        beta2: Float(try reader.number("beta2")), orthogonality: Float(try reader.number("orth_reg_weight")))
      reader.make { store, parts in parts.budget = RankAllocator(schedule, store.workspace) }
    })
}
