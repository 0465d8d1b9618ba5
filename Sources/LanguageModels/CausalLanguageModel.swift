public import PEFT
internal import TensorFiles
public import TensorMath

/// A causal language model that runs on the CPU, its weights mapped in their stored dtype.
///
/// Not Sendable: one sequence of calls at a time.
public final class CausalLanguageModel {
  /// The modules, named as transformers names them.
  public let root: NetworkModule
  public let config: ModelConfig
  public let base: BaseModel
  /// Greatest number of positions.
  public let contextLength: Int
  let parts: Architecture.Parts
  private let source: ParameterSource

  /// Loads a model from a directory with config.json and a checkpoint. Nothing is copied; pages are read as they are used.
  ///
  /// Throws `.configMissing`, `.unknownModelType` with the known ones, `.notCausal`, `.configValue`, `.parameterMissing`,
  /// `.parameterShape`, `.parameterType`, `.adapter`, `.file`.
  public init(directory: String) throws(ModelError) {
    let config = try ModelConfig(directory: directory)
    let base = try withAdapterErrors({ () throws(AdapterError) in
      try BaseModel(path: directory, taskType: "CAUSAL_LM")
    })
    let type = try config.text("model_type", default: "")
    guard let architecture = Architecture.named(type) else {
      throw .unknownModelType(path: config.path, found: type, known: Architecture.known)
    }
    if let found = base.otherThanCausal { throw .notCausal(path: config.path, found) }
    source = try ParameterSource(base)
    parts = try architecture.make(config, source)
    root = parts.root
    contextLength = parts.contextLength
    self.config = config
    self.base = base
    try source.check()
    guard embedding.weight.stored.rows > 0 else {
      throw .configValue(path: config.path, key: "vocab_size", expected: "a whole number from 1", found: "0")
    }
  }

  /// Tokens that the model embeds.
  public var vocabularySize: Int { embedding.count }

  /// Features of a token at the input.
  public var embeddingWidth: Int { embedding.weight.stored.columns }

  private func part<Part: NetworkModule>(at path: String, as type: Part.Type = Part.self) -> Part {
    guard let part = root.module(at: path) as? Part else { preconditionFailure("no \(path)") }
    return part
  }

  var embedding: Embedding { part(at: parts.embedding) }

  /// The layers' attentions, in order.
  var attentions: [Attention] {
    part(at: parts.layers, as: NetworkModule.self).children.compactMap {
      $0.module.child(parts.attentionName) as? Attention
    }
  }

  /// An empty cache for one sequence.
  public func makeCache() -> KeyValueCache {
    KeyValueCache(strides: attentions.map { $0.layout.keyHeads * $0.layout.width })
  }

  /// Embeds tokens: `[tokens, embeddingWidth]`. Throws `.tokenOutside`.
  public func embed(_ tokens: [Int]) throws(ModelError) -> Matrix<Float> {
    for token in tokens where token < 0 || token >= vocabularySize {
      throw .tokenOutside(id: token, vocabulary: vocabularySize)
    }
    return embedding(tokens)
  }

  /// Logits of the next token after each of `tokens`, `[tokens, vocabulary]`, or after the last one only.
  ///
  /// Throws `.tokenOutside`, `.contextTooLong`, and `.file` if a file of the checkpoint was cut since it was opened.
  public func logits(
    _ tokens: [Int], cache: KeyValueCache, lastOnly: Bool = false
  ) throws(ModelError) -> Matrix<Float> {
    try logits(embedded: try embed(tokens), cache: cache, lastOnly: lastOnly)
  }

  /// As `logits(_:cache:lastOnly:)`, for inputs that are embedded already.
  public func logits(
    embedded: Matrix<Float>, cache: KeyValueCache, lastOnly: Bool = false
  ) throws(ModelError) -> Matrix<Float> {
    try logits(embedded: embedded, cache: cache, lastOnly: lastOnly, adapterStart: .max)
  }

  /// - Parameter adapterStart: the first row of `embedded` that an aLoRA acts on.
  func logits(
    embedded: Matrix<Float>, cache: KeyValueCache, lastOnly: Bool, adapterStart: Int
  ) throws(ModelError) -> Matrix<Float> {
    let positions = cache.count..<cache.count + embedded.rows
    guard positions.upperBound <= contextLength else {
      throw .contextTooLong(tokens: positions.upperBound, limit: contextLength)
    }
    let angles = parts.rotary.map { part(at: $0, as: RotaryEmbedding.self).angles(positions) }
    let pass = Pass(angles: angles, cache: cache, tokens: embedded.rows, adapterStart: adapterStart, lastOnly: lastOnly)
    var x = embedded
    if let path = parts.inputProjection { x = part(at: path, as: LinearLayer.self)(x, pass) }
    if let path = parts.positions { x.add(part(at: path, as: Embedding.self)(Array(positions)), scale: 1) }
    for child in part(at: parts.layers, as: NetworkModule.self).children {
      guard let layer = child.module as? DecoderLayer else { continue }
      x = layer(x, pass)
    }
    if lastOnly && x.rows > 1 { x = x.rows(x.rows - 1..<x.rows) }
    if let path = parts.finalNorm { x = part(at: path, as: Norm.self)(x) }
    if let path = parts.outputProjection { x = part(at: path, as: LinearLayer.self)(x, pass) }
    let logits = part(at: parts.head, as: LinearLayer.self)(x, pass)
    // What was computed from a file that is no longer whole goes to no one.
    try source.check()
    return logits
  }

  /// Parameters of the tables of tokens and positions.
  public var embeddingParameterCount: Int {
    root.namedModules().reduce(0) { sum, entry in
      entry.module is Embedding ? sum + entry.module.parameters.reduce(0) { $0 + $1.parameter.count } : sum
    }
  }

  /// Parameters of the model, those under two names once.
  public var parameterCount: Int {
    let headPath = parts.head
    return root.namedModules().reduce(0) { sum, entry in
      if entry.path == headPath && base.isTied { return sum }
      return sum + entry.module.parameters.reduce(0) { $0 + $1.parameter.count }
    }
  }
}
