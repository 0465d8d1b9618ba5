internal import TensorMath

/// DoRA on an embedding: t⊙(row + s·Aᵀ[token]·Bᵀ), t = m / the lengths of the columns of the table with its change, which are
/// constants of the gradient.
///
/// Gradients: z the sum that t multiplies, e = g⊙t: dm = Σ g⊙z / ‖·‖, A and B as LoRA's by e.
/// Source: peft/tuners/lora/dora.py `DoraEmbeddingLayer.forward`; variants.py `DoraEmbeddingVariant`.
final class EmbeddingDoRATraining: EmbeddingAdapter {
  private let factors: EmbeddingLoRATraining
  private let magnitude: TrainedParameter
  private let table: WeightMatrix
  /// Rows of the table whose change exists at the same time.
  private static let chunkRows = 512

  init(_ factors: EmbeddingLoRATraining, magnitude: TrainedParameter, table: WeightMatrix) {
    (self.factors, self.magnitude, self.table) = (factors, magnitude, table)
  }

  func apply(to rows: LentMatrix, tokens: [Int], in workspace: Workspace) {
    factors.apply(to: rows, tokens: tokens, in: workspace)
    rows.scaleColumns(by: zip(magnitude.value.values, norms(workspace)).map { $0 / $1 })
  }

  func backward(_ g: LentMatrix, tokens: [Int], in workspace: Workspace) {
    let norms = norms(workspace)
    let sums = changed(tokens, workspace)
    let slopes = workspace.zeros(1, g.columns)
    g.addColumnProducts(with: sums, to: slopes)
    slopes.scaleColumns(by: norms.map { 1 / $0 })
    magnitude.gradient.add(slopes)
    let scaled = g.copied(in: workspace)
    scaled.scaleColumns(by: zip(magnitude.value.values, norms).map { $0 / $1 })
    factors.backward(scaled, tokens: tokens, in: workspace)
  }

  /// Rows of the table with their change.
  private func changed(_ tokens: [Int], _ workspace: Workspace) -> LentMatrix {
    let rows = workspace.matrix(tokens.count, table.columns)
    for (row, token) in tokens.enumerated() {
      LentMatrix(rows, from: row * rows.columns, rows: 1, columns: rows.columns).copy(table.row(token))
    }
    factors.apply(to: rows, tokens: tokens, in: workspace)
    return rows
  }

  private func norms(_ workspace: Workspace) -> [Float] {
    var sums = [Double](repeating: 0, count: table.columns)
    for start in stride(from: 0, to: table.rows, by: Self.chunkRows) {
      let rows = changed(Array(start..<min(start + Self.chunkRows, table.rows)), workspace)
      for row in 0..<rows.rows {
        for column in sums.indices { sums[column] += Double(rows[row, column]) * Double(rows[row, column]) }
      }
    }
    return sums.map { Float($0.squareRoot()) }
  }
}
