internal import PEFT
package import TensorMath

/// A linear layer whose weight stays what it is: x ↦ x·Wᵀ + b.
package struct FrozenLinear: Sendable {
  /// The module's path, such as `model.layers.0.self_attn.q_proj`.
  package let path: String
  package let weight: WeightMatrix
  /// Empty for none.
  package let bias: [Float]
  /// True for W stored `[in, out]`.
  package let isTransposed: Bool

  package var inFeatures: Int { isTransposed ? weight.rows : weight.columns }
  package var outFeatures: Int { isTransposed ? weight.columns : weight.rows }

  /// The same layer without its bias.
  package var withoutBias: FrozenLinear {
    FrozenLinear(path: path, weight: weight, bias: [], isTransposed: isTransposed)
  }

  /// `[tokens, in]` to `[tokens, out]`, in f32.
  package func callAsFunction(_ x: LentMatrix, in workspace: Workspace) -> LentMatrix {
    let y = weight.project(x, transposed: isTransposed, in: workspace)
    if !bias.isEmpty { y.addToRows(bias) }
    return y
  }

  /// The gradient of x; `g` is that of the output.
  package func inputGradient(_ g: LentMatrix, in workspace: Workspace) -> LentMatrix {
    weight.project(g, transposed: !isTransposed, in: workspace)
  }
}

/// A norm whose parameters stay what they are.
package struct FrozenNorm: Sendable {
  /// The module's path, such as `model.layers.0.input_layernorm`.
  package let path: String
  /// What it computes.
  package let rule: RowNorm
}

/// A decoder layer as values: what a pass forwards or backwards needs of its modules.
package struct FrozenDecoderLayer: Sendable {
  /// The module's path, such as `model.layers.0`.
  package let path: String
  /// Queries, keys and values: three, or one that gives all three.
  package let projections: [FrozenLinear]
  package let output: FrozenLinear
  package let attention: SequenceAttention
  package let headNorms: (query: FrozenNorm, key: FrozenNorm)?
  package let attentionNorm: FrozenNorm
  package let feedForwardNorm: FrozenNorm
  package let gate: FrozenLinear?
  package let up: FrozenLinear
  package let down: FrozenLinear
  package let function: ActivationKernel
  /// True if a norm follows each sum instead of preceding each part.
  package let normsAfter: Bool
  /// Shares that training drops: of attention's softmax, and of what each part adds.
  package let dropout: (attention: Double, sums: Double)

  /// All linear layers in the order in which a forward pass reaches them.
  package var linears: [FrozenLinear] { projections + [output] + (gate.map { [$0] } ?? []) + [up, down] }

  /// All norms.
  package var norms: [FrozenNorm] {
    (headNorms.map { [$0.query, $0.key] } ?? []) + [attentionNorm, feedForwardNorm]
  }
}

/// A causal language model as values.
package struct FrozenModel {
  package let layers: [FrozenDecoderLayer]
  package let embedding: WeightMatrix
  /// The embedding's path, such as `model.embed_tokens`.
  package let embeddingPath: String
  /// The token whose row torch gives no gradient.
  package let paddingToken: Int?
  package let embeddingScale: Float
  /// Learnt positions, and what is added to a position.
  package let positions: (table: WeightMatrix, offset: Int)?
  package let inputProjection: FrozenLinear?
  package let outputProjection: FrozenLinear?
  package let finalNorm: FrozenNorm?
  package let head: FrozenLinear
  package let contextLength: Int
  /// Shares that training drops: of what enters the first layer, and of layers.
  package let dropout: (input: Double, layers: Double)
  /// Cosines and sines for positions from 0, `[length, width / 2]`; nil where the model does not rotate.
  package let angles: ((Int) -> (cosines: [Float], sines: [Float]))?
}

extension CausalLanguageModel {
  /// The model's layers with the weights that it was loaded with.
  ///
  /// Throws `.unsupported` for an activation that has no slope here.
  package func frozen() throws(ModelError) -> FrozenModel {
    func linear(_ path: String) -> FrozenLinear {
      guard let layer = self.linear(at: path) else { preconditionFailure("no linear layer at \(path)") }
      return FrozenLinear(
        path: path, weight: layer.weight.stored, bias: layer.bias?.vector ?? [], isTransposed: layer.isTransposed)
    }
    let module = { (path: String) -> NetworkModule? in self.root.module(at: path) }
    func norm(_ path: String) -> FrozenNorm? {
      (module(path) as? Norm).map { FrozenNorm(path: path, rule: $0.rule) }
    }
    func part(_ path: String) -> FrozenNorm {
      guard let norm = norm(path) else { preconditionFailure("no norm at \(path)") }
      return norm
    }
    var layers: [FrozenDecoderLayer] = []
    for (index, child) in (module(parts.layers)?.children ?? []).enumerated() {
      guard let layer = child.module as? DecoderLayer else { continue }
      let path = "\(parts.layers).\(index)"
      let attention: Attention = layer.part(layer.layout.attention)
      let layout = attention.layout
      let inner = layer.layout.feedForwardModule.map { "\(path).\($0)" } ?? path
      let parts = layer.layout.feedForward
      guard let function = (module("\(inner).\(parts.function)") as? ActivationLayer)?.kernel else {
        throw .unsupported(
          what: "the activation of \(inner)",
          reason: "training has slopes for ReLU, SiLU, GELU, its tanh forms, quick GELU and tanh.")
      }
      layers.append(
        FrozenDecoderLayer(
          path: path, projections: layout.projections.map { linear("\(path).\(layer.layout.attention).\($0)") },
          output: linear("\(path).\(layer.layout.attention).\(layout.output)"),
          attention: SequenceAttention(
            heads: layout.heads, keyHeads: layout.keyHeads, width: layout.width, scale: layout.scale,
            window: layout.window),
          headNorms: layout.headNorms.map {
            (
              part("\(path).\(layer.layout.attention).\($0.query)"), part("\(path).\(layer.layout.attention).\($0.key)")
            )
          },
          attentionNorm: part("\(path).\(layer.layout.attentionNorm)"),
          feedForwardNorm: part("\(path).\(layer.layout.feedForwardNorm)"),
          gate: parts.gate.map { linear("\(inner).\($0)") }, up: linear("\(inner).\(parts.up)"),
          down: linear("\(inner).\(parts.down)"), function: function, normsAfter: layer.layout.normsAfter,
          dropout: (layout.dropout, layer.layout.dropout)))
    }
    let rotary = parts.rotary.flatMap { module($0) as? RotaryEmbedding }
    let positions = parts.positions.flatMap { module($0) as? Embedding }
    let angles = rotary.map { rotary in { (length: Int) in rotary.angles(0..<length) } }
    return FrozenModel(
      layers: layers, embedding: embedding.weight.stored, embeddingPath: parts.embedding,
      paddingToken: embedding.padding,
      embeddingScale: embedding.scale,
      positions: positions.map { ($0.weight.stored, $0.offset) },
      inputProjection: parts.inputProjection.map { linear($0) },
      outputProjection: parts.outputProjection.map { linear($0) },
      finalNorm: parts.finalNorm.flatMap(norm), head: linear(parts.head),
      contextLength: contextLength, dropout: (parts.inputDropout, parts.layerDropout), angles: angles)
  }
}
