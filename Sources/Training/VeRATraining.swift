internal import LanguageModels
internal import TensorFiles
internal import TensorMath

/// VeRA in training: y = base(x) + λb⊙((λd⊙(x̃Aᵀ))Bᵀ), A and B frozen and shared by all modules.
///
/// Gradients: h = x̃Aᵀ, k = (λd⊙h)Bᵀ: dλb = Σ g⊙k, dh' = (g⊙λb)B, dλd = Σ dh'⊙h, dx̃ = (dh'⊙λd)A.
/// Source: peft/tuners/vera/layer.py `Linear.forward`.
final class VeRATraining: LinearAdapter {
  private struct Pass: Kept {
    let projected: LentMatrix
    let mask: DropoutMask?
  }

  private let a: WeightMatrix
  private let b: WeightMatrix
  private let inner: TrainedParameter
  private let outer: TrainedParameter
  private let dropout: Double

  /// - Parameter inner: λd, a factor of each rank; `outer`, λb, one of each output.
  init(a: WeightMatrix, b: WeightMatrix, inner: TrainedParameter, outer: TrainedParameter, dropout: Double) {
    (self.a, self.b, self.inner, self.outer, self.dropout) = (a, b, inner, outer, dropout)
  }

  var drops: Bool { dropout > 0 }

  func forward(_ x: LentMatrix, _ layer: FrozenLinear, _ pass: TrainingPass) -> (output: LentMatrix, kept: any Kept) {
    let output = layer(x, in: pass.workspace)
    let mask = pass.mask(dropout, columns: x.columns)
    let projected = a.project(mask.map { $0(x, in: pass.workspace) } ?? x, in: pass.workspace)
    let change = change(projected, pass)
    change.scaleColumns(by: outer.value.values)
    output.add(change)
    return (output, Pass(projected: projected, mask: mask))
  }

  func backward(
    _ g: LentMatrix, input: LentMatrix, kept: any Kept, _ layer: FrozenLinear, _ pass: TrainingPass, wantsInput: Bool
  ) -> LentMatrix? {
    guard let kept = kept as? Pass else { preconditionFailure("kept by another adapter") }
    g.addColumnProducts(with: change(kept.projected, pass), to: outer.gradient)
    let scaled = g.copied(in: pass.workspace)
    scaled.scaleColumns(by: outer.value.values)
    let slope = b.project(scaled, transposed: true, in: pass.workspace)
    slope.addColumnProducts(with: kept.projected, to: inner.gradient)
    guard wantsInput else { return nil }
    slope.scaleColumns(by: inner.value.values)
    let through = a.project(slope, transposed: true, in: pass.workspace)
    let gradient = layer.inputGradient(g, in: pass.workspace)
    gradient.add(kept.mask.map { $0(through, in: pass.workspace) } ?? through)
    return gradient
  }

  private func change(_ projected: LentMatrix, _ pass: TrainingPass) -> LentMatrix {
    let scaled = projected.copied(in: pass.workspace)
    scaled.scaleColumns(by: inner.value.values)
    return b.project(scaled, in: pass.workspace)
  }
}

extension TrainedMethod {
  /// The adapter must hold its projections, as it does unless `save_projection` is false.
  static let veRA = TrainedMethod(
    type: "VERA",
    module: { reader, path throws(ModelError) in
      let stem = AdapterReader.stem(path)
      let (inner, outer) = ("\(stem).vera_lambda_d", "\(stem).vera_lambda_b")
      guard reader.holds(inner), let layer = reader.linears[path] else { return }
      let rank = reader.shape(inner).first ?? 0
      let (input, output) = (layer.inFeatures, layer.outFeatures)
      let widths = (a: reader.shape("base_model.vera_A").last ?? 0, b: reader.shape("base_model.vera_B").first ?? 0)
      guard widths.a >= input, widths.b >= output else {
        throw .unsupported(
          what: "training VERA without base_model.vera_A and vera_B that fit '\(path)'",
          reason: "the projections must be in the adapter: save_projection true.")
      }
      let a = try reader.projection("base_model.vera_A", [rank, widths.a])
      let b = try reader.projection("base_model.vera_B", [widths.b, rank])
      try reader.train(outer, [output])
      try reader.train(inner, [rank])
      let dropout = try reader.number("vera_dropout")
      let columns = (0..<rank).flatMap { a[$0 * widths.a..<$0 * widths.a + input] }
      let (first, second) = (
        WeightMatrix(columns, rows: rank, columns: input),
        WeightMatrix(Array(b.prefix(output * rank)), rows: output, columns: rank)
      )
      reader.make { store, parts in
        parts.linears[path] = VeRATraining(
          a: first, b: second, inner: store.parameter(inner), outer: store.parameter(outer), dropout: dropout)
      }
    })
}
