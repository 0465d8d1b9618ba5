extension AdapterMethod {
  /// LayerNorm tuning: whole copies of norms take the place of the base's. Source: peft/tuners/ln_tuning/layer.py `merge`.
  static let lnTuning = AdapterMethod(
    type: PeftType(rawValue: "LN_TUNING"),
    defaults: """
      {"exclude_modules": null, "modules_to_save": null, "target_modules": null}
      """,
    prefixes: ["ln_tuning_"], merging: .replacement(infix: "ln_tuning_layers"))

  /// Trainable tokens: rows of an embedding that take the place of the base's, despite the tensor's name.
  ///
  /// Source: peft/tuners/trainable_tokens/layer.py `get_merged_weights`.
  static let trainableTokens = AdapterMethod(
    type: PeftType(rawValue: "TRAINABLE_TOKENS"),
    defaults: """
      {"init_weights": true, "target_modules": null, "token_indices": []}
      """,
    prefixes: ["trainable_tokens_"], merging: .rows(tensor: "trainable_tokens_delta", setting: "token_indices"))
}
