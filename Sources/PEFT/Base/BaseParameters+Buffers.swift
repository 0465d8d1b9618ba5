internal import TensorFiles

/// What a checkpoint holds beside the model's parameters.
extension BaseParameters {
  /// Parts that transformers leaves unread: layers that predict several tokens, and T5's second position bias.
  ///
  /// Source: transformers 5.23, `_keys_to_ignore_on_load_unexpected` of each class.
  static func isUnread(_ name: String, _ base: BaseModel) -> Bool {
    if name.hasPrefix("mtp.") || name.hasSuffix(".EncDecAttention.relative_attention_bias.weight") { return true }
    guard let layers = base.config?["num_hidden_layers"]?.integerValue,
      base.config?["num_nextn_predict_layers"]?.integerValue ?? 0 > 0
    else { return false }
    let parts = name.split(separator: ".")
    guard parts.count > 2, parts[0] == "model", parts[1] == "layers", let layer = Int(parts[2]) else { return false }
    return layer >= layers
  }

  /// Last parts of the names of buffers that models of transformers 5.23 store, and of those that older ones stored.
  private static let bufferNames: Set<String> = [
    "running_mean", "running_var", "num_batches_tracked", "layer_scalar", "e_score_correction_bias", "inv_freq",
    "position_ids", "token_type_ids", "final_logits_bias", "masked_bias", "causal_mask", "relative_position_index",
    "embed_positions.weights", "encoder.version", "decoder.version", "input_min", "input_max", "output_min",
    "output_max", "slope_rate", "query_decay", "key_decay", "diagonal_decay", "balancing_biases", "tid2eid",
    "act_fn.beta", "act_fn.eps", "x_min", "x_max", "act_scaling_factor", "weight_integer", "bias_integer",
    "fc_scaling_factor", "weight_scaling_factor", "codebook.inited", "codebook.initialized", "codebook.embed",
    "codebook.embed_avg", "codebook.embed_sum", "codebook.cluster_size", "codebook.cluster_usage", "num_points_scale",
    "n_points_scale", "global_mean", "global_invstd", "norm_mean", "norm_std", "summary_idxs", "pos_idx_to_embed",
    "std_bias", "std_scale",
  ]

  /// Whether a tensor is a buffer, which PEFT does not count.
  static func isBuffer(_ name: String, _ shape: [Int]) -> Bool {
    let last = lastPart(name)
    // Almost all tensors, and no buffer.
    if last == "weight" { return false }
    let parts = name.split(separator: ".")
    if bufferNames.contains(parts.suffix(2).joined(separator: ".")) || bufferNames.contains(last) { return true }
    // Causal masks of early GPT checkpoints: attn.bias, attention.bias of shape [1, 1, n, n].
    return name.hasSuffix(".bias") && shape.count == 4
  }
}
