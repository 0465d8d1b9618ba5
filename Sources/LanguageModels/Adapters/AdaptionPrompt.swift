internal import TensorMath

/// A layer's learnt prompt, attended to beside the sequence and let in by a gate.
///
/// Source: peft/tuners/adaption_prompt/layer.py `AdaptedAttention.forward`, `AdaptedAttentionGPT.forward`.
struct AdaptionPrompt {
  /// `[length, hidden]`.
  let prompt: Matrix<Float>
  let gate: Float

  /// Adds what the layer's queries, rotated where the model rotates, see in the prompt.
  func add(to result: inout Matrix<Float>, queries: Matrix<Float>, _ attention: Attention) {
    let layout = attention.layout
    var seen = KeyValues(stride: layout.keyHeads * layout.width)
    let isFused = layout.projections.count == 1
    if isFused {
      let all = attention.part(layout.projections[0], as: LinearLayer.self)(prompt)
      let width = layout.heads * layout.width
      seen.append(keys: all.columns(width..<2 * width).values, values: all.columns(2 * width..<3 * width).values)
    } else {
      seen.append(
        keys: attention.part(layout.projections[1], as: LinearLayer.self)(prompt).values,
        values: attention.part(layout.projections[2], as: LinearLayer.self)(prompt).values)
    }
    var change = seen.attend(
      queries, width: layout.width, scale: 1 / Float(layout.width).squareRoot(), window: nil, seesAll: true)
    for index in change.values.indices { change.values[index] *= gate }
    result.add(isFused ? change : attention.part(layout.output, as: LinearLayer.self)(change), scale: 1)
  }
}
