internal import CKernels

/// The loss of a language model's head, a few rows at a time, so that logits of all rows never exist together.
public enum CrossEntropy {
  /// Rows of logits that exist together.
  public static let chunkRows = 128

  /// Puts the gradients of logits in their places. The summed loss of their rows; a row whose target is -100 has neither.
  ///
  /// Traps if a target lies outside the vocabulary.
  public static func replaceByGradients(
    _ logits: LentMatrix, targets: [Int], smoothing: Float, share: Float
  ) -> Double {
    let vocabulary = logits.columns
    precondition(targets.count == logits.rows, "rows do not fit")
    precondition(targets.allSatisfy { $0 == -100 || ($0 >= 0 && $0 < vocabulary) }, "no such target")
    nonisolated(unsafe) let pointer = logits.pointer
    var losses = [Double](repeating: 0, count: logits.rows)
    losses.withUnsafeMutableBufferPointer { losses in
      // Soundness: each task changes its own row and its own loss.
      nonisolated(unsafe) let losses = losses
      Parallel.forEach(targets.count) { row in
        let line = pointer + row * vocabulary
        if targets[row] == -100 {
          line.update(repeating: 0, count: vocabulary)
        } else {
          losses[row] = kernels_cross_entropy(line, vocabulary, targets[row], smoothing, share)
        }
      }
    }
    return losses.reduce(0, +)
  }

  /// The summed loss of rows against their targets.
  ///
  /// - Parameter head: `[vocabulary, hidden]`.
  /// - Parameter share: what a row's loss counts in the gradient: 1 / labelled tokens of the step.
  /// - Parameter gradient: takes the gradient of each row of `hidden`; nil to compute the loss alone.
  /// Traps if a target lies outside the vocabulary.
  public static func loss(
    _ hidden: LentMatrix, head: WeightMatrix, bias: [Float], targets: [Int], smoothing: Float, share: Float,
    gradient: LentMatrix?, in workspace: Workspace
  ) -> Double {
    precondition(targets.count == hidden.rows, "rows do not fit")
    var total = 0.0
    for start in stride(from: 0, to: hidden.rows, by: chunkRows) {
      let rows = start..<min(start + chunkRows, hidden.rows)
      let part = LentMatrix(hidden, from: start * hidden.columns, rows: rows.count, columns: hidden.columns)
      let logits = head.project(part, in: workspace)
      if !bias.isEmpty { logits.addToRows(bias) }
      total += replaceByGradients(logits, targets: Array(targets[rows]), smoothing: smoothing, share: share)
      guard let gradient else { continue }
      let back = head.project(logits, transposed: true, in: workspace)
      LentMatrix(gradient, from: start * hidden.columns, rows: rows.count, columns: hidden.columns).copy(back)
    }
    return total
  }
}
