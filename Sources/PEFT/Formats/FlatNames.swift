/// Module paths of image models with every dot as an underscore, as kohya's files have them.
///
/// The words that paths are made of are known, so that a flat name can be read: the longest word that leaves a readable rest.
enum FlatNames {
  private static let words: Set<String> = Set(
    """
    down_blocks up_blocks mid_block attentions resnets downsamplers upsamplers transformer_blocks attn1 attn2 attn to_q to_k \
    to_v to_out to_add_out add_q_proj add_k_proj add_v_proj ff ff_context net proj proj_in proj_out proj_mlp conv conv1 conv2 \
    conv_shortcut time_emb_proj conv_in conv_out time_embedding add_embedding linear_1 linear_2 linear norm norm1 norm2 norm3 \
    norm1_context norm2_context norm_out norm_q norm_k single_transformer_blocks x_embedder context_embedder \
    time_text_embed timestep_embedder text_embedder guidance_embedder pos_embed \
    input_blocks middle_block output_blocks in_layers out_layers emb_layers skip_connection op time_embed label_emb out \
    double_blocks single_blocks img_attn txt_attn qkv img_mlp txt_mlp img_mod txt_mod lin linear1 linear2 modulation img_in \
    txt_in time_in vector_in guidance_in in_layer out_layer final_layer adaLN_modulation joint_blocks context_block x_block \
    mlp fc1 fc2 y_embedder t_embedder \
    text_model encoder layers self_attn q_proj k_proj v_proj out_proj embeddings token_embedding position_embedding \
    text_projection layer_norm1 layer_norm2 final_layer_norm \
    block layer SelfAttention DenseReluDense q k v o wi wi_0 wi_1 wo shared
    """.split(whereSeparator: { $0 == " " || $0 == "\n" }).map(String.init))

  /// The path of a flat name; nil if it has a word that is not known.
  static func path(_ flat: String) -> String? {
    let parts = flat.split(separator: "_", omittingEmptySubsequences: false).map(String.init)
    guard parts.count <= 64 else { return nil }
    // For each place the first word of the readable rest, from the end on: no place is read twice.
    var lengths = [Int?](repeating: nil, count: parts.count + 1)
    lengths[parts.count] = 0
    for start in parts.indices.reversed() {
      for length in stride(from: min(4, parts.count - start), through: 1, by: -1) where lengths[start + length] != nil {
        let word = parts[start..<start + length].joined(separator: "_")
        let isNumber = length == 1 && !word.isEmpty && word.utf8.count < 7 && word.utf8.allSatisfy { 48...57 ~= $0 }
        guard isNumber || words.contains(word) else { continue }
        lengths[start] = length
        break
      }
    }
    var path: [String] = []
    var start = 0
    while start < parts.count {
      guard let length = lengths[start], length > 0 else { return nil }
      path.append(parts[start..<start + length].joined(separator: "_"))
      start += length
    }
    return path.joined(separator: ".")
  }

  /// The flat name of a path.
  static func flat(_ path: String) -> String { path.replacing(".", with: "_") }
}
