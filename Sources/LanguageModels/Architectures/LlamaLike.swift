internal import TensorFiles

/// Llama and the models that differ from it in a few points: rotations, RMS norms, a gated feed-forward part.
///
/// Source: transformers models llama, mistral, qwen2, qwen3, gemma: `modeling_*.py`.
struct LlamaLike {
  /// What stands before `Model`, `Attention` and the other classes' names.
  let name: String
  /// The name of the activation where config.json does not say.
  var activation = "silu"
  /// The activation that a name in config.json means.
  var activationMeaning: @Sendable (String) -> String = { $0 }
  /// Biases of queries, keys and values where config.json does not say.
  var hasQueryBias = false
  /// True if `attention_bias` and `mlp_bias` are read.
  var readsBiases = false
  var normalisesHeads = false
  var normsAddOne = false
  var scalesEmbedding = false
  var epsilonKey = "rms_norm_eps"
  /// Heads' width where config.json does not say; nil for the hidden size by heads.
  var headWidth: Int?
  /// The window of layer `index`; nil for none.
  var window: @Sendable (ModelConfig, Int) throws(ModelError) -> Int? = { _, _ in nil }

  func make(_ config: ModelConfig, _ source: ParameterSource) throws(ModelError) -> Architecture.Parts {
    let hidden = try config.count("hidden_size")
    let heads = try config.count("num_attention_heads")
    let keyHeads = try config.count("num_key_value_heads", default: heads)
    try config.require(heads % keyHeads == 0, "num_key_value_heads", "a divisor of num_attention_heads (\(heads))")
    let width = try config.count("head_dim", default: headWidth ?? hidden / heads)
    let inner = try config.count("intermediate_size")
    let vocabulary = try config.count("vocab_size")
    let epsilon = try config.number(epsilonKey, default: 1e-6)
    let attentionBias = readsBiases ? try config.flag("attention_bias", default: false) : false
    let innerBias = readsBiases ? try config.flag("mlp_bias", default: false) : false
    func norm(_ path: String, _ width: Int) throws(ModelError) -> RMSNorm {
      RMSNorm("\(name)RMSNorm", try source.vector("\(path).weight", width), epsilon: epsilon, addsOne: normsAddOne)
    }
    let embedding = Embedding(
      try source.matrix("model.embed_tokens.weight", vocabulary, hidden),
      typeName: scalesEmbedding ? "\(name)TextScaledWordEmbedding" : "Embedding",
      padding: config.value("pad_token_id")?.integerValue, scale: scalesEmbedding ? Float(hidden).squareRoot() : 1)
    var layers: [NetworkModule] = []
    for index in 0..<(try config.count("num_hidden_layers")) {
      let path = "model.layers.\(index)"
      let attentionPath = "\(path).self_attn"
      var layout = Attention.Layout(
        heads: heads, keyHeads: keyHeads, width: width, scale: 1 / Float(width).squareRoot(),
        dropout: try config.share("attention_dropout", default: 0))
      layout.window = try window(config, index)
      let queryBias = hasQueryBias || attentionBias
      var parts: [(name: String, module: NetworkModule)] = [
        ("q_proj", try source.linear("\(attentionPath).q_proj", hidden, heads * width, bias: queryBias)),
        ("k_proj", try source.linear("\(attentionPath).k_proj", hidden, keyHeads * width, bias: queryBias)),
        ("v_proj", try source.linear("\(attentionPath).v_proj", hidden, keyHeads * width, bias: queryBias)),
        ("o_proj", try source.linear("\(attentionPath).o_proj", heads * width, hidden, bias: attentionBias)),
      ]
      if normalisesHeads {
        layout.headNorms = ("q_norm", "k_norm")
        parts.append(("q_norm", try norm("\(attentionPath).q_norm", width)))
        parts.append(("k_norm", try norm("\(attentionPath).k_norm", width)))
      }
      let feedForward = NetworkModule(
        "\(name)MLP",
        [
          ("gate_proj", try source.linear("\(path).mlp.gate_proj", hidden, inner, bias: innerBias)),
          ("up_proj", try source.linear("\(path).mlp.up_proj", hidden, inner, bias: innerBias)),
          ("down_proj", try source.linear("\(path).mlp.down_proj", inner, hidden, bias: innerBias)),
          ("act_fn", try ActivationLayer("hidden_act", config, default: activation, meaning: activationMeaning)),
        ])
      layers.append(
        DecoderLayer(
          "\(name)DecoderLayer",
          DecoderLayer.Layout(
            feedForward: FeedForward(gate: "gate_proj", up: "up_proj", down: "down_proj", function: "act_fn")),
          [
            ("self_attn", Attention("\(name)Attention", layout, index: index, parts)), ("mlp", feedForward),
            ("input_layernorm", try norm("\(path).input_layernorm", hidden)),
            ("post_attention_layernorm", try norm("\(path).post_attention_layernorm", hidden)),
          ]))
    }
    let model = NetworkModule(
      "\(name)Model",
      [
        ("embed_tokens", embedding), ("layers", ModuleList(layers)), ("norm", try norm("model.norm", hidden)),
        ("rotary_emb", try RotaryEmbedding("\(name)RotaryEmbedding", config, width: width)),
      ])
    let head = try source.head("lm_head", tiedTo: embedding, hidden, vocabulary)
    return Architecture.Parts(
      root: NetworkModule("\(name)ForCausalLM", [("model", model), ("lm_head", head)]), embedding: "model.embed_tokens",
      rotary: "model.rotary_emb", layers: "model.layers", finalNorm: "model.norm",
      contextLength: try config.count("max_position_embeddings", default: 2048))
  }
}

/// The window that `sliding_window` sets for a layer that `layer_types` calls sliding; of all layers where nothing is listed.
@Sendable private func slidingWindow(_ config: ModelConfig, _ index: Int) throws(ModelError) -> Int? {
  guard config.value("sliding_window") != nil else { return nil }
  if let types = config.value("layer_types")?.elements {
    guard index < types.count, types[index].stringValue == "sliding_attention" else { return nil }
  }
  return try config.count("sliding_window")
}

/// Qwen's: only with `use_sliding_window`, and from layer `max_window_layers` on.
@Sendable private func qwenWindow(_ config: ModelConfig, _ index: Int) throws(ModelError) -> Int? {
  guard try config.flag("use_sliding_window", default: false) else { return nil }
  if config.value("layer_types") == nil {
    let first = config.value("max_window_layers")?.integerValue ?? 28
    guard index >= first else { return nil }
  }
  return try slidingWindow(config, index)
}

extension Architecture {
  static let llama = Architecture(type: "llama") { config, source throws(ModelError) in
    try LlamaLike(name: "Llama", readsBiases: true).make(config, source)
  }

  static let mistral = Architecture(type: "mistral") { config, source throws(ModelError) in
    try LlamaLike(name: "Mistral", window: slidingWindow).make(config, source)
  }

  static let qwen2 = Architecture(type: "qwen2") { config, source throws(ModelError) in
    try LlamaLike(name: "Qwen2", hasQueryBias: true, window: qwenWindow).make(config, source)
  }

  static let qwen3 = Architecture(type: "qwen3") { config, source throws(ModelError) in
    try LlamaLike(name: "Qwen3", readsBiases: true, normalisesHeads: true, headWidth: 128, window: qwenWindow)
      .make(config, source)
  }

  static let gemma = Architecture(type: "gemma") { config, source throws(ModelError) in
    try LlamaLike(
      name: "Gemma", activation: "gelu_pytorch_tanh",
      // What early files call gelu is the approximation. Source: transformers `GemmaConfig.__post_init__`.
      activationMeaning: { $0 == "gelu" ? "gelu_pytorch_tanh" : $0 },
      readsBiases: true, normsAddOne: true, scalesEmbedding: true, headWidth: 256
    ).make(config, source)
  }
}
