internal import LanguageModels
internal import PEFT
internal import TensorFiles
internal import TensorMath

/// BOFT with one factor in training: y = s⊙((x·R)Wᵀ) + b, R of blocks, each the Cayley transform of Q = ½(M - Mᵀ).
///
/// PEFT on a CPU has one factor whatever the configuration says. Gradients: z = (x·R)Wᵀ, u = (g⊙s)W: ds = Σ g⊙z, dx = u·Rᵀ,
/// dM = ½(dQ - dQᵀ). Source: peft/tuners/boft/layer.py `Linear.forward`, `cayley_batch`.
final class BOFTTraining: LinearAdapter {
  private struct Pass: Kept {
    let rotations: BlockRotations
    let product: LentMatrix
  }

  private let matrices: TrainedParameter
  private let factors: TrainedParameter
  private let size: Int
  private let dropout: Double

  /// - Parameter dropout: share of the blocks that turn nothing in a pass.
  init(matrices: TrainedParameter, factors: TrainedParameter, size: Int, dropout: Double = 0) {
    (self.matrices, self.factors, self.size, self.dropout) = (matrices, factors, size, dropout)
  }

  func forward(_ x: LentMatrix, _ layer: FrozenLinear, _ pass: TrainingPass) -> (output: LentMatrix, kept: any Kept) {
    let skews = skews
    let rotations = BlockRotations(skews, .cayley, dropped: dropped(skews.count, pass))
    let product = layer.withoutBias(rotations.turning(x, in: pass.workspace), in: pass.workspace)
    let output = product.copied(in: pass.workspace)
    output.scaleColumns(by: factors.value.values)
    if !layer.bias.isEmpty { output.addToRows(layer.bias) }
    return (output, Pass(rotations: rotations, product: product))
  }

  func backward(
    _ g: LentMatrix, input: LentMatrix, kept: any Kept, _ layer: FrozenLinear, _ pass: TrainingPass, wantsInput: Bool
  ) -> LentMatrix? {
    guard let kept = kept as? Pass else { preconditionFailure("kept by another adapter") }
    g.addColumnProducts(with: kept.product, to: factors.gradient)
    let scaled = g.copied(in: pass.workspace)
    scaled.scaleColumns(by: factors.value.values)
    let slope = layer.inputGradient(scaled, in: pass.workspace)
    for (block, matrix) in kept.rotations.gradients(of: input, slope, in: pass.workspace).enumerated() {
      let gradient = LentMatrix(matrices.gradient, from: block * size * size, rows: size, columns: size)
      for row in 0..<size {
        for column in 0..<size { gradient[row, column] += Float((matrix[row, column] - matrix[column, row]) / 2) }
      }
    }
    return wantsInput ? kept.rotations.turning(slope, back: true, in: pass.workspace) : nil
  }

  /// Which blocks turn nothing in this pass. Source: peft/tuners/boft/layer.py `MultiplicativeDropoutLayer`.
  private func dropped(_ count: Int, _ pass: TrainingPass) -> [Bool] {
    guard pass.drops, dropout > 0 else { return [] }
    // Which of the factors is thinned out: there is one.
    _ = pass.generator.nextBits()
    let order = pass.generator.permutation(of: count, first: count)
    return order.map { $0 < Int(dropout * Double(count)) }
  }

  private var skews: [Matrix<Double>] {
    (0..<matrices.value.count / (size * size)).map { block in
      let values = LentMatrix(matrices.value, from: block * size * size, rows: size, columns: size).values
      let matrix = Matrix<Double>(rows: size, columns: size, values: values.map { Double($0) / 2 })
      var skew = matrix
      skew.add(matrix.transposed, scale: -1)
      return skew
    }
  }
}

extension TrainedMethod {
  static let boft = TrainedMethod(
    type: "BOFT",
    module: { reader, path throws(ModelError) in
      let stem = AdapterReader.stem(path)
      let (matrices, factors) = ("\(stem).boft_R", "\(stem).boft_s")
      guard reader.holds(matrices), let layer = reader.linears[path], !layer.isTransposed else { return }
      let size = reader.shape(matrices).last ?? 0
      guard size > 0, layer.inFeatures % size == 0, reader.shape(matrices).first == 1 else {
        throw .unsupported(what: "training '\(matrices)'", reason: "only one factor, whose blocks fill the inputs, is.")
      }
      try reader.train(matrices, [1, layer.inFeatures / size, size, size])
      try reader.train(factors, [layer.outFeatures, 1])
      let dropout = try reader.number("boft_dropout")
      reader.make { store, parts in
        parts.linears[path] = BOFTTraining(
          matrices: store.parameter(matrices), factors: store.parameter(factors), size: size, dropout: dropout)
      }
    })
}
