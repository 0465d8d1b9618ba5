/// Methods that no merge can express: known, read and counted, and refused with the reason.
extension AdapterMethod {
  static let xLoRA = AdapterMethod(
    type: PeftType(rawValue: "XLORA"),
    defaults: """
      {"adapters": null, "enable_softmax": true, "enable_softmax_topk": false, "global_scaling_weight": 1.0, \
      "hidden_size": null, "layerwise_scalings": false, "scaling_pass_value": 0.0, "softmax_temperature": 1.0, \
      "top_k_lora": null, "use_trainable_adapters": false, "xlora_depth": 1, "xlora_dropout_p": 0.2, \
      "xlora_size": 2048}
      """,
    prefixes: ["internal_xlora_classifier"], merging: .none(reason: "it mixes adapters by the input."))

  static let shadow = AdapterMethod(
    type: PeftType(rawValue: "SHADOW"),
    defaults: """
      {"auxiliary_loss_weight": 0.05, "exclude_modules": null, "init_weights": true, "layers_pattern": null, \
      "layers_to_transform": null, "modules_to_save": null, "r": 8, "shadow_alpha": 0.1, \
      "shadow_dropout": 0.2, "shadow_hidden_size": null, "shadow_intermediate_size": null, \
      "shadow_model": "mirror", "shadow_num_attention_heads": null, "shadow_num_hidden_layers": null, \
      "share_embeddings": true, "target_modules": null, "update_hidden_size": null}
      """,
    prefixes: ["shadow_"], merging: .none(reason: "it runs a second network beside the model."))

  static let adaMSS = AdapterMethod(
    type: PeftType(rawValue: "ADAMSS"),
    defaults: """
      {"asa_importance_beta": 0.85, "asa_schedule_exponent": 3.0, "asa_target_subspaces": 50, \
      "asa_uncertainty_beta": 0.85, "final_warmup": 1000, "init_warmup": 50, "init_weights": "orthogonal", \
      "layers_pattern": null, "layers_to_transform": null, "mask_interval": 100, "modules_to_save": null, \
      "num_subspaces": 5, "r": 100, "random_seed": 0, "subspace_rank": 1, "svd_threshold": 0.1, \
      "target_modules": null, "use_asa": false, "use_dynamic_rank": false}
      """,
    prefixes: ["adamss_"], buffers: ["adamss_newB"],
    merging: .none(
      reason: "which rows its parts act on is not stored: it comes from a clustering of the weight that depends on the "
        + "library which does it."))

}
