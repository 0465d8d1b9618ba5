internal import PEFT
internal import TensorFiles

/// How the modules of a `model_type` are made and named.
struct Architecture: Sendable {
  /// A model's tree, and where the parts are that a forward pass needs.
  struct Parts {
    let root: Module
    let embedding: String
    /// Learnt positions.
    var positions: String?
    /// Between the embedding's width and the layers'.
    var inputProjection: String?
    var outputProjection: String?
    var rotary: String?
    let layers: String
    /// The name of a layer's attention.
    var attentionName = "self_attn"
    var finalNorm: String?
    var head = "lm_head"
    let contextLength: Int
  }

  let type: String
  let make: @Sendable (ModelConfig, ParameterSource) throws(ModelError) -> Parts

  /// All architectures.
  static let all: [Architecture] = [gemma, gpt2, llama, mistral, opt, qwen2, qwen3]
  /// The types that can be run.
  static var known: [String] { all.map(\.type) }

  static func named(_ type: String) -> Architecture? { all.first { $0.type == type } }
}

extension ParameterSource {
  /// A linear layer at a path.
  func linear(_ path: String, _ input: Int, _ output: Int, bias: Bool) throws(ModelError) -> Linear {
    Linear(
      try matrix("\(path).weight", output, input), bias: bias ? try vector("\(path).bias", output) : nil)
  }

  /// A `Conv1D` at a path, its weight stored `[in, out]`.
  func conv1D(_ path: String, _ input: Int, _ output: Int) throws(ModelError) -> Linear {
    Linear(
      try matrix("\(path).weight", input, output), bias: try vector("\(path).bias", output), isTransposed: true)
  }

  func layerNorm(_ path: String, _ width: Int, epsilon: Double, isAffine: Bool = true) throws(ModelError) -> LayerNorm {
    LayerNorm(
      isAffine ? try vector("\(path).weight", width) : nil, isAffine ? try vector("\(path).bias", width) : nil,
      width: width, epsilon: epsilon)
  }

  /// The head; a tied one has the embedding's weight.
  func head(_ path: String, tiedTo embedding: Embedding, _ width: Int, _ vocabulary: Int) throws(ModelError) -> Linear {
    if base.isTied {
      return Linear(
        Parameter(name: "\(path).weight", stored: embedding.weight.stored, isVector: false), bias: nil)
    }
    return try linear(path, width, vocabulary, bias: false)
  }
}
