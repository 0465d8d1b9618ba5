internal import LanguageModels
internal import TensorMath

/// An adapter of the table of tokens' embeddings while it is trained.
protocol EmbeddingAdapter: AnyObject {
  /// Changes the frozen rows of tokens, which a model's scale has not yet multiplied.
  func apply(to rows: LentMatrix, tokens: [Int], in workspace: Workspace)
  /// Adds to the gradients of the adapter's parameters; `g` is that of the rows. Rows of the padding token are not in it.
  func backward(_ g: LentMatrix, tokens: [Int], in workspace: Workspace)
}

/// LoRA on an embedding: row + s·Aᵀ[token]·Bᵀ. Dropout does not act on it.
///
/// Gradients: h = Aᵀ[token]: dB = s·gᵀh, dA[:, token] += s·gB. Source: peft/tuners/lora/layer.py `Embedding.forward`.
final class EmbeddingLoRATraining: EmbeddingAdapter {
  private let a: TrainedParameter
  private let b: TrainedParameter
  private let scale: Float

  init(a: TrainedParameter, b: TrainedParameter, scale: Float) {
    (self.a, self.b, self.scale) = (a, b, scale)
  }

  func apply(to rows: LentMatrix, tokens: [Int], in workspace: Workspace) {
    rows.setProduct(
      looked(tokens, in: workspace), b.value, transposingSecond: true, scale: scale, adding: true)
  }

  func backward(_ g: LentMatrix, tokens: [Int], in workspace: Workspace) {
    b.gradient.setProduct(
      g, transposingFirst: true, looked(tokens, in: workspace), scale: scale, adding: true)
    let slope = workspace.matrix(g.rows, b.value.columns)
    slope.setProduct(g, b.value, scale: scale)
    for (row, token) in tokens.enumerated() {
      for index in 0..<slope.columns { a.gradient[index, token] += slope[row, index] }
    }
  }

  private func looked(_ tokens: [Int], in workspace: Workspace) -> LentMatrix {
    let result = workspace.matrix(tokens.count, a.value.rows)
    for (row, token) in tokens.enumerated() {
      for index in 0..<result.columns { result[row, index] = a.value[index, token] }
    }
    return result
  }
}

/// A table that is trained as a whole, a copy of the base's: `modules_to_save`. A tied head keeps the base's.
final class FullEmbeddingTraining: EmbeddingAdapter {
  private let weight: TrainedParameter

  init(weight: TrainedParameter) { self.weight = weight }

  func apply(to rows: LentMatrix, tokens: [Int], in workspace: Workspace) {
    rows.copy(weight.value.gathering(tokens, in: workspace))
  }

  func backward(_ g: LentMatrix, tokens: [Int], in workspace: Workspace) { weight.gradient.addRows(g, at: tokens) }
}

/// Some tokens' rows, which are trained in the base's place.
///
/// Source: peft/tuners/trainable_tokens/layer.py `TrainableTokensLayer.forward`.
final class TokenRowsTraining: EmbeddingAdapter {
  private let rows: TrainedParameter
  private let places: [Int: Int]

  /// - Parameter tokens: the token of each row.
  init(rows: TrainedParameter, tokens: [Int]) {
    self.rows = rows
    places = Dictionary(tokens.enumerated().map { ($1, $0) }, uniquingKeysWith: { $1 })
  }

  func apply(to rows: LentMatrix, tokens: [Int], in workspace: Workspace) {
    for (row, token) in tokens.enumerated() {
      guard let place = places[token] else { continue }
      part(rows, row).copy(part(self.rows.value, place))
    }
  }

  func backward(_ g: LentMatrix, tokens: [Int], in workspace: Workspace) {
    for (row, token) in tokens.enumerated() {
      guard let place = places[token] else { continue }
      part(rows.gradient, place).add(part(g, row))
    }
  }

  private func part(_ matrix: LentMatrix, _ row: Int) -> LentMatrix {
    LentMatrix(matrix, from: row * matrix.columns, rows: 1, columns: matrix.columns)
  }
}

/// A head tied to an embedding some of whose rows are trained: those tokens' logits come from the trained rows.
final class TokenRowsHeadTraining: LinearAdapter {
  private struct Pass: Kept {}

  private let rows: TrainedParameter
  private let tokens: [Int]

  init(rows: TrainedParameter, tokens: [Int]) { (self.rows, self.tokens) = (rows, tokens) }

  func forward(_ x: LentMatrix, _ layer: FrozenLinear, _ pass: TrainingPass) -> (output: LentMatrix, kept: any Kept) {
    let output = layer(x, in: pass.workspace)
    let own = pass.workspace.matrix(x.rows, tokens.count)
    own.setProduct(x, rows.value, transposingSecond: true)
    for row in 0..<x.rows {
      for (place, token) in tokens.enumerated() {
        output[row, token] = own[row, place] + (layer.bias.isEmpty ? 0 : layer.bias[token])
      }
    }
    return (output, Pass())
  }

  func backward(
    _ g: LentMatrix, input: LentMatrix, kept: any Kept, _ layer: FrozenLinear, _ pass: TrainingPass, wantsInput: Bool
  ) -> LentMatrix? {
    let own = pass.workspace.matrix(g.rows, tokens.count)
    let others = g.copied(in: pass.workspace)
    for row in 0..<g.rows {
      for (place, token) in tokens.enumerated() {
        own[row, place] = g[row, token]
        others[row, token] = 0
      }
    }
    rows.gradient.setProduct(own, transposingFirst: true, input, adding: true)
    guard wantsInput else { return nil }
    let gradient = layer.inputGradient(others, in: pass.workspace)
    gradient.setProduct(own, rows.value, adding: true)
    return gradient
  }
}
