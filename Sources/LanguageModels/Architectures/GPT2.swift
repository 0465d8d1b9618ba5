extension Architecture {
  /// GPT-2: learnt positions, `Conv1D`, queries, keys and values from one projection.
  ///
  /// Source: transformers/models/gpt2/modeling_gpt2.py.
  static let gpt2 = Architecture(type: "gpt2") { config, source throws(ModelError) in
    let hidden = try config.count("n_embd", default: 768)
    let heads = try config.count("n_head", default: 12)
    try config.require(hidden % heads == 0, "n_head", "a divisor of n_embd (\(hidden))")
    let inner = try config.count("n_inner", default: 4 * hidden)
    let vocabulary = try config.count("vocab_size", default: 50257)
    let context = try config.count("n_positions", default: 1024)
    let epsilon = try config.number("layer_norm_epsilon", default: 1e-5)
    let scalesByLayer = try config.flag("scale_attn_by_inverse_layer_idx", default: false)
    let scales = try config.flag("scale_attn_weights", default: true)
    let embedding = Embedding(try source.matrix("transformer.wte.weight", vocabulary, hidden))
    func dropout(_ key: String) throws(ModelError) -> NetworkModule {
      Inert("Dropout", details: "p=\(pythonNumber(try config.share(key, default: 0.1))), inplace=False")
    }
    var layers: [NetworkModule] = []
    for index in 0..<(try config.count("n_layer", default: 12)) {
      let path = "transformer.h.\(index)"
      let width = hidden / heads
      let scale = (scales ? 1 / Float(width).squareRoot() : 1) / (scalesByLayer ? Float(index + 1) : 1)
      let layout = Attention.Layout(
        projections: ["c_attn"], output: "c_proj", heads: heads, keyHeads: heads, width: width, scale: scale,
        dropout: try config.share("attn_pdrop", default: 0.1))
      let attention = Attention(
        "GPT2Attention", layout, index: index,
        [
          ("c_attn", try source.conv1D("\(path).attn.c_attn", hidden, 3 * hidden)),
          ("c_proj", try source.conv1D("\(path).attn.c_proj", hidden, hidden)),
          ("attn_dropout", try dropout("attn_pdrop")), ("resid_dropout", try dropout("resid_pdrop")),
        ])
      let feedForward = NetworkModule(
        "GPT2MLP",
        [
          ("c_fc", try source.conv1D("\(path).mlp.c_fc", hidden, inner)),
          ("c_proj", try source.conv1D("\(path).mlp.c_proj", inner, hidden)),
          ("act", try ActivationLayer("activation_function", config, default: "gelu_new")),
          ("dropout", try dropout("resid_pdrop")),
        ])
      layers.append(
        DecoderLayer(
          "GPT2Block",
          DecoderLayer.Layout(
            attention: "attn", attentionNorm: "ln_1", feedForwardNorm: "ln_2",
            feedForward: FeedForward(up: "c_fc", down: "c_proj", function: "act"),
            dropout: try config.share("resid_pdrop", default: 0.1)),
          [
            ("ln_1", try source.layerNorm("\(path).ln_1", hidden, epsilon: epsilon)), ("attn", attention),
            ("ln_2", try source.layerNorm("\(path).ln_2", hidden, epsilon: epsilon)), ("mlp", feedForward),
          ]))
    }
    let model = NetworkModule(
      "GPT2Model",
      [
        ("wte", embedding), ("wpe", Embedding(try source.matrix("transformer.wpe.weight", context, hidden))),
        ("drop", try dropout("embd_pdrop")), ("h", ModuleList(layers)),
        ("ln_f", try source.layerNorm("transformer.ln_f", hidden, epsilon: epsilon)),
      ])
    let head = try source.head("lm_head", tiedTo: embedding, hidden, vocabulary)
    return Parts(
      root: NetworkModule("GPT2LMHeadModel", [("transformer", model), ("lm_head", head)]), embedding: "transformer.wte",
      positions: "transformer.wpe", layers: "transformer.h", attentionName: "attn", finalNorm: "transformer.ln_f",
      inputDropout: try config.share("embd_pdrop", default: 0.1), contextLength: context)
  }
}
