internal import TensorMath

/// What a forward pass carries through the layers.
final class Pass {
  /// Cosines and sines of the positions, where the model rotates.
  let angles: (cosines: [Float], sines: [Float])?
  let cache: KeyValueCache
  /// Tokens that the pass began with; a layer may be given the last of them only.
  private let tokens: Int
  /// The first token that an aLoRA acts on; none where it is not below `tokens`.
  private let adapterStart: Int

  init(
    angles: (cosines: [Float], sines: [Float])?, cache: KeyValueCache, tokens: Int, adapterStart: Int
  ) {
    self.angles = angles
    self.cache = cache
    self.tokens = tokens
    self.adapterStart = adapterStart
  }

  /// How many of the first of a layer's `rows` an aLoRA leaves alone.
  func rowsBeforeAdapter(of rows: Int) -> Int { min(rows, max(0, adapterStart - (tokens - rows))) }
}

/// Keys and values of all layers. Belongs to one sequence.
public final class KeyValueCache {
  var layers: [KeyValues]
  /// True if an aLoRA was invoked in the sequence: it then acts on all that follows.
  var isInvoked = false

  init(strides: [Int]) { layers = strides.map { KeyValues(stride: $0) } }

  /// Positions held.
  public var count: Int { layers.first?.count ?? 0 }
}

/// Attention with its projections, by whatever names they have.
final class Attention: Module {
  /// What the parts are called, and how they are computed with.
  struct Layout {
    /// Queries, keys and values: three names, or one of a projection that gives all three.
    var projections = ["q_proj", "k_proj", "v_proj"]
    var output = "o_proj"
    /// Norms of each head's queries and keys.
    var headNorms: (query: String, key: String)?
    var heads: Int
    var keyHeads: Int
    var width: Int
    var scale: Float
    /// Positions that a query sees; nil for all.
    var window: Int?
  }

  let layout: Layout
  private let index: Int
  /// Learnt prompts that this layer attends to besides, with their gate.
  var prompts: [AdaptionPrompt] = []

  init(_ typeName: String, _ layout: Layout, index: Int, _ children: [(name: String, module: Module)]) {
    self.layout = layout
    self.index = index
    super.init(typeName, children)
  }

  func callAsFunction(_ x: Matrix<Float>, _ pass: Pass) -> Matrix<Float> {
    var queries: Matrix<Float>
    var keys: Matrix<Float>
    var values: Matrix<Float>
    if layout.projections.count == 1 {
      let all = part(layout.projections[0], as: LinearLayer.self)(x, pass)
      let width = layout.heads * layout.width
      queries = all.columns(0..<width)
      keys = all.columns(width..<2 * width)
      values = all.columns(2 * width..<3 * width)
    } else {
      queries = part(layout.projections[0], as: LinearLayer.self)(x, pass)
      keys = part(layout.projections[1], as: LinearLayer.self)(x, pass)
      values = part(layout.projections[2], as: LinearLayer.self)(x, pass)
    }
    if let norms = layout.headNorms {
      queries = part(norms.query, as: RMSNorm.self)(queries, width: layout.width)
      keys = part(norms.key, as: RMSNorm.self)(keys, width: layout.width)
    }
    if let angles = pass.angles {
      queries.rotate(width: layout.width, cosines: angles.cosines, sines: angles.sines)
      keys.rotate(width: layout.width, cosines: angles.cosines, sines: angles.sines)
    }
    pass.cache.layers[index].append(keys: keys.values, values: values.values)
    let seen = pass.cache.layers[index].attend(
      queries, width: layout.width, scale: layout.scale, window: layout.window)
    var result = part(layout.output, as: LinearLayer.self)(seen, pass)
    for prompt in prompts { prompt.add(to: &result, queries: queries, self) }
    return result
  }
}

/// Two or three linear layers around a function: down(f(up x)), or down(f(gate x) · up x).
struct FeedForward {
  var gate: String?
  var up: String
  var down: String
  var function: String

  func callAsFunction(_ x: Matrix<Float>, in module: Module, _ pass: Pass) -> Matrix<Float> {
    let function: Activation = module.part(function)
    if let gate {
      var inner = function(module.part(gate, as: LinearLayer.self)(x, pass))
      inner.multiply(by: module.part(up, as: LinearLayer.self)(x, pass))
      return module.part(down, as: LinearLayer.self)(inner, pass)
    }
    return module.part(down, as: LinearLayer.self)(function(module.part(up, as: LinearLayer.self)(x, pass)), pass)
  }
}

/// A decoder layer: attention and a feed-forward part, each beside what it is added to.
final class DecoderLayer: Module {
  /// What the parts are called.
  struct Layout {
    var attention = "self_attn"
    var attentionNorm = "input_layernorm"
    var feedForwardNorm = "post_attention_layernorm"
    /// The module that holds the feed-forward part; nil if that is the layer itself.
    var feedForwardModule: String? = "mlp"
    var feedForward: FeedForward
    /// True if a norm follows each sum instead of preceding each part.
    var normsAfter = false
  }

  let layout: Layout

  init(_ typeName: String, _ layout: Layout, _ children: [(name: String, module: Module)]) {
    self.layout = layout
    super.init(typeName, children)
  }

  func callAsFunction(_ x: Matrix<Float>, _ pass: Pass) -> Matrix<Float> {
    let attention: Attention = part(layout.attention)
    let (first, second): (Norm, Norm) = (part(layout.attentionNorm), part(layout.feedForwardNorm))
    let inner = layout.feedForwardModule.map { part($0, as: Module.self) } ?? self
    var x = x
    x.add(attention(layout.normsAfter ? x : first(x), pass), scale: 1)
    if layout.normsAfter { x = first(x) }
    x.add(layout.feedForward(layout.normsAfter ? x : second(x), in: inner, pass), scale: 1)
    return layout.normsAfter ? second(x) : x
  }
}
