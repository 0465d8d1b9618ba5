internal import TensorFiles

extension Architecture {
  /// OPT: learnt positions from 2 on, biases; the 350m layout has narrower embeddings with projections, and norms after the sums.
  ///
  /// Source: transformers/models/opt/modeling_opt.py.
  static let opt = Architecture(type: "opt") { config, source throws(ModelError) in
    let hidden = try config.count("hidden_size")
    let narrow = try config.count("word_embed_proj_dim", default: hidden)
    let heads = try config.count("num_attention_heads")
    try config.require(hidden % heads == 0, "num_attention_heads", "a divisor of hidden_size (\(hidden))")
    let inner = try config.count("ffn_dim")
    let vocabulary = try config.count("vocab_size")
    let context = try config.count("max_position_embeddings", default: 2048)
    let normsBefore = try config.flag("do_layer_norm_before", default: true)
    let bias = try config.flag("enable_bias", default: true)
    let isAffine = try config.flag("layer_norm_elementwise_affine", default: true)
    let path = "model.decoder"
    func norm(_ path: String) throws(ModelError) -> LayerNorm {
      try source.layerNorm(path, hidden, epsilon: 1e-5, isAffine: isAffine)
    }
    let embedding = Embedding(
      try source.matrix("\(path).embed_tokens.weight", vocabulary, narrow),
      padding: config.value("pad_token_id")?.integerValue ?? 1)
    var parts: [(name: String, module: NetworkModule)] = [
      ("embed_tokens", embedding),
      (
        "embed_positions",
        Embedding(
          try source.matrix("\(path).embed_positions.weight", context + 2, hidden),
          typeName: "OPTLearnedPositionalEmbedding", offset: 2)
      ),
    ]
    if narrow != hidden {
      parts.append(("project_out", try source.linear("\(path).project_out", hidden, narrow, bias: false)))
      parts.append(("project_in", try source.linear("\(path).project_in", narrow, hidden, bias: false)))
    }
    let hasFinalNorm = normsBefore ? try !config.flag("_remove_final_layer_norm", default: false) : false
    if hasFinalNorm { parts.append(("final_layer_norm", try norm("\(path).final_layer_norm"))) }
    var layers: [NetworkModule] = []
    for index in 0..<(try config.count("num_hidden_layers")) {
      let path = "\(path).layers.\(index)"
      let width = hidden / heads
      let layout = Attention.Layout(
        output: "out_proj", heads: heads, keyHeads: heads, width: width, scale: 1 / Float(width).squareRoot(),
        dropout: try config.share("attention_dropout", default: 0))
      var projections: [(name: String, module: NetworkModule)] = []
      for name in ["k_proj", "v_proj", "q_proj", "out_proj"] {
        projections.append((name, try source.linear("\(path).self_attn.\(name)", hidden, hidden, bias: bias)))
      }
      layers.append(
        DecoderLayer(
          "OPTDecoderLayer",
          DecoderLayer.Layout(
            attentionNorm: "self_attn_layer_norm", feedForwardNorm: "final_layer_norm", feedForwardModule: nil,
            feedForward: FeedForward(up: "fc1", down: "fc2", function: "activation_fn"), normsAfter: !normsBefore,
            dropout: try config.share("dropout", default: 0.1)),
          [
            ("self_attn", Attention("OPTAttention", layout, index: index, projections)),
            ("activation_fn", try ActivationLayer("activation_function", config, default: "relu")),
            ("self_attn_layer_norm", try norm("\(path).self_attn_layer_norm")),
            ("fc1", try source.linear("\(path).fc1", hidden, inner, bias: bias)),
            ("fc2", try source.linear("\(path).fc2", inner, hidden, bias: bias)),
            ("final_layer_norm", try norm("\(path).final_layer_norm")),
          ]))
    }
    parts.append(("layers", ModuleList(layers)))
    let head = try source.head("lm_head", tiedTo: embedding, narrow, vocabulary)
    let projects = narrow != hidden
    return Parts(
      root: NetworkModule(
        "OPTForCausalLM",
        [("model", NetworkModule("OPTModel", [("decoder", NetworkModule("OPTDecoder", parts))])), ("lm_head", head)]),
      embedding: "\(path).embed_tokens", positions: "\(path).embed_positions",
      inputProjection: projects ? "\(path).project_in" : nil, outputProjection: projects ? "\(path).project_out" : nil,
      layers: "\(path).layers", finalNorm: hasFinalNorm ? "\(path).final_layer_norm" : nil,
      layerDropout: try config.share("layerdrop", default: 0), contextLength: context)
  }
}
