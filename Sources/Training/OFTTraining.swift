internal import LanguageModels
internal import PEFT
internal import TensorFiles
internal import TensorMath

/// OFT in training: y = base(x·R), R of blocks that rotate, each made of a skew-symmetric one by its entries above the diagonal.
///
/// Gradients: u = gW: dx = u·Rᵀ, dR = Σ xᵀu for each block; an entry's is the difference of dQ's two.
/// Source: peft/tuners/oft/layer.py `OFTRotationModule.forward`.
final class OFTTraining: LinearAdapter {
  private struct Pass: Kept {
    let rotations: BlockRotations
  }

  private let entries: TrainedParameter
  private let size: Int
  private let rule: RotationRule
  private let bound: Float?

  /// - Parameter bound: COFT's `eps`: the greatest norm of all blocks together; nil if they are free.
  init(entries: TrainedParameter, size: Int, rule: RotationRule, bound: Double? = nil) {
    (self.entries, self.size, self.rule) = (entries, size, rule)
    self.bound = bound.map { Float($0) / Float(entries.value.rows).squareRoot() }
  }

  func forward(_ x: LentMatrix, _ layer: FrozenLinear, _ pass: TrainingPass) -> (output: LentMatrix, kept: any Kept) {
    keepWithinBound()
    let rotations = BlockRotations(skews, rule)
    return (layer(rotations.turning(x, in: pass.workspace), in: pass.workspace), Pass(rotations: rotations))
  }

  func backward(
    _ g: LentMatrix, input: LentMatrix, kept: any Kept, _ layer: FrozenLinear, _ pass: TrainingPass, wantsInput: Bool
  ) -> LentMatrix? {
    guard let kept = kept as? Pass else { preconditionFailure("kept by another adapter") }
    let slope = layer.inputGradient(g, in: pass.workspace)
    for (block, matrix) in kept.rotations.gradients(of: input, slope, in: pass.workspace).enumerated() {
      var next = 0
      for row in 0..<size {
        for column in (row + 1)..<max(size, row + 1) {
          entries.gradient[block, next] += Float(matrix[row, column] - matrix[column, row])
          next += 1
        }
      }
    }
    return wantsInput ? kept.rotations.turning(slope, back: true, in: pass.workspace) : nil
  }

  /// Shortens blocks that are longer than COFT allows: the parameter itself, before each pass, whatever the pass is for.
  ///
  /// Source: peft/tuners/oft/layer.py `OFTRotationModule._project_batch`.
  private func keepWithinBound() {
    guard let bound else { return }
    for block in 0..<entries.value.rows {
      let row = LentMatrix(
        entries.value, from: block * entries.value.columns, rows: 1, columns: entries.value.columns)
      // Each entry stands in the block twice. A block that was shortened is within the bound but for rounding.
      let norm = Float((2 * row.squareSum).squareRoot())
      if norm > bound * (1 + 0x1p-20) { row.copy(row.values.map { bound * ($0 / norm) }) }
    }
  }

  private var skews: [Matrix<Double>] {
    (0..<entries.value.rows).map { block in
      var (q, next) = (Matrix<Double>(rows: size, columns: size), 0)
      for row in 0..<size {
        for column in (row + 1)..<max(size, row + 1) {
          q[row, column] = Double(entries.value[block, next])
          q[column, row] = -q[row, column]
          next += 1
        }
      }
      return q
    }
  }
}

extension TrainedMethod {
  static let oft = TrainedMethod(
    type: "OFT",
    module: { reader, path throws(ModelError) in
      let name = "\(AdapterReader.stem(path)).oft_R.weight"
      guard reader.holds(name), let layer = reader.linears[path], !layer.isTransposed else { return }
      let count = reader.shape(name).last ?? 0
      let size = Int((1 + Double(1 + 8 * count).squareRoot()) / 2)
      guard size > 1, size * (size - 1) / 2 == count, layer.inFeatures % size == 0 else {
        throw .unsupported(what: "training '\(name)'", reason: "its blocks do not divide the layer's inputs.")
      }
      try reader.train(name, [reader.flag("block_share") ? 1 : layer.inFeatures / size, count])
      let rule: RotationRule =
        reader.flag("use_cayley_neumann")
        ? .series(terms: try reader.integer("num_cayley_neumann_terms", 0...64)) : .cayley
      // PEFT takes a module_dropout and does nothing with it.
      let bound = reader.flag("coft") ? try reader.number("eps") : nil
      reader.make { $1.linears[path] = OFTTraining(entries: $0.parameter(name), size: size, rule: rule, bound: bound) }
    })
}
