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
  /// True where layers may round their inputs for speed: in a long prompt of which only the end is asked for.
  let roundsInputs: Bool

  /// Tokens of a prompt up to which exact inputs cost no time that anybody sees.
  private static let exactTokens = 64

  /// - Parameter lastOnly: true if the logits of the last token alone are wanted.
  init(
    angles: (cosines: [Float], sines: [Float])?, cache: KeyValueCache, tokens: Int, adapterStart: Int, lastOnly: Bool
  ) {
    roundsInputs = lastOnly && tokens > Self.exactTokens
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

  /// Keeps the first positions only. Traps if there are fewer.
  func cut(to positions: Int) {
    for index in layers.indices { layers[index].cut(to: positions) }
  }
}

/// Attention with its projections, by whatever names they have.
public final class Attention: NetworkModule {
  /// What the parts are called, and how they are computed with.
  public struct Layout {
    /// Queries, keys and values: three names, or one of a projection that gives all three.
    public var projections: [String]
    public var output: String
    /// Norms of each head's queries and keys.
    public var headNorms: (query: String, key: String)?
    /// Heads of queries.
    public var heads: Int
    /// Heads of keys and values, a divisor of `heads`.
    public var keyHeads: Int
    /// Features of a head.
    public var width: Int
    /// What products of queries and keys are multiplied by.
    public var scale: Float
    /// Positions that a query sees; nil for all.
    public var window: Int?
    /// Share of the softmax that training drops.
    public var dropout: Double

    public init(
      projections: [String] = ["q_proj", "k_proj", "v_proj"], output: String = "o_proj", heads: Int, keyHeads: Int,
      width: Int, scale: Float, window: Int? = nil, dropout: Double = 0
    ) {
      self.projections = projections
      self.output = output
      self.heads = heads
      self.keyHeads = keyHeads
      self.width = width
      self.scale = scale
      self.window = window
      self.dropout = dropout
    }
  }

  let layout: Layout
  private let index: Int
  /// Learnt prompts that this layer attends to besides, with their gate.
  var prompts: [AdaptionPrompt] = []

  /// - Parameters:
  ///   - index: the layer's place, whose keys and values it uses.
  ///   - children: the parts that the layout names, in the order in which transformers registers them.
  public init(_ typeName: String, _ layout: Layout, index: Int, _ children: [(name: String, module: NetworkModule)]) {
    self.layout = layout
    self.index = index
    super.init(typeName, details: "", children)
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
public struct FeedForward {
  /// The names of the linear layers; without `gate` there are two.
  public var gate: String?
  public var up: String
  public var down: String
  /// The name of the `ActivationLayer`.
  public var function: String

  public init(gate: String? = nil, up: String, down: String, function: String) {
    self.gate = gate
    self.up = up
    self.down = down
    self.function = function
  }

  func callAsFunction(_ x: Matrix<Float>, in module: NetworkModule, _ pass: Pass) -> Matrix<Float> {
    let function: ActivationLayer = module.part(function)
    if let gate {
      var inner = function(module.part(gate, as: LinearLayer.self)(x, pass))
      inner.multiply(by: module.part(up, as: LinearLayer.self)(x, pass))
      return module.part(down, as: LinearLayer.self)(inner, pass)
    }
    return module.part(down, as: LinearLayer.self)(function(module.part(up, as: LinearLayer.self)(x, pass)), pass)
  }
}

/// A decoder layer: attention and a feed-forward part, each beside what it is added to.
public final class DecoderLayer: NetworkModule {
  /// What the parts are called.
  public struct Layout {
    public var attention: String
    public var attentionNorm: String
    public var feedForwardNorm: String
    /// The module that holds the feed-forward part; nil if that is the layer itself.
    public var feedForwardModule: String?
    public var feedForward: FeedForward
    /// True if a norm follows each sum instead of preceding each part.
    public var normsAfter: Bool
    /// Share of what each part adds that training drops.
    public var dropout: Double

    public init(
      attention: String = "self_attn", attentionNorm: String = "input_layernorm",
      feedForwardNorm: String = "post_attention_layernorm", feedForwardModule: String? = "mlp",
      feedForward: FeedForward, normsAfter: Bool = false, dropout: Double = 0
    ) {
      self.attention = attention
      self.attentionNorm = attentionNorm
      self.feedForwardNorm = feedForwardNorm
      self.feedForwardModule = feedForwardModule
      self.feedForward = feedForward
      self.normsAfter = normsAfter
      self.dropout = dropout
    }
  }

  let layout: Layout

  /// - Parameter children: the parts that the layout names, in the order in which transformers registers them.
  public init(_ typeName: String, _ layout: Layout, _ children: [(name: String, module: NetworkModule)]) {
    self.layout = layout
    super.init(typeName, details: "", children)
  }

  func callAsFunction(_ x: Matrix<Float>, _ pass: Pass) -> Matrix<Float> {
    let attention: Attention = part(layout.attention)
    let (first, second): (Norm, Norm) = (part(layout.attentionNorm), part(layout.feedForwardNorm))
    let inner = layout.feedForwardModule.map { part($0, as: NetworkModule.self) } ?? self
    var x = x
    x.add(attention(layout.normsAfter ? x : first(x), pass), scale: 1)
    if layout.normsAfter { x = first(x) }
    x.add(layout.feedForward(layout.normsAfter ? x : second(x), in: inner, pass), scale: 1)
    return layout.normsAfter ? second(x) : x
  }
}
