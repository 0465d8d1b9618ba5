internal import LanguageModels
internal import TensorMath

/// What a run will need, told before its first step.
public struct MemoryPlan: Sendable, Equatable {
  /// Tokens of the largest batch.
  public let batchTokens: Int
  /// Activations that layers keep for the way back.
  public let keptBytes: Int
  /// What is needed for a while: of a layer, of its way back, and of the head.
  public let scratchBytes: Int
  /// Values, gradients and both moments of the trained parameters; with several batches a step, their sum too.
  public let parameterBytes: Int

  /// All of it: what the run's workspace comes to.
  public var workspaceBytes: Int { keptBytes + scratchBytes + parameterBytes }
}

extension Trainer {
  /// The memory of the largest batch of the run; weights of the model, which are mapped, not counted.
  ///
  /// Kept for a token and layer: the layer's input, queries, keys, values, what attention gives, the sum after it, both halves of a gated
  /// layer, and for each LoRA its rank. With checkpointed activations a layer's input, and one layer's share of the rest.
  public var memoryPlan: MemoryPlan {
    let tokens = largestBatch
    return model.memoryPlan(
      tokens: tokens.all, labelled: tokens.labelled, checkpointed: arguments.checkpointsActivations,
      sums: arguments.accumulationSteps > 1)
  }

  /// Tokens of all records.
  public var recordTokens: Int { order.lengths.reduce(0, +) }

  /// Tokens that the run will compute.
  public var runTokens: Int {
    Int(Double(recordTokens) * Double(steps) / Double(order.stepsPerEpoch))
  }

  /// The first batch alone, forwards and backwards, without a step: for a guess at the time. Its tokens.
  public func tryBatch() -> Int {
    var generator = model.generator
    guard let indices = order.batches(epoch: 0, &generator).first else { return 0 }
    let batch = TokenBatch(indices.map { records[$0] }, padsLeft: padsLeft)
    _ = model.addGradients(of: batch, share: 1 / Double(max(1, batch.labelledCount)))
    model.parameters.gradients.clear()
    return batch.tokenCount
  }

  /// Most tokens of a batch in the first epochs; where batches depend on dropout's draws, those of the longest records.
  private var largestBatch: (all: Int, labelled: Int) {
    var batches: [[Int]] = []
    if arguments.sampling == .groupByLength {
      let order = records.indices.sorted { records[$0].tokens.count > records[$1].tokens.count }
      batches = [Array(order.prefix(arguments.batchSize))]
    } else {
      for epoch in 0..<min(epochs, 20) {
        var generator = model.generator
        batches += order.batches(epoch: epoch, &generator)
      }
    }
    return batches.map { batch in
      (
        all: batch.reduce(0) { $0 + records[$1].tokens.count },
        labelled: batch.reduce(0) { $0 + records[$1].labelledCount }
      )
    }.max { ($0.all, $0.labelled) < ($1.all, $1.labelled) } ?? (0, 0)
  }
}

extension TrainableModel {
  /// The memory of a batch of so many tokens.
  func memoryPlan(tokens: Int, labelled: Int, checkpointed: Bool, sums: Bool = false) -> MemoryPlan {
    let ranks = parameters.entries.filter { $0.name.hasSuffix("lora_A.weight") }.reduce(0) {
      $0 + ($1.shape.first ?? 0)
    }
    let trained = model.layers[min(lowest, model.layers.count)...]
    let perLayer = trained.map(\.keptWidth)
    let inputs = trained.reduce(0) { $0 + $1.hiddenWidth }
    let most = perLayer.max() ?? 0
    let kept = checkpointed ? inputs + most + ranks / max(1, trained.count) : perLayer.reduce(0, +) + ranks
    let scratch = model.layers.map(\.scratchWidth).max() ?? 0
    let hidden = model.head.inFeatures
    let rows = min(labelled, CrossEntropy.chunkRows)
    // A chunk's logits and their way back; rows of the head before and after the last norm, and their gradients.
    let head = rows * (model.head.outFeatures + hidden) + 4 * labelled * hidden
    // The way back of the head and that of a layer do not meet; the gradient of the last layer's output outlives both.
    return MemoryPlan(
      batchTokens: tokens, keptBytes: 4 * tokens * kept,
      scratchBytes: 4 * max(tokens * scratch, head + 2 * tokens * hidden),
      parameterBytes: (sums ? 20 : 16) * parameters.count)
  }
}

extension FrozenDecoderLayer {
  fileprivate var hiddenWidth: Int { projections.first?.inFeatures ?? 0 }
  private var queryWidth: Int { attention.heads * attention.width }
  private var keyWidth: Int { attention.keyHeads * attention.width }
  private var innerWidth: Int { down.inFeatures }

  /// Floats that a token's tape holds: see `TrainedLayer.Tape`.
  fileprivate var keptWidth: Int {
    2 * hiddenWidth + 2 * queryWidth + 2 * keyWidth + (gate == nil ? 1 : 2) * innerWidth
      + (headNorms == nil ? 0 : queryWidth + keyWidth) + (normsAfter ? hiddenWidth : 0)
  }

  /// Floats of a token that exist at once beside the tapes: on the way back of the feed-forward layer, or of attention.
  fileprivate var scratchWidth: Int {
    let sums = (normsAfter ? 7 : 5) * hiddenWidth
    let feedForward = sums + 2 * innerWidth
    let joined = projections.count == 1 ? 2 * (queryWidth + 2 * keyWidth) : 0
    let attention = sums + 3 * queryWidth + 4 * keyWidth + joined
    return max(feedForward, attention)
  }
}
