internal import TensorMath

/// Keys and values that a layer's queries see before the sequence's own. They are trained, and not rotated.
///
/// Attention runs over sequences that are longer by the prefix, whose own queries are zero and whose results are left out.
/// Gradients of its rows are summed over the sequences. Source: peft/tuners/prefix_tuning/model.py; peft/peft_model.py `get_prompt`.
struct TrainedPrefix {
  private let values: TrainedParameter
  private let first: Int
  private let width: Int

  /// - Parameter values: `[rows, layers · 2 · width]`, a layer's keys before its values.
  init(_ values: TrainedParameter, layer: Int, width: Int) {
    self.values = values
    self.width = width
    first = layer * 2 * width
  }

  func attend(
    _ attention: SequenceAttention, _ q: LentMatrix, _ k: LentMatrix, _ v: LentMatrix, _ mask: AttentionMask?,
    _ pass: TrainingPass
  ) -> LentMatrix {
    let (keys, values) = extended(k, v, pass)
    return attention(spread(q, pass), keys, values, lengths: lengths(pass), mask: mask, in: pass.workspace)
      .gathering(places(pass), in: pass.workspace)
  }

  func gradients(
    _ attention: SequenceAttention, _ q: LentMatrix, _ k: LentMatrix, _ v: LentMatrix, _ g: LentMatrix,
    _ mask: AttentionMask?, _ pass: TrainingPass
  ) -> (q: LentMatrix, k: LentMatrix, v: LentMatrix) {
    let (keys, values) = extended(k, v, pass)
    let all = attention.gradients(
      spread(q, pass), keys, values, spread(g, pass), lengths: lengths(pass), mask: mask, in: pass.workspace)
    var start = 0
    for length in lengths(pass) {
      for row in 0..<self.values.value.rows {
        for (part, offset) in [(all.k, first), (all.v, first + width)] {
          place(self.values.gradient, row, offset).add(place(part, start + row, 0))
        }
      }
      start += length
    }
    let own = places(pass)
    return (
      all.q.gathering(own, in: pass.workspace), all.k.gathering(own, in: pass.workspace),
      all.v.gathering(own, in: pass.workspace)
    )
  }

  private func lengths(_ pass: TrainingPass) -> [Int] { pass.lengths.map { $0 + values.value.rows } }

  /// The rows of the sequences' own tokens among all.
  private func places(_ pass: TrainingPass) -> [Int] {
    var (places, start) = ([Int](), 0)
    for length in lengths(pass) {
      places += (start + values.value.rows)..<(start + length)
      start += length
    }
    return places
  }

  /// Rows in the places of tokens, zeros in those of the prefix.
  private func spread(_ rows: LentMatrix, _ pass: TrainingPass) -> LentMatrix {
    let result = pass.workspace.zeros(lengths(pass).reduce(0, +), rows.columns)
    result.addRows(rows, at: places(pass))
    return result
  }

  private func extended(_ k: LentMatrix, _ v: LentMatrix, _ pass: TrainingPass) -> (LentMatrix, LentMatrix) {
    let (keys, values) = (spread(k, pass), spread(v, pass))
    var start = 0
    for length in lengths(pass) {
      for row in 0..<self.values.value.rows {
        place(keys, start + row, 0).copy(place(self.values.value, row, first))
        place(values, start + row, 0).copy(place(self.values.value, row, first + width))
      }
      start += length
    }
    return (keys, values)
  }

  private func place(_ matrix: LentMatrix, _ row: Int, _ column: Int) -> LentMatrix {
    LentMatrix(matrix, from: row * matrix.columns + column, rows: 1, columns: width)
  }
}
