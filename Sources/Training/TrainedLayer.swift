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
    /// What the model's own dropout keeps: of attention's softmax, and of what both parts add.
    let masks: (shares: AttentionMask?, attention: DropoutMask?, feedForward: DropoutMask?)
  }

  let layer: FrozenDecoderLayer
  private let projections: [AdaptedLinear]
  private let output: AdaptedLinear
  private let gate: AdaptedLinear?
  private let up: AdaptedLinear
  private let down: AdaptedLinear

  private let headNorms: (query: TrainedNorm, key: TrainedNorm)?
  private let attentionNorm: TrainedNorm
  private let feedForwardNorm: TrainedNorm
  private let prefix: TrainedPrefix?

  /// - Parameter index: the layer's number.
  init(_ layer: FrozenDecoderLayer, index: Int, _ parts: TrainedParts) {
    self.layer = layer
    projections = layer.projections.map(parts.linear)
    output = parts.linear(layer.output)
    gate = layer.gate.map(parts.linear)
    up = parts.linear(layer.up)
    down = parts.linear(layer.down)
    headNorms = layer.headNorms.map { (parts.norm($0.query), parts.norm($0.key)) }
    attentionNorm = parts.norm(layer.attentionNorm)
    feedForwardNorm = parts.norm(layer.feedForwardNorm)
    prefix = parts.prefix.map {
      TrainedPrefix($0, layer: index, width: layer.attention.keyHeads * layer.attention.width)
    }
  }

  /// True if something before the product of queries and keys is trained.
  private var trainsProjections: Bool {
    prefix != nil || projections.contains { $0.isTrained }
      || (headNorms.map { $0.query.isTrained || $0.key.isTrained } ?? false) || trainsFirstNorm
  }
  /// True if the norm before the projections is trained.
  private var trainsFirstNorm: Bool { !layer.normsAfter && attentionNorm.isTrained }
  private var trainsAttention: Bool { trainsProjections || output.isTrained }
  /// True if anything in the layer is trained.
  var isTrained: Bool {
    trainsAttention || attentionNorm.isTrained || feedForwardNorm.isTrained
      || [gate, up, down].contains { $0?.isTrained ?? false }
  }

  /// - Parameter keeps: whether a tape is wanted.
  func forward(_ x: LentMatrix, _ pass: TrainingPass, keeps: Bool) -> (output: LentMatrix, tape: Tape?) {
    let workspace = pass.workspace
    var kept: [(any Kept)?] = []
    func run(_ linear: AdaptedLinear, _ input: LentMatrix) -> LentMatrix {
      let (output, values) = linear.forward(input, pass)
      kept.append(values)
      return output
    }
    let input = layer.normsAfter ? x : attentionNorm(x, in: workspace)
    var (q, k, v) = split(projections.map { run($0, input) }, workspace)
    var unnormalised: (q: LentMatrix, k: LentMatrix)?
    if let norms = headNorms {
      unnormalised = (q, k)
      q = norms.query(q, width: layer.attention.width, in: workspace)
      k = norms.key(k, width: layer.attention.width, in: workspace)
    }
    rotate(q, k, pass, back: false)
    let shares = pass.attentionMask(layer.dropout.attention, heads: layer.attention.heads)
    let seen =
      prefix?.attend(layer.attention, q, k, v, shares, pass)
      ?? layer.attention(q, k, v, lengths: pass.lengths, mask: shares, in: workspace)
    let (middle, attentionMask) = dropped(run(output, seen), pass)
    middle.add(x)
    let inner = layer.normsAfter ? attentionNorm(middle, in: workspace) : middle
    let normalised = layer.normsAfter ? inner : feedForwardNorm(middle, in: workspace)
    let opened = gate.map { run($0, normalised) }
    let raised = run(up, normalised)
    let hidden =
      opened.map { layer.function($0, times: raised, in: workspace) } ?? layer.function(raised, in: workspace)
    let (sum, feedForwardMask) = dropped(run(down, hidden), pass)
    sum.add(inner)
    let result = layer.normsAfter ? feedForwardNorm(sum, in: workspace) : sum
    guard keeps else { return (result, nil) }
    return (
      result,
      Tape(
        x: x, attention: (q, k, v, seen), unnormalised: unnormalised, middle: middle, gate: opened, up: raised,
        last: layer.normsAfter ? sum : nil, kept: kept, masks: (shares, attentionMask, feedForwardMask))
    )
  }

  /// What a part adds, as the model's dropout leaves it.
  private func dropped(_ x: LentMatrix, _ pass: TrainingPass) -> (LentMatrix, DropoutMask?) {
    let mask = pass.mask(layer.dropout.sums, columns: x.columns)
    return (mask.map { $0(x, in: pass.workspace) } ?? x, mask)
  }

  /// Adds to the adapters' gradients. The gradient of the layer's input, if it is wanted.
  func backward(_ g: LentMatrix, _ tape: Tape, _ pass: TrainingPass, wantsInput: Bool) -> LentMatrix? {
    let workspace = pass.workspace
    let wantsMiddle = wantsInput || trainsAttention
    let wantsNormalised = wantsMiddle || (layer.normsAfter ? attentionNorm : feedForwardNorm).isTrained
    // The second sum: sum = inner + down(hidden).
    var sumGradient = g
    if let last = tape.last {
      sumGradient = workspace.zeros(g.rows, g.columns)
      feedForwardNorm.backward(of: last, g, to: sumGradient, in: workspace)
    }
    let inner = layer.normsAfter ? attentionNorm(tape.middle, in: workspace) : tape.middle
    func normalised() -> LentMatrix {
      layer.normsAfter ? inner : feedForwardNorm(tape.middle, in: workspace)
    }
    let first = projections.count + 1
    let places = (gate: first, up: first + (gate == nil ? 0 : 1), down: first + (gate == nil ? 1 : 2))
    let wantsHidden = wantsNormalised || gate?.isTrained ?? false || up.isTrained
    let hiddenGradient = down.backward(
      tape.masks.feedForward.map { $0(sumGradient, in: workspace) } ?? sumGradient,
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
      tape.up, input: normalised, kept: tape.kept[places.up], pass, wantsInput: wantsNormalised)
    if let gate, let opened = tape.gate {
      let other = gate.backward(
        opened, input: normalised, kept: tape.kept[places.gate], pass, wantsInput: wantsNormalised)
      if let other { normalisedGradient?.add(other) }
    }
    guard let normalisedGradient else { return nil }
    // The first sum: middle = x + output(seen).
    let middleGradient = workspace.matrix(g.rows, tape.middle.columns)
    if layer.normsAfter {
      middleGradient.clear()
      normalisedGradient.add(sumGradient)
      attentionNorm.backward(of: tape.middle, normalisedGradient, to: middleGradient, in: workspace)
    } else {
      middleGradient.copy(sumGradient)
      feedForwardNorm.backward(of: tape.middle, normalisedGradient, to: middleGradient, in: workspace)
    }
    guard wantsMiddle else { return nil }
    let seenGradient = output.backward(
      tape.masks.attention.map { $0(middleGradient, in: workspace) } ?? middleGradient, input: { tape.attention.seen },
      kept: tape.kept[projections.count], pass,
      wantsInput: wantsInput || trainsProjections)
    guard let seenGradient else { return nil }
    let inputGradient = projectionsBackward(
      seenGradient, tape, pass, wantsInput: wantsInput || trainsFirstNorm)
    guard let inputGradient else { return nil }
    if layer.normsAfter {
      middleGradient.add(inputGradient)
    } else {
      attentionNorm.backward(of: tape.x, inputGradient, to: wantsInput ? middleGradient : nil, in: workspace)
    }
    return wantsInput ? middleGradient : nil
  }

  private func projectionsBackward(
    _ g: LentMatrix, _ tape: Tape, _ pass: TrainingPass, wantsInput: Bool
  ) -> LentMatrix? {
    let workspace = pass.workspace
    let (q, k, v, _) = tape.attention
    var gradients =
      prefix?.gradients(layer.attention, q, k, v, g, tape.masks.shares, pass)
      ?? layer.attention.gradients(q, k, v, g, lengths: pass.lengths, mask: tape.masks.shares, in: workspace)
    rotate(gradients.q, gradients.k, pass, back: true)
    if let norms = headNorms, let before = tape.unnormalised {
      let width = layer.attention.width
      let (first, second) = (workspace.zeros(q.rows, q.columns), workspace.zeros(k.rows, k.columns))
      norms.query.backward(of: before.q, gradients.q, width: width, to: first, in: workspace)
      norms.key.backward(of: before.k, gradients.k, width: width, to: second, in: workspace)
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
          let input = layer.normsAfter ? tape.x : attentionNorm(tape.x, in: workspace)
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
