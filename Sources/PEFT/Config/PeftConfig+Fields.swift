internal import TensorFiles

/// One key of adapter_config.json and the property that it maps to.
struct ConfigField: Sendable {
  let key: String
  /// What the error says was expected.
  let expectation: String
  let read: @Sendable (PeftConfig) -> JSONValue
  /// False if the value has the wrong type.
  let write: @Sendable (inout PeftConfig, JSONValue) -> Bool

  init<Value: ConfigValue>(
    _ key: String, _ property: any WritableKeyPath<PeftConfig, Value> & Sendable
  ) {
    self.key = key
    expectation = Value.expectation
    read = { $0[keyPath: property].json }
    write = { config, json in
      guard let value = Value(json: json) else { return false }
      config[keyPath: property] = value
      return true
    }
  }
}

extension PeftType: ConfigValue {
  static var expectation: String { "a string" }
  init?(json: JSONValue) {
    guard let name = json.stringValue else { return nil }
    self.init(rawValue: name)
  }
  var json: JSONValue { .string(rawValue) }
}

extension PeftConfig {
  /// Every key of `LoraConfig` that PEFT 0.21.2 writes.
  static let fields: [ConfigField] = [
    ConfigField("alora_invocation_tokens", \.aloraInvocationTokens),
    ConfigField("alpha_pattern", \.alphaPattern),
    ConfigField("arrow_config", \.arrowConfig),
    ConfigField("auto_mapping", \.autoMapping),
    ConfigField("base_model_name_or_path", \.baseModelNameOrPath),
    ConfigField("bias", \.bias),
    ConfigField("corda_config", \.cordaConfig),
    ConfigField("ensure_weight_tying", \.ensureWeightTying),
    ConfigField("eva_config", \.evaConfig),
    ConfigField("exclude_modules", \.excludeModules),
    ConfigField("fan_in_fan_out", \.fanInFanOut),
    ConfigField("inference_mode", \.inferenceMode),
    ConfigField("init_lora_weights", \.initLoRAWeights),
    ConfigField("kasa_config", \.kasaConfig),
    ConfigField("layer_replication", \.layerReplication),
    ConfigField("layers_pattern", \.layersPattern),
    ConfigField("layers_to_transform", \.layersToTransform),
    ConfigField("loftq_config", \.loftqConfig),
    ConfigField("lora_alpha", \.alpha),
    ConfigField("lora_bias", \.loraBias),
    ConfigField("lora_dropout", \.dropout),
    ConfigField("lora_ga_config", \.loraGAConfig),
    ConfigField("megatron_config", \.megatronConfig),
    ConfigField("megatron_core", \.megatronCore),
    ConfigField("modules_to_save", \.modulesToSave),
    ConfigField("monteclora_config", \.montecloraConfig),
    ConfigField("peft_type", \.peftType),
    ConfigField("peft_version", \.peftVersion),
    ConfigField("qalora_group_size", \.qaloraGroupSize),
    ConfigField("r", \.rank),
    ConfigField("rank_pattern", \.rankPattern),
    ConfigField("revision", \.revision),
    ConfigField("target_modules", \.targetModules),
    ConfigField("target_parameters", \.targetParameters),
    ConfigField("task_type", \.taskType),
    ConfigField("trainable_token_indices", \.trainableTokenIndices),
    ConfigField("use_bdlora", \.useBDLoRA),
    ConfigField("use_dora", \.useDoRA),
    ConfigField("use_qalora", \.useQALoRA),
    ConfigField("use_rslora", \.useRSLoRA),
    ConfigField("velora_config", \.veloraConfig),
  ]

  /// Keys that every method has, LoRA or not. Source: peft/config.py `PeftConfig`, `PeftConfigMixin`.
  static let commonKeys: Set<String> = [
    "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision", "task_type",
  ]

  /// Keys that methods share with LoRA, held in the same properties.
  static let sharedKeys: Set<String> = [
    "bias", "exclude_modules", "fan_in_fan_out", "layers_pattern", "layers_to_transform", "modules_to_save",
    "target_modules",
  ]

  /// Keys that may be null where PEFT wants a flag or a number: it only asks whether they are true.
  static let nullableKeys: Set<String> = [
    "ensure_weight_tying", "fan_in_fan_out", "inference_mode", "lora_bias", "qalora_group_size", "use_dora",
    "use_qalora",
    "use_rslora",
  ]

  /// Keys of earlier releases that change nothing with these values. `enable_lora` stood in files of PEFT 0.1 and 0.2;
  /// `runtime_config` is never meant to be saved, and PEFT drops it on load whatever it holds.
  static let harmlessFormerValues: [String: [JSONValue]] = [
    "enable_lora": [.null],
    "runtime_config": [.object([JSONValue.Member("ephemeral_gpu_offload", .bool(false))])],
  ]

  /// Keys of others that change no number whatever they hold: `merge_weights` of PEFT 0.1 and 0.2, which merged at the
  /// start of evaluation; unsloth's marks; ms-swift's dtype and learning rates of training; what transformers writes into
  /// every configuration.
  static let harmlessKeys: Set<String> = [
    "_from_model_config", "library_name", "lora_dtype", "lorap_emb_lr", "lorap_lr_ratio", "merge_weights", "swift_type",
    "torch_dtype", "transformers_version", "unsloth_fixed", "unsloth_version",
  ]

  /// The keys of each nested configuration with their defaults. PEFT fills them in and drops what is not among them.
  /// Source: peft/tuners/lora/config.py `EvaConfig`, `CordaConfig`, `LoraGAConfig`, `ArrowConfig`, `KasaConfig`,
  /// `VeloraConfig`, `MontecloraConfig`, `BdLoraConfig`.
  static let nestedDefaults: [String: JSONValue] = [
    "velora_config": .object([
      .init("init_type", .string("batch_average")), .init("num_groups", .integer(64)), .init("scale", .number(1)),
    ]),
    "kasa_config": .object([.init("beta", .number(1e-4)), .init("gamma", .number(1e-3))]),
    "eva_config": .object([
      .init("adjust_scaling_factors", .bool(true)), .init("label_mask_value", .integer(-100)),
      .init("rho", .number(2)), .init("tau", .number(0.99)), .init("use_label_mask", .bool(true)),
      .init("whiten", .bool(false)),
    ]),
    "corda_config": .object([
      .init("cache_file", .null), .init("corda_method", .string("ipm")), .init("covariance_file", .null),
      .init("prune_temporary_fields", .bool(true)), .init("use_float16_for_covariance", .bool(false)),
      .init("verbose", .bool(false)),
    ]),
    "lora_ga_config": .object([
      .init("direction", .string("ArB2r")), .init("scale", .string("stable")), .init("stable_gamma", .integer(16)),
    ]),
    "arrow_config": .object([
      .init("gks_adapter_names", .null), .init("rng_seed", .null), .init("router_temperature", .number(1)),
      .init("task_adapter_names", .null), .init("top_k", .integer(3)), .init("use_gks", .bool(false)),
    ]),
    "use_bdlora": .object([
      .init("match_strict", .bool(true)), .init("nblocks", .integer(1)), .init("target_modules_bd_a", .null),
      .init("target_modules_bd_b", .null),
    ]),
    "monteclora_config": .object([
      .init("buffer_size", .integer(150)), .init("dirichlet_prior", .number(0.1)),
      .init("kl_loss_weight", .number(1e-5)), .init("num_samples", .integer(8)),
      .init("sample_scaler", .number(1e-4)), .init("use_entropy", .bool(false)),
    ]),
  ]
}
