internal import LanguageModels
internal import TensorFiles
internal import TensorMath

/// LoKr in training: y = base(x) + s·x·kron(C, F)ᵀ, C and F each whole or a product. The Kronecker product is never built.
///
/// With x as `[i₁, i₂]`: Z = x·Fᵀ, y = C·Z. Gradients: dC = Σ gZᵀ, dZ = Cᵀg, dF = Σ dZᵀx, dx = dZ·F, for each token.
/// Source: peft/tuners/lokr/layer.py `LoKrLayer.get_delta_weight`.
final class LoKrTraining: OccasionalAdapter {
  private struct Pass: Kept {
    let dropped: LycorisDropout.Draw
  }

  /// One factor of the Kronecker product.
  struct Factor {
    let a: TrainedParameter
    /// Nil for a factor that is stored whole.
    let b: TrainedParameter?

    func value(_ workspace: Workspace) -> LentMatrix {
      guard let b else { return a.value }
      let result = workspace.matrix(a.value.rows, b.value.columns)
      result.setProduct(a.value, b.value)
      return result
    }

    func add(_ gradient: LentMatrix) {
      guard let b else { return a.gradient.add(gradient) }
      a.gradient.setProduct(gradient, b.value, transposingSecond: true, adding: true)
      b.gradient.setProduct(a.value, transposingFirst: true, gradient, adding: true)
    }
  }

  private let outer: Factor
  private let inner: Factor
  private let scale: Float
  private let dropout: LycorisDropout
  let parameterNames: [String]
  var takesPart = false

  init(
    outer: Factor, inner: Factor, scale: Float, dropout: LycorisDropout = LycorisDropout(),
    parameterNames: [String] = []
  ) {
    self.parameterNames = parameterNames
    (self.outer, self.inner, self.scale, self.dropout) = (outer, inner, scale, dropout)
  }

  func forward(_ x: LentMatrix, _ layer: FrozenLinear, _ pass: TrainingPass) -> (output: LentMatrix, kept: any Kept) {
    let workspace = pass.workspace
    let output = layer(x, in: workspace)
    let dropped = dropout.draw(outputs: layer.outFeatures, pass)
    if dropped.leavesOut { return (output, Pass(dropped: dropped)) }
    takesPart = true
    let change = workspace.matrix(output.rows, output.columns)
    let (c, f) = (outer.value(workspace), inner.value(workspace))
    let z = LentMatrix(x, from: 0, rows: x.rows * c.columns, columns: f.columns).times(
      f, transposed: true, in: workspace)
    for token in 0..<x.rows {
      part(change, token, c.rows, f.rows).setProduct(c, part(z, token, c.columns, f.rows), scale: scale)
    }
    dropped.scaleColumns(of: change)
    output.add(change)
    return (output, Pass(dropped: dropped))
  }

  func backward(
    _ g: LentMatrix, input: LentMatrix, kept: any Kept, _ layer: FrozenLinear, _ pass: TrainingPass, wantsInput: Bool
  ) -> LentMatrix? {
    guard let dropped = (kept as? Pass)?.dropped else { preconditionFailure("kept by another adapter") }
    let workspace = pass.workspace
    if dropped.leavesOut { return wantsInput ? layer.inputGradient(g, in: workspace) : nil }
    let changed = g.copied(in: workspace)
    dropped.scaleColumns(of: changed)
    let (c, f) = (outer.value(workspace), inner.value(workspace))
    let x = LentMatrix(input, from: 0, rows: input.rows * c.columns, columns: f.columns)
    let z = x.times(f, transposed: true, in: workspace)
    let outerGradient = workspace.zeros(c.rows, c.columns)
    let slope = workspace.matrix(x.rows, f.rows)
    for token in 0..<g.rows {
      let own = part(changed, token, c.rows, f.rows)
      outerGradient.setProduct(
        own, part(z, token, c.columns, f.rows), transposingSecond: true, scale: scale, adding: true)
      part(slope, token, c.columns, f.rows).setProduct(c, transposingFirst: true, own, scale: scale)
    }
    outer.add(outerGradient)
    let innerGradient = workspace.matrix(f.rows, f.columns)
    innerGradient.setProduct(slope, transposingFirst: true, x)
    inner.add(innerGradient)
    guard wantsInput else { return nil }
    let gradient = layer.inputGradient(g, in: workspace)
    gradient.add(slope.times(f, in: workspace))
    return gradient
  }

  /// A token's row as a matrix.
  private func part(_ rows: LentMatrix, _ token: Int, _ height: Int, _ width: Int) -> LentMatrix {
    LentMatrix(rows, from: token * height * width, rows: height, columns: width)
  }
}

extension LentMatrix {
  fileprivate func times(_ other: LentMatrix, transposed: Bool = false, in workspace: Workspace) -> LentMatrix {
    let result = workspace.matrix(rows, transposed ? other.rows : other.columns)
    result.setProduct(self, other, transposingSecond: transposed)
    return result
  }
}

extension TrainedMethod {
  static let loKr = TrainedMethod(
    type: "LOKR",
    module: { reader, path throws(ModelError) in
      let stem = AdapterReader.stem(path)
      guard let layer = reader.linears[path], !layer.isTransposed else { return }
      var shapes: [[Int]] = []
      var pairs: [(a: String, b: String?)] = []
      for side in ["w1", "w2"] {
        let name = "\(stem).lokr_\(side)"
        if reader.holds(name) {
          try reader.train(name, [nil, nil])
          shapes.append(reader.shape(name))
          pairs.append((name, nil))
        } else if reader.holds("\(name)_a") {
          try reader.train("\(name)_a", [nil, nil])
          let inner = reader.shape("\(name)_a")
          try reader.train("\(name)_b", [inner[1], nil])
          shapes.append([inner[0], reader.shape("\(name)_b")[1]])
          pairs.append(("\(name)_a", "\(name)_b"))
        }
      }
      guard !pairs.isEmpty else { return }
      let (height, width) = (shapes.reduce(1) { $0 * $1[0] }, shapes.reduce(1) { $0 * $1[1] })
      guard pairs.count == 2, height == layer.outFeatures, width == layer.inFeatures else {
        throw .unsupported(what: "training LOKR of '\(path)'", reason: "its factors do not give the weight's extents.")
      }
      let scale = try reader.lycorisScale(path)
      let dropout = try reader.lycorisDropout(dividesByMean: reader.flag("rank_dropout_scale"))
      reader.make { store, parts in
        let factors = pairs.map { LoKrTraining.Factor(a: store.parameter($0.a), b: $0.b.map(store.parameter)) }
        let adapter = LoKrTraining(
          outer: factors[0], inner: factors[1], scale: scale, dropout: dropout,
          parameterNames: pairs.flatMap { [$0.a] + ($0.b.map { [$0] } ?? []) })
        parts.linears[path] = adapter
        if dropout.module > 0 { parts.occasional.append(adapter) }
        if dropout.module > 0 || dropout.ranks > 0 { parts.drawsVary = true }
      }
    })
}
