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
    ("phi", "model embed_tokens layers self_attn q_proj k_proj v_proj dense mlp fc1 fc2 lm_head score"),
    ("gptj", "transformer wte h attn k_proj v_proj q_proj out_proj mlp fc_in fc_out lm_head score"),
    ("gpt_neo", "transformer wte wpe h attn attention k_proj v_proj q_proj out_proj mlp c_fc c_proj lm_head score"),
    ("mpt", "transformer wte blocks attn Wqkv out_proj ffn up_proj down_proj lm_head"),
    (
      "t5 mt5",
      "shared encoder decoder embed_tokens block layer SelfAttention EncDecAttention q k v o relative_attention_bias DenseReluDense wi wi_0 wi_1 wo lm_head"
    ),
  ]

  /// The paths in the model's own order; nil if the order of one of their parts is not known.
  func registrationOrder(_ paths: [String]) -> [String]? {
    guard let modelType,
      let names = Self.orders.first(where: { $0.types.split(separator: " ").contains(Substring(modelType)) })?.names
    else { return nil }
    let ranks = Dictionary(
      names.split(separator: " ").enumerated().map { ($1, $0) }, uniquingKeysWith: { first, _ in first })
    var keyed: [(key: [Int], path: String)] = []
    for path in paths {
      var key: [Int] = []
      var parent: Substring = ""
      for part in path.parts() {
        guard let rank = Int(part) ?? ranks["\(parent).\(part)"] ?? ranks[part] else { return nil }
        key.append(rank)
        parent = part
      }
      keyed.append((key, path))
    }
    return keyed.sorted { $0.key.lexicographicallyPrecedes($1.key) }.map(\.path)
  }
}
