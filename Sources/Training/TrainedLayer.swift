internal import LanguageModels
internal import TensorMath

/// A decoder layer in training: forwards with what must be kept, and backwards.
///
/// Norms' outputs, rotated copies and the function's result are computed again on the way back.
struct TrainedLayer {
  /// What the way back needs of a pass forwards.
  struct Tape {
    let x: LentMatrix
    let attention: (q: LentMatrix, k: LentMatrix, v: LentMatrix, seen: LentMatrix)
    /// Queries and keys before their norms, where a model has such.
    let unnormalised: (q: LentMatrix, k: LentMatrix)?
    /// After the first sum, before the norm that follows it if one does.
    let middle: LentMatrix
    let gate: LentMatrix?
    let up: LentMatrix
    /// The second sum, where a norm follows it.
    let last: LentMatrix?
    let kept: [(any Kept)?]
  }

  let layer: FrozenDecoderLayer
  private let projections: [AdaptedLinear]
  private let output: AdaptedLinear
  private let gate: AdaptedLinear?
  private let up: AdaptedLinear
  private let down: AdaptedLinear

  init(_ layer: FrozenDecoderLayer, adapter: (String) -> (any LinearAdapter)?) {
    self.layer = layer
    func adapted(_ linear: FrozenLinear) -> AdaptedLinear {
      AdaptedLinear(layer: linear, adapter: adapter(linear.path))
    }
    projections = layer.projections.map(adapted)
    output = adapted(layer.output)
    gate = layer.gate.map(adapted)
    up = adapted(layer.up)
    down = adapted(layer.down)
  }

  private var trainsProjections: Bool { projections.contains { $0.adapter != nil } }
  private var trainsAttention: Bool { trainsProjections || output.adapter != nil }
  /// True if anything in the layer is trained.
  var isTrained: Bool { trainsAttention || [gate, up, down].contains { $0?.adapter != nil } }

  /// - Parameter keeps: whether a tape is wanted.
  func forward(_ x: LentMatrix, _ pass: TrainingPass, keeps: Bool) -> (output: LentMatrix, tape: Tape?) {
    let workspace = pass.workspace
    var kept: [(any Kept)?] = []
    func run(_ linear: AdaptedLinear, _ input: LentMatrix) -> LentMatrix {
      let (output, values) = linear.forward(input, pass)
      kept.append(values)
      return output
    }
    let input = layer.normsAfter ? x : layer.attentionNorm(x, in: workspace)
    var (q, k, v) = split(projections.map { run($0, input) }, workspace)
    var unnormalised: (q: LentMatrix, k: LentMatrix)?
    if let norms = layer.headNorms {
      unnormalised = (q, k)
      q = norms.query(q, width: layer.attention.width, in: workspace)
      k = norms.key(k, width: layer.attention.width, in: workspace)
    }
    rotate(q, k, pass, back: false)
    let seen = layer.attention(q, k, v, lengths: pass.lengths, in: workspace)
    let middle = run(output, seen)
    middle.add(x)
    let inner = layer.normsAfter ? layer.attentionNorm(middle, in: workspace) : middle
    let normalised = layer.normsAfter ? inner : layer.feedForwardNorm(middle, in: workspace)
    let opened = gate.map { run($0, normalised) }
    let raised = run(up, normalised)
    let hidden =
      opened.map { layer.function($0, times: raised, in: workspace) } ?? layer.function(raised, in: workspace)
    let sum = run(down, hidden)
    sum.add(inner)
    let result = layer.normsAfter ? layer.feedForwardNorm(sum, in: workspace) : sum
    guard keeps else { return (result, nil) }
    return (
      result,
      Tape(
        x: x, attention: (q, k, v, seen), unnormalised: unnormalised, middle: middle, gate: opened, up: raised,
        last: layer.normsAfter ? sum : nil, kept: kept)
    )
  }

  /// Adds to the adapters' gradients. The gradient of the layer's input, if it is wanted.
  func backward(_ g: LentMatrix, _ tape: Tape, _ pass: TrainingPass, wantsInput: Bool) -> LentMatrix? {
    let workspace = pass.workspace
    let wantsMiddle = wantsInput || trainsAttention
    // The second sum: sum = inner + down(hidden).
    var sumGradient = g
    if let last = tape.last {
      sumGradient = workspace.zeros(g.rows, g.columns)
      layer.feedForwardNorm.addGradient(of: last, g, to: sumGradient)
    }
    let inner = layer.normsAfter ? layer.attentionNorm(tape.middle, in: workspace) : tape.middle
    func normalised() -> LentMatrix {
      layer.normsAfter ? inner : layer.feedForwardNorm(tape.middle, in: workspace)
    }
    let first = projections.count + 1
    let places = (gate: first, up: first + (gate == nil ? 0 : 1), down: first + (gate == nil ? 1 : 2))
    let wantsHidden = wantsMiddle || gate?.adapter != nil || up.adapter != nil
    let hiddenGradient = down.backward(
      sumGradient,
      input: {
        tape.gate.map { layer.function($0, times: tape.up, in: workspace) } ?? layer.function(tape.up, in: workspace)
      }, kept: tape.kept[places.down], pass, wantsInput: wantsHidden)
    guard let hiddenGradient else { return nil }
    if let opened = tape.gate {
      layer.function.replaceByGradients(opened, tape.up, hiddenGradient)
    } else {
      layer.function.replaceByGradients(tape.up, nil, hiddenGradient)
    }
    let normalisedGradient = up.backward(
      tape.up, input: normalised, kept: tape.kept[places.up], pass, wantsInput: wantsMiddle)
    if let gate, let opened = tape.gate {
      let other = gate.backward(
        opened, input: normalised, kept: tape.kept[places.gate], pass, wantsInput: wantsMiddle)
      if let other { normalisedGradient?.add(other) }
    }
    guard let normalisedGradient else { return nil }
    // The first sum: middle = x + output(seen).
    let middleGradient = workspace.zeros(g.rows, tape.middle.columns)
    if layer.normsAfter {
      normalisedGradient.add(sumGradient)
      layer.attentionNorm.addGradient(of: tape.middle, normalisedGradient, to: middleGradient)
    } else {
      middleGradient.copy(sumGradient)
      layer.feedForwardNorm.addGradient(of: tape.middle, normalisedGradient, to: middleGradient)
    }
    let seenGradient = output.backward(
      middleGradient, input: { tape.attention.seen }, kept: tape.kept[projections.count], pass,
      wantsInput: wantsInput || trainsProjections)
    guard let seenGradient else { return nil }
    let inputGradient = projectionsBackward(seenGradient, tape, pass, wantsInput: wantsInput)
    guard wantsInput, let inputGradient else { return nil }
    if layer.normsAfter {
      middleGradient.add(inputGradient)
    } else {
      layer.attentionNorm.addGradient(of: tape.x, inputGradient, to: middleGradient)
    }
    return middleGradient
  }

  private func projectionsBackward(
    _ g: LentMatrix, _ tape: Tape, _ pass: TrainingPass, wantsInput: Bool
  ) -> LentMatrix? {
    let workspace = pass.workspace
    let (q, k, v, _) = tape.attention
    var gradients = layer.attention.gradients(q, k, v, g, lengths: pass.lengths, in: workspace)
    rotate(gradients.q, gradients.k, pass, back: true)
    if let norms = layer.headNorms, let before = tape.unnormalised {
      let width = layer.attention.width
      let (first, second) = (workspace.zeros(q.rows, q.columns), workspace.zeros(k.rows, k.columns))
      norms.query.addGradient(of: before.q, gradients.q, width: width, to: first)
      norms.key.addGradient(of: before.k, gradients.k, width: width, to: second)
      (gradients.q, gradients.k) = (first, second)
    }
    var parts = [gradients.q, gradients.k, gradients.v]
    if projections.count == 1 {
      let joined = workspace.matrix(q.rows, q.columns + k.columns + v.columns)
      joined.setColumns(from: 0, gradients.q)
      joined.setColumns(from: q.columns, gradients.k)
      joined.setColumns(from: q.columns + k.columns, gradients.v)
      parts = [joined]
    }
    var normalised: LentMatrix?
    var sum: LentMatrix?
    for (index, projection) in projections.enumerated() {
      let part = projection.backward(
        parts[index],
        input: {
          if let normalised { return normalised }
          let input = layer.normsAfter ? tape.x : layer.attentionNorm(tape.x, in: workspace)
          normalised = input
          return input
        }, kept: tape.kept[index], pass, wantsInput: wantsInput)
      if let sum, let part { sum.add(part) } else { sum = part }
    }
    return sum
  }

  private func rotate(_ q: LentMatrix, _ k: LentMatrix, _ pass: TrainingPass, back: Bool) {
    guard let (cosines, sines) = pass.angles else { return }
    for matrix in [q, k] {
      matrix.rotate(width: layer.attention.width, cosines: cosines, sines: sines, back: back)
    }
  }

  /// Queries, keys and values of three projections, or of the one that gives all three.
  private func split(_ parts: [LentMatrix], _ workspace: Workspace) -> (LentMatrix, LentMatrix, LentMatrix) {
    guard parts.count == 1 else { return (parts[0], parts[1], parts[2]) }
    let (own, other) = (layer.attention.heads * layer.attention.width, layer.attention.keyHeads * layer.attention.width)
    return (
      parts[0].columns(0..<own, in: workspace), parts[0].columns(own..<own + other, in: workspace),
      parts[0].columns(own + other..<own + 2 * other, in: workspace)
    )
  }
}
