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
  let parts: TrainedParts
  /// Tensors that are saved as they were read.
  let carried: [CarriedTensor]
  /// Names under which parameters are saved once more.
  let aliases: [(name: String, parameter: String)]
  private let blas = SingleThreadedBLAS()
  private let layers: [TrainedLayer]
  private let finalNorm: TrainedNorm?
  private let head: AdaptedLinear
  /// The lowest layer with something to train.
  let lowest: Int
  /// Layers that a batch of the step went through.
  private var reached: Set<Int> = []

  init(
    _ model: FrozenModel, parameters: ParameterStore, parts: TrainedParts, carried: [CarriedTensor] = [],
    aliases: [(name: String, parameter: String)] = [], seed: UInt64, workspace: Workspace
  ) {
    self.model = model
    self.parameters = parameters
    self.workspace = workspace
    generator = TorchGenerator(seed: seed)
    self.parts = parts
    self.carried = carried
    self.aliases = aliases
    layers = model.layers.enumerated().map { TrainedLayer($1, index: $0, parts) }
    finalNorm = model.finalNorm.map(parts.norm)
    head = parts.linear(model.head)
    let trained = layers.firstIndex { $0.isTrained } ?? layers.count
    lowest = parts.embedding != nil || parts.prompt != nil ? 0 : trained
  }

  /// True if what enters the first layer is trained.
  private var trainsInput: Bool { parts.embedding != nil || parts.prompt != nil }
  /// Rows that the adapter puts before each sequence's tokens, or positions that it takes there.
  public var virtualTokens: Int { (parts.prompt ?? parts.prefix)?.value.rows ?? 0 }

  /// Checks that records fit the model's context beside the adapter's virtual tokens. Throws `.record` for the file at `path`.
  public func check(_ records: [TrainingRecord], path: String) throws(TrainingError) {
    let limit = model.contextLength - virtualTokens
    guard let longest = records.map(\.tokens.count).max(), longest > limit else { return }
    throw .record(
      path: path, line: 0,
      reason:
        "a record has \(longest) tokens; beside the adapter's \(virtualTokens) virtual tokens the model's context takes "
        + "\(limit). Give --max-length \(max(0, limit)) with --truncate")
  }

  /// Forgets which adapters took part in a step.
  func beginStep() {
    for adapter in parts.occasional { adapter.takesPart = false }
    reached = []
  }

  /// Parameters of adapters and layers that were left out of all batches of the step.
  var leftOut: Set<ExactName> {
    let missed = drawsLayers ? model.layers.indices.filter { !reached.contains($0) } : []
    let stems = missed.map {
      "\(AdapterReader.stem(model.layers[$0].path))."
    }
    let unreached = parameters.entries.map(\.name).filter { name in stems.contains { name.startsExactly($0) } }
    return Set(exactly: parts.occasional.filter { !$0.takesPart }.flatMap(\.parameterNames) + unreached)
  }

  /// True if a draw decides which layers a batch goes through: OPT's `layerdrop`.
  var drawsLayers: Bool { model.dropout.layers > 0 }

  /// True if what was drawn decides how many numbers a batch draws.
  var drawsVary: Bool { parts.drawsVary || drawsLayers }

  /// What the method does after the optimizer's step `step`, counted from 0.
  func finish(step: Int) { parts.budget?.finish(step: step) }

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
    let pass = TrainingPass(
      batch, model, rowsBefore: parts.prompt?.value.rows ?? 0, prefix: parts.prefix?.value.rows ?? 0, drops: trains,
      generator: generator, in: workspace)
    parts.encoder?.encode(in: workspace)
    var x = embed(batch, pass)
    if let projection = model.inputProjection { x = projection(x, in: workspace) }
    if let positions = model.positions { addPositions(to: x, positions, pass.lengths) }
    let inputMask = pass.mask(model.dropout.input, columns: x.columns)
    if let inputMask { x = inputMask(x, in: workspace) }
    // Nil for a layer that is left out.
    var tapes: [TrainedLayer.Tape?] = []
    var resumed: [(x: LentMatrix, generator: TorchGenerator)?] = []
    for (index, layer) in layers.enumerated() {
      if trains, drawsLayers, pass.drawnShare() < Float(model.dropout.layers) {
        guard index >= lowest else { continue }
        if checkpointsActivations { resumed.append(nil) } else { tapes.append(nil) }
        continue
      }
      if trains { reached.insert(index) }
      let keeps = trains && index >= lowest
      if keeps && checkpointsActivations { resumed.append((x, pass.generator)) }
      let (output, tape) = layer.forward(x, pass, keeps: keeps && !checkpointsActivations)
      if keeps && !checkpointsActivations { tapes.append(tape) }
      x = output
    }
    let (headLoss, gradient) = headLoss(x, batch, pass, share: share, smoothing: smoothing, trains: trains)
    let loss = headLoss + (parts.budget?.loss(addingGradients: trains) ?? 0)
    if trains { generator = pass.generator }
    guard trains, var g = gradient else { return loss }
    defer { parts.encoder?.backward(in: workspace) }
    for index in stride(from: layers.count - 1, through: lowest, by: -1) {
      let tape: TrainedLayer.Tape?
      if checkpointsActivations {
        tape = resumed.removeLast().flatMap { input, state in
          pass.generator = state
          return layers[index].forward(input, pass, keeps: true).tape
        }
      } else {
        tape = tapes.removeLast()
      }
      guard let tape else { continue }
      guard let next = layers[index].backward(g, tape, pass, wantsInput: index > lowest || trainsInput)
      else { break }
      g = next
    }
    if trainsInput { inputBackward(inputMask.map { $0(g, in: workspace) } ?? g, batch, pass) }
    return loss
  }

  /// Rows of tokens among those that enter the layers.
  private func tokenRows(_ pass: TrainingPass) -> [Int] {
    let before = parts.prompt?.value.rows ?? 0
    var (rows, start) = ([Int](), 0)
    for length in pass.lengths {
      rows += (start + before)..<(start + length)
      start += length
    }
    return rows
  }

  private func inputBackward(_ g: LentMatrix, _ batch: TokenBatch, _ pass: TrainingPass) {
    let gradient = model.inputProjection.map { $0.inputGradient(g, in: workspace) } ?? g
    if let prompt = parts.prompt {
      var start = 0
      for length in pass.lengths {
        prompt.gradient.add(
          LentMatrix(
            gradient, from: start * gradient.columns, rows: prompt.value.rows, columns: gradient.columns))
        start += length
      }
    }
    guard let embedding = parts.embedding else { return }
    let all = zip(batch.sequences.joined(), tokenRows(pass)).filter { $0.0 != model.paddingToken }
    let rows = gradient.gathering(all.map(\.1), in: workspace)
    if model.embeddingScale != 1 { rows.scale(by: model.embeddingScale) }
    embedding.backward(rows, tokens: all.map(\.0), in: workspace)
  }

  private func embed(_ batch: TokenBatch, _ pass: TrainingPass) -> LentMatrix {
    let table = model.embedding
    let x = workspace.matrix(batch.tokenCount, table.columns)
    for (row, token) in batch.sequences.joined().enumerated() {
      let part = LentMatrix(x, from: row * table.columns, rows: 1, columns: table.columns)
      part.copy(table.row(token))
    }
    parts.embedding?.apply(to: x, tokens: Array(batch.sequences.joined()), in: workspace)
    if model.embeddingScale != 1 { x.scale(by: model.embeddingScale) }
    if let noise, pass.drops { addNoise(to: x, strength: noise, batch, pass) }
    guard let prompt = parts.prompt else { return x }
    let all = workspace.zeros(pass.lengths.reduce(0, +), x.columns)
    all.addRows(x, at: tokenRows(pass))
    var start = 0
    for length in pass.lengths {
      LentMatrix(all, from: start * x.columns, rows: prompt.value.rows, columns: x.columns).copy(prompt.value)
      start += length
    }
    return all
  }

  /// Adds uniform noise within ± strength / √(padded length · width), drawn for padding too.
  ///
  /// Source: transformers/integrations/neftune.py `neftune_post_forward_hook`.
  private func addNoise(to x: LentMatrix, strength: Double, _ batch: TokenBatch, _ pass: TrainingPass) {
    let bound = Float(strength) / Float(batch.paddedLength * x.columns).squareRoot()
    var row = 0
    for holds in batch.heldRows(after: 0) {
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
    let first = positions.offset + (parts.prefix?.value.rows ?? 0)
    let rows = (0..<(lengths.max() ?? 0)).map { positions.table.row($0 + first) }
    var start = 0
    for length in lengths {
      for position in 0..<length {
        LentMatrix(x, from: (start + position) * x.columns, rows: 1, columns: x.columns).addToRows(rows[position])
      }
      start += length
    }
  }

  /// The loss, and the gradient of the last layer's output if something below is trained. Rows without a label are left out,
  /// unless the head's adapter draws masks for them.
  private func headLoss(
    _ x: LentMatrix, _ batch: TokenBatch, _ pass: TrainingPass, share: Double, smoothing: Double, trains: Bool
  ) -> (loss: Double, gradient: LentMatrix?) {
    let targets = batch.targets(after: parts.prompt?.value.rows ?? 0)
    let takesAll = pass.drops && head.adapter?.drops ?? false
    let taken = targets.indices.filter { takesAll || targets[$0] != -100 }
    let rows = x.gathering(taken, in: workspace)
    let normalised = finalNorm.map { $0(rows, in: workspace) } ?? rows
    let hidden = model.outputProjection.map { $0(normalised, in: workspace) } ?? normalised
    let wantsGradient = trains && (lowest < layers.count || finalNorm?.isTrained ?? false)
    let slope = wantsGradient ? workspace.matrix(hidden.rows, hidden.columns) : nil
    let wanted = taken.map { targets[$0] }
    let loss: Double
    if head.isTrained {
      loss = adaptedHeadLoss(
        hidden, wanted, pass, rows: takesAll ? max(1, hidden.rows) : CrossEntropy.chunkRows, share: Float(share),
        smoothing: Float(smoothing), gradient: slope, trains: trains)
    } else {
      loss = CrossEntropy.loss(
        hidden, head: model.head.weight, bias: model.head.bias, targets: wanted, smoothing: Float(smoothing),
        share: Float(share), gradient: slope, in: workspace)
    }
    guard let slope else { return (loss * share, nil) }
    let back = model.outputProjection.map { $0.inputGradient(slope, in: workspace) } ?? slope
    let gradient = workspace.zeros(x.rows, x.columns)
    if let finalNorm {
      let through = workspace.zeros(rows.rows, rows.columns)
      finalNorm.backward(of: rows, back, to: through, in: workspace)
      gradient.addRows(through, at: taken)
    } else {
      gradient.addRows(back, at: taken)
    }
    return (loss * share, gradient)
  }

  /// The loss of a head that is trained, `rows` rows at a time.
  private func adaptedHeadLoss(
    _ hidden: LentMatrix, _ targets: [Int], _ pass: TrainingPass, rows: Int, share: Float, smoothing: Float,
    gradient: LentMatrix?, trains: Bool
  ) -> Double {
    var total = 0.0
    for start in stride(from: 0, to: hidden.rows, by: rows) {
      let count = min(rows, hidden.rows - start)
      let part = { (all: LentMatrix) in
        LentMatrix(all, from: start * all.columns, rows: count, columns: all.columns)
      }
      let input = part(hidden)
      let (logits, kept) = head.forward(input, pass)
      total += CrossEntropy.replaceByGradients(
        logits, targets: Array(targets[start..<start + count]), smoothing: smoothing, share: share)
      guard trains else { continue }
      let back = head.backward(logits, input: { input }, kept: kept, pass, wantsInput: gradient != nil)
      if let gradient, let back { part(gradient).copy(back) }
    }
    return total
  }
}
