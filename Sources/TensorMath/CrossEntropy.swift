internal import CKernels

/// The loss of a language model's head, a few rows at a time, so that logits of all rows never exist together.
public enum CrossEntropy {
  /// Rows whose logits exist together.
  public static let chunkRows = 128

  /// The summed loss of rows against their targets.
  ///
  /// - Parameter head: `[vocabulary, hidden]`.
  /// - Parameter share: what a row's loss counts in the gradient: 1 / labelled tokens of the step.
  /// - Parameter gradient: takes the gradient of each row of `hidden`; nil to compute the loss alone.
  /// - Parameter onLogits: gets each chunk's gradient of the logits and its rows' numbers, for a head that is trained.
  /// Traps if a target lies outside the vocabulary.
  public static func loss(
    _ hidden: LentMatrix, head: WeightMatrix, bias: [Float], targets: [Int], smoothing: Float, share: Float,
    gradient: LentMatrix?, in workspace: Workspace, onLogits: ((LentMatrix, Range<Int>) -> Void)? = nil
  ) -> Double {
    precondition(targets.count == hidden.rows, "rows do not fit")
    precondition(targets.allSatisfy { $0 >= 0 && $0 < head.rows }, "no such target")
    var total = 0.0
    for start in stride(from: 0, to: hidden.rows, by: chunkRows) {
      let rows = start..<min(start + chunkRows, hidden.rows)
      let part = LentMatrix(hidden, from: start * hidden.columns, rows: rows.count, columns: hidden.columns)
      let logits = head.project(part, in: workspace)
      if !bias.isEmpty { logits.addToRows(bias) }
      nonisolated(unsafe) let pointer = logits.pointer
      var losses = [Double](repeating: 0, count: rows.count)
      losses.withUnsafeMutableBufferPointer { losses in
        // Soundness: each task changes its own row and its own loss.
        nonisolated(unsafe) let losses = losses
        Parallel.forEach(rows.count) { row in
          losses[row] = kernels_cross_entropy(
            pointer + row * head.rows, head.rows, targets[start + row], smoothing, share)
        }
      }
      total += losses.reduce(0, +)
      onLogits?(logits, rows)
      guard let gradient else { continue }
      let back = head.project(logits, transposed: true, in: workspace)
      LentMatrix(gradient, from: start * hidden.columns, rows: rows.count, columns: hidden.columns).copy(back)
    }
    return total
  }
}
