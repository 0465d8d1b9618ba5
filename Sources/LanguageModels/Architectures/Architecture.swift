internal import PEFT
internal import Synchronization
internal import TensorFiles

/// How the modules of a `model_type` are made and named.
public struct Architecture: Sendable {
  /// A model's tree, and where the parts are that a forward pass needs. Paths are those of the tree.
  public struct Parts {
    /// The whole model, named as transformers names its class.
    public let root: NetworkModule
    /// The path of the embedding of tokens, an `Embedding`.
    public let embedding: String
    /// Learnt positions, an `Embedding`; nil if there are none.
    public var positions: String?
    /// Between the embedding's width and the layers', a linear layer; nil if they are the same.
    public var inputProjection: String?
    /// Between the layers' width and the head's; nil if they are the same.
    public var outputProjection: String?
    /// A `RotaryEmbedding`; nil if positions are not rotated.
    public var rotary: String?
    /// The list of `DecoderLayer`s.
    public let layers: String
    /// The name of a layer's attention.
    public var attentionName = "self_attn"
    /// The norm after the last layer; nil if there is none.
    public var finalNorm: String?
    /// The path of the head, a linear layer.
    public var head = "lm_head"
    /// Share of what enters the first layer that training drops.
    public var inputDropout = 0.0
    /// Share of passes in which training leaves a layer out.
    public var layerDropout = 0.0
    /// Greatest number of positions.
    public let contextLength: Int

    public init(
      root: NetworkModule, embedding: String, positions: String? = nil, inputProjection: String? = nil,
      outputProjection: String? = nil, rotary: String? = nil, layers: String, attentionName: String = "self_attn",
      finalNorm: String? = nil, head: String = "lm_head", inputDropout: Double = 0, layerDropout: Double = 0,
      contextLength: Int
    ) {
      self.root = root
      self.embedding = embedding
      self.positions = positions
      self.inputProjection = inputProjection
      self.outputProjection = outputProjection
      self.rotary = rotary
      self.layers = layers
      self.attentionName = attentionName
      self.finalNorm = finalNorm
      self.head = head
      self.inputDropout = inputDropout
      self.layerDropout = layerDropout
      self.contextLength = contextLength
    }
  }

  /// `model_type` of config.json.
  public let type: String
  let make: @Sendable (ModelConfig, ParameterSource) throws(ModelError) -> Parts

  /// - Parameter make: builds the tree of a configuration; its parameters come from the source by their names in the model.
  public init(type: String, make: @escaping @Sendable (ModelConfig, ParameterSource) throws(ModelError) -> Parts) {
    self.type = type
    self.make = make
  }

  /// The architectures of this package.
  private static let builtIn: [Architecture] = [gemma, gpt2, llama, mistral, opt, qwen2, qwen3]
  private static let registry = Mutex(
    Dictionary(builtIn.map { (ExactName($0.type), $0) }, uniquingKeysWith: { first, _ in first }))

  /// Lets models of one more type run, or of a known type otherwise than before. Models that are loaded stay as they are.
  ///
  /// What the type implies for names in checkpoints is registered apart: `ModelFamily.register(_:for:)`.
  public static func register(_ architecture: Architecture) {
    registry.withLock { $0[ExactName(architecture.type)] = architecture }
  }

  /// The types that can be run, sorted.
  public static var known: [String] { registry.withLock { $0.keys.map(\.text) }.inExactOrder() }

  static func named(_ type: String) -> Architecture? { registry.withLock { $0[ExactName(type)] } }
}

extension ParameterSource {
  /// A linear layer at a path.
  public func linear(_ path: String, _ input: Int, _ output: Int, bias: Bool) throws(ModelError) -> Linear {
    Linear(
      try matrix("\(path).weight", output, input), bias: bias ? try vector("\(path).bias", output) : nil)
  }

  /// A `Conv1D` at a path, its weight stored `[in, out]`.
  public func conv1D(_ path: String, _ input: Int, _ output: Int) throws(ModelError) -> Linear {
    Linear(
      try matrix("\(path).weight", input, output), bias: try vector("\(path).bias", output), isTransposed: true)
  }

  /// A layer norm at a path.
  public func layerNorm(
    _ path: String, _ width: Int, epsilon: Double, isAffine: Bool = true
  ) throws(ModelError) -> LayerNorm {
    LayerNorm(
      isAffine ? try vector("\(path).weight", width) : nil, isAffine ? try vector("\(path).bias", width) : nil,
      width: width, epsilon: epsilon)
  }

  /// The head; a tied one has the embedding's weight.
  public func head(
    _ path: String, tiedTo embedding: Embedding, _ width: Int, _ vocabulary: Int
  ) throws(ModelError) -> Linear {
    if base.isTied {
      return Linear(
        NetworkParameter(name: "\(path).weight", stored: embedding.weight.stored, isVector: false), bias: nil)
    }
    return try linear(path, width, vocabulary, bias: false)
  }
}
