internal import LanguageModels
internal import TensorFiles
public import TensorMath

/// A frozen causal language model with adapters that are trained.
public final class TrainableModel {
  public let parameters: ParameterStore
  /// torch's global generator: dropout draws from it.
  public var generator: TorchGenerator
  /// True if each layer keeps its input alone, and is run again on the way back.
  public var checkpointsActivations = false
  /// Strength of the noise that training adds to embeddings; nil for none.
  var noise: Double?
  let workspace: Workspace
  let model: FrozenModel
  private let layers: [TrainedLayer]
  /// The lowest layer with something to train.
  let lowest: Int

  init(
    _ model: FrozenModel, parameters: ParameterStore, adapters: [ExactName: any LinearAdapter], seed: UInt64,
    workspace: Workspace
  ) {
    ComputeBackend.useOneThreadInsideBLAS()
    self.model = model
    self.parameters = parameters
    self.workspace = workspace
    generator = TorchGenerator(seed: seed)
    layers = model.layers.map { TrainedLayer($0) { adapters[$0] } }
    lowest = layers.firstIndex { $0.isTrained } ?? layers.count
  }

  /// Bytes that passes so far took for activations, gradients and parameters, at most.
  public var workspaceBytes: Int { workspace.byteCount }

  /// The summed loss of a batch's labelled tokens times `share`, whose gradient is added to the parameters'.
  ///
  /// - Parameter share: 1 / labelled tokens of all batches of the step.
  /// Traps on tokens outside the vocabulary and sequences longer than the context: a batch is checked when it is made.
  public func addGradients(of batch: TokenBatch, share: Double, smoothing: Double = 0) -> Double {
    run(batch, share: share, smoothing: smoothing, trains: true)
  }

  /// The summed loss of a batch's labelled tokens times `share`, without dropout.
  public func loss(of batch: TokenBatch, share: Double, smoothing: Double = 0) -> Double {
    run(batch, share: share, smoothing: smoothing, trains: false)
  }

  private func run(_ batch: TokenBatch, share: Double, smoothing: Double, trains: Bool) -> Double {
    let pass = TrainingPass(batch, model, drops: trains, generator: generator, in: workspace)
    var x = embed(batch)
    if let noise, trains { addNoise(to: x, strength: noise, batch, pass) }
    if let projection = model.inputProjection { x = projection(x, in: workspace) }
    if let positions = model.positions { addPositions(to: x, positions, batch.lengths) }
    var tapes: [TrainedLayer.Tape?] = []
    var resumed: [(x: LentMatrix, generator: TorchGenerator)] = []
    for (index, layer) in layers.enumerated() {
      let keeps = trains && index >= lowest
      if keeps && checkpointsActivations { resumed.append((x, pass.generator)) }
      let (output, tape) = layer.forward(x, pass, keeps: keeps && !checkpointsActivations)
      if keeps && !checkpointsActivations { tapes.append(tape) }
      x = output
    }
    let (loss, gradient) = headLoss(x, batch, share: share, smoothing: smoothing, wantsGradient: trains)
    if trains { generator = pass.generator }
    guard trains, var g = gradient else { return loss }
    for index in stride(from: layers.count - 1, through: lowest, by: -1) {
      let tape: TrainedLayer.Tape?
      if checkpointsActivations {
        let (input, state) = resumed.removeLast()
        pass.generator = state
        tape = layers[index].forward(input, pass, keeps: true).tape
      } else {
        tape = tapes.removeLast()
      }
      guard let tape, let next = layers[index].backward(g, tape, pass, wantsInput: index > lowest) else { break }
      g = next
    }
    return loss
  }

  private func embed(_ batch: TokenBatch) -> LentMatrix {
    let table = model.embedding
    let x = workspace.matrix(batch.tokenCount, table.columns)
    for (row, token) in batch.sequences.joined().enumerated() {
      let part = LentMatrix(x, from: row * table.columns, rows: 1, columns: table.columns)
      part.copy(table.row(token))
    }
    if model.embeddingScale != 1 { x.scale(by: model.embeddingScale) }
    return x
  }

  /// Adds uniform noise within ± strength / √(padded length · width), drawn for padding too.
  ///
  /// Source: transformers/integrations/neftune.py `neftune_post_forward_hook`.
  private func addNoise(to x: LentMatrix, strength: Double, _ batch: TokenBatch, _ pass: TrainingPass) {
    let bound = Float(strength) / Float(batch.paddedLength * x.columns).squareRoot()
    var row = 0
    for holds in pass.heldRows {
      guard holds else {
        pass.generator.skip(words: x.columns)
        continue
      }
      LentMatrix(x, from: row * x.columns, rows: 1, columns: x.columns)
        .addToRows(pass.generator.uniform(count: x.columns, low: -bound, high: bound))
      row += 1
    }
  }

  private func addPositions(to x: LentMatrix, _ positions: (table: WeightMatrix, offset: Int), _ lengths: [Int]) {
    let rows = (0..<(lengths.max() ?? 0)).map { positions.table.row($0 + positions.offset) }
    var start = 0
    for length in lengths {
      for position in 0..<length {
        LentMatrix(x, from: (start + position) * x.columns, rows: 1, columns: x.columns).addToRows(rows[position])
      }
      start += length
    }
  }

  /// The loss, and the gradient of the last layer's output if it is wanted. Rows without a label are left out.
  private func headLoss(
    _ x: LentMatrix, _ batch: TokenBatch, share: Double, smoothing: Double, wantsGradient: Bool
  ) -> (loss: Double, gradient: LentMatrix?) {
    let targets = batch.targets
    let labelled = targets.indices.filter { targets[$0] != -100 }
    let rows = x.gathering(labelled, in: workspace)
    let normalised = model.finalNorm.map { $0(rows, in: workspace) } ?? rows
    let hidden = model.outputProjection.map { $0(normalised, in: workspace) } ?? normalised
    let slope = wantsGradient ? workspace.matrix(hidden.rows, hidden.columns) : nil
    let loss = CrossEntropy.loss(
      hidden, head: model.head.weight, bias: model.head.bias, targets: labelled.map { targets[$0] },
      smoothing: Float(smoothing), share: Float(share), gradient: slope, in: workspace)
    guard let slope else { return (loss * share, nil) }
    let back = model.outputProjection.map { $0.inputGradient(slope, in: workspace) } ?? slope
    let gradient = workspace.zeros(x.rows, x.columns)
    if let norm = model.finalNorm {
      let through = workspace.zeros(rows.rows, rows.columns)
      norm.addGradient(of: rows, back, to: through)
      gradient.addRows(through, at: labelled)
    } else {
      gradient.addRows(back, at: labelled)
    }
    return (loss * share, gradient)
  }
}
