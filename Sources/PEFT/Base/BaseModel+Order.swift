internal import TensorFiles

extension BaseModel {
  /// Names of modules in the order in which transformers registers them within their parents. Some methods draw random
  /// numbers, or share vectors, in this order. A name after a dot counts within that parent only.
  ///
  /// Source: the classes in transformers 5.23; model types that are not listed here have no known order.
  private static let orders: [(types: String, names: String)] = [
    (
      """
      llama mistral qwen2 qwen3 gemma gemma2 gemma3_text mixtral qwen2_moe qwen3_moe olmo olmo2 stablelm granite \
      smollm3 cohere starcoder2
      """,
      """
      model embed_tokens layers self_attn q_proj k_proj v_proj qkv_proj o_proj mlp gate experts gate_proj up_proj \
      gate_up_proj down_proj c_fc c_proj lm_head score
      """
    ),
    (
      "opt",
      """
      model decoder embed_tokens embed_positions project_out project_in layers self_attn k_proj v_proj q_proj out_proj fc1 \
      fc2 lm_head score
      """
    ),
    ("phi3", "model embed_tokens layers self_attn o_proj qkv_proj mlp gate_up_proj down_proj lm_head score"),
    ("gpt2", "transformer wte wpe h attn c_attn q_attn c_proj mlp mlp.c_fc mlp.c_proj lm_head score"),
    (
      "gpt_neox",
      "gpt_neox embed_in layers attention query_key_value dense mlp dense_h_to_4h dense_4h_to_h embed_out lm_head"
    ),
    (
      "bloom falcon",
      "transformer word_embeddings h self_attention query_key_value dense mlp dense_h_to_4h dense_4h_to_h lm_head"
    ),
    (
      "bert electra deberta-v2",
      """
      bert electra deberta embeddings word_embeddings position_embeddings token_type_embeddings embeddings_project encoder \
      layer attention self query query_proj key key_proj value value_proj intermediate output dense pooler cls predictions \
      transform decoder classifier out_proj
      """
    ),
    (
      "roberta xlm-roberta camembert",
      """
      roberta embeddings word_embeddings token_type_embeddings position_embeddings encoder layer attention self query key \
      value intermediate output dense pooler lm_head decoder classifier out_proj
      """
    ),
    (
      "distilbert",
      """
      distilbert embeddings word_embeddings position_embeddings transformer layer attention q_lin k_lin v_lin out_lin ffn \
      lin1 lin2 pre_classifier classifier
      """
    ),
    (
      "bart mbart whisper",
      """
      model shared encoder conv1 conv2 embed_tokens embed_positions decoder layers self_attn encoder_attn k_proj v_proj q_proj \
      out_proj fc1 fc2 lm_head proj_out
      """
    ),
    (
      "vit",
      """
      vit embeddings patch_embeddings projection layers attention q_proj k_proj v_proj o_proj mlp fc1 fc2 classifier
      """
    ),
    ("resnet", "resnet embedder encoder stages layers shortcut layer convolution classifier"),
    ("phi", "model embed_tokens layers self_attn q_proj k_proj v_proj dense mlp fc1 fc2 lm_head score"),
    ("gptj", "transformer wte h attn k_proj v_proj q_proj out_proj mlp fc_in fc_out lm_head score"),
    ("gpt_neo", "transformer wte wpe h attn attention k_proj v_proj q_proj out_proj mlp c_fc c_proj lm_head score"),
    ("mpt", "transformer wte blocks attn Wqkv out_proj ffn up_proj down_proj lm_head"),
    (
      "t5 mt5",
      "shared encoder decoder embed_tokens block layer SelfAttention EncDecAttention q k v o relative_attention_bias DenseReluDense wi wi_0 wi_1 wo lm_head"
    ),
  ]

  /// The paths in the model's own order; nil if it is not known how two of them stand to each other.
  ///
  /// Layers that are numbered stand in the order of their numbers in any model. Names side by side need the table.
  func registrationOrder(_ paths: [String]) -> [String]? {
    let names = modelType.flatMap { type in
      Self.orders.first { $0.types.split(separator: " ").contains(Substring(type)) }?.names
    }
    let ranks = Dictionary(
      (names ?? "").split(separator: " ").enumerated().map { ($1, $0) }, uniquingKeysWith: { first, _ in first })
    let split = paths.map { path in (parts: path.parts(), path: path) }
    return Self.ordered(split, level: 0, ranks)
  }

  /// Orders paths that agree in their parts before `level`.
  private static func ordered(
    _ paths: [(parts: [Substring], path: String)], level: Int, _ ranks: [Substring: Int]
  ) -> [String]? {
    if paths.count < 2 { return paths.map(\.path) }
    guard level < 64 else { return nil }
    var (paths, level) = (paths, level)
    // What all have in common orders nothing.
    while let part = paths[0].parts.dropFirst(level).first,
      paths.allSatisfy({ $0.parts.count > level && $0.parts[level] == part })
    {
      level += 1
    }
    // A module stands before those inside it.
    var result = paths.filter { $0.parts.count == level }.map(\.path)
    paths.removeAll { $0.parts.count == level }
    let parent = paths.first.flatMap { level > 0 ? $0.parts[level - 1] : nil } ?? ""
    let groups = Dictionary(grouping: paths) { $0.parts[level] }
    var keyed: [(rank: Int, name: Substring)] = []
    let areNumbers = groups.keys.allSatisfy { Int($0) != nil }
    for name in groups.keys {
      let rank = areNumbers ? Int(name) : ranks["\(parent).\(name)"] ?? ranks[name]
      guard let rank = rank ?? (groups.count == 1 ? 0 : nil) else { return nil }
      keyed.append((rank, name))
    }
    for (_, name) in keyed.sorted(by: { $0.rank < $1.rank }) {
      guard let part = ordered(groups[name] ?? [], level: level + 1, ranks) else { return nil }
      result += part
    }
    return result
  }
}
