internal import TensorFiles
internal import TensorMath

/// Methods that put virtual tokens before the input, or keys and values before each layer's own.
extension AdapterMethod {
  private static let prompt = "it puts virtual tokens before the input, which no weight can express."

  private static func prompt(
    _ type: String, _ defaults: String, _ reason: String = prompt, start: Start? = nil,
    completed: @escaping @Sendable (inout PeftConfig, BaseModel) throws(AdapterError) -> Void = FreshPrompt.complete
  ) -> AdapterMethod {
    AdapterMethod(
      type: PeftType(rawValue: type), defaults: defaults, prefixes: ["prompt_embeddings", "prefix_task_"],
      merging: .none(reason: reason),
      start: start ?? .none(reason: "what its tensors start from is not drawn here; start it with PEFT."),
      completed: completed)
  }

  static let promptTuning = prompt(
    "PROMPT_TUNING",
    """
    {"modules_to_save": null, "num_attention_heads": null, "num_layers": null, \
    "num_transformer_submodules": null, "num_virtual_tokens": null, "prompt_tuning_init": "RANDOM", \
    "prompt_tuning_init_text": null, "token_dim": null, "tokenizer_kwargs": null, \
    "tokenizer_name_or_path": null}
    """,
    start: .prompt(freshPrompt))

  static let multitaskPromptTuning = prompt(
    "MULTITASK_PROMPT_TUNING",
    """
    {"modules_to_save": null, "num_attention_heads": null, "num_layers": null, "num_ranks": 1, \
    "num_tasks": 1, "num_transformer_submodules": null, "num_virtual_tokens": null, \
    "prompt_tuning_init": "RANDOM", "prompt_tuning_init_state_dict_path": null, \
    "prompt_tuning_init_task": 0, "prompt_tuning_init_text": null, "token_dim": null, \
    "tokenizer_kwargs": null, "tokenizer_name_or_path": null}
    """,
    start: .prompt(freshTasks))

  static let promptEncoder = prompt(
    "P_TUNING",
    """
    {"encoder_dropout": 0.0, "encoder_hidden_size": null, "encoder_num_layers": 2, \
    "encoder_reparameterization_type": "MLP", "modules_to_save": null, "num_attention_heads": null, \
    "num_layers": null, "num_transformer_submodules": null, "num_virtual_tokens": null, "token_dim": null}
    """,
    start: .prompt(freshEncoded))

  static let prefixTuning = prompt(
    "PREFIX_TUNING",
    """
    {"encoder_hidden_size": null, "init_weights": null, "modules_to_save": null, \
    "num_attention_heads": null, "num_layers": null, "num_transformer_submodules": null, \
    "num_virtual_tokens": null, "prefix_projection": false, "token_dim": null}
    """,
    "it puts keys and values before each layer's own, which no weight can express.",
    start: .prompt(freshEncoded))

  static let cpt = prompt(
    "CPT",
    """
    {"cpt_mask": null, "cpt_token_ids": null, "cpt_tokens_type_mask": null, "modules_to_save": null, \
    "num_attention_heads": null, "num_layers": null, "num_transformer_submodules": null, \
    "num_virtual_tokens": null, "opt_loss_decay_factor": 1.0, "opt_projection_epsilon": 0.1, \
    "opt_projection_format_epsilon": 0.1, "opt_weighted_loss_type": "none", "token_dim": null, \
    "tokenizer_name_or_path": null}
    """,
    start: .prompt(freshContext), completed: completeContext)

  static let cartridge = prompt(
    "CARTRIDGE",
    """
    {"modules_to_save": null, "num_attention_heads": null, "num_frozen_tokens": 1, "num_layers": null, \
    "num_transformer_submodules": null, "num_virtual_tokens": null, "token_dim": null}
    """,
    "it puts keys and values before each layer's own, which no weight can express.")
}

/// Source: peft/tuners/prompt_tuning/model.py `PromptEmbedding`.
private func freshPrompt(_ prompt: FreshPrompt, _ source: inout FreshSource) throws(AdapterError) -> [FreshTensor] {
  let shape = [try prompt.tokens() * prompt.parts(), try prompt.size("token_dim")]
  // The layer draws its table first, whatever takes its place.
  let drawn = try source.normal("prompt_embeddings", shape)
  switch prompt.setting("prompt_tuning_init") {
  case .string("RANDOM"): return [drawn]
  case .string("SAMPLE_VOCAB"):
    let table = try prompt.embedding(width: shape[1])
    let rows = (0..<shape[0]).map { _ in Int(source.generator.nextBits()) % table.shape[0] }
    return [FreshTensor("prompt_embeddings", shape, try prompt.base.rows(rows, of: table))]
  case .string("TEXT"):
    guard let text = prompt.text, !text.isEmpty else {
      throw .notMade(
        path: prompt.configPath, what: "prompt_tuning_init TEXT",
        reason: "the tokens of prompt_tuning_init_text are not known: the base has no tokenizer, or the text is empty.")
    }
    let table = try prompt.embedding(width: shape[1])
    let rows = (0..<shape[0]).map { text[$0 % text.count] }
    guard rows.allSatisfy({ (0..<table.shape[0]).contains($0) }) else {
      throw .configValue(
        path: prompt.configPath, key: "prompt_tuning_init_text", expected: "a text of tokens that the base has",
        found: prompt.setting("prompt_tuning_init_text").compactText)
    }
    return [FreshTensor("prompt_embeddings", shape, try prompt.base.rows(rows, of: table))]
  default:
    throw .notMade(
      path: prompt.configPath, what: "prompt_tuning_init \(prompt.setting("prompt_tuning_init").compactText)",
      reason: "RANDOM, SAMPLE_VOCAB and TEXT are made here; others start from adapters that are trained already.")
  }
}

/// Source: peft/tuners/multitask_prompt_tuning/model.py `MultitaskPromptEmbedding`.
private func freshTasks(_ prompt: FreshPrompt, _ source: inout FreshSource) throws(AdapterError) -> [FreshTensor] {
  let shared = try freshPrompt(prompt, &source)
  let (tasks, rank) = (try prompt.size("num_tasks"), try prompt.size("num_ranks"))
  let (rows, width) = (shared[0].shape[0], shared[0].shape[1])
  return shared + [
    try source.normal("prefix_task_cols", [tasks, rows, rank], deviation: 0.02),
    try source.normal("prefix_task_rows", [tasks, rank, width], deviation: 0.02),
  ]
}

/// The rows of the tokens that are given; what is learnt beside them starts at zero. The layers draw their tables first.
///
/// Source: peft/tuners/cpt/model.py `CPTEmbedding`.
private func freshContext(_ prompt: FreshPrompt, _ source: inout FreshSource) throws(AdapterError) -> [FreshTensor] {
  let tokens = prompt.setting("cpt_token_ids").elements?.compactMap(\.integerValue) ?? []
  let shape = [try prompt.tokens(), try prompt.size("token_dim")]
  _ = try source.normal("prompt_embeddings", shape)
  let table = try prompt.embedding(width: shape[1])
  guard tokens.count == shape[0], tokens.allSatisfy({ (0..<table.shape[0]).contains($0) }) else {
    throw .configValue(
      path: prompt.configPath, key: "cpt_token_ids", expected: "\(shape[0]) tokens that the base has",
      found: prompt.setting("cpt_token_ids").compactText)
  }
  return [FreshTensor("prompt_embeddings", shape, try prompt.base.rows(tokens, of: table))]
}

/// Source: peft/tuners/cpt/config.py `CPTConfig.__post_init__`.
@Sendable private func completeContext(_ config: inout PeftConfig, _ base: BaseModel) throws(AdapterError) {
  guard config.taskType == "CAUSAL_LM" else {
    throw .configValue(
      path: PeftConfig.fileName, key: "task_type", expected: "CAUSAL_LM, which CPT wants",
      found: config.taskType ?? "null")
  }
  if config.settings["cpt_token_ids"] ?? .null == .null { config.settings["cpt_token_ids"] = .array([.integer(0)]) }
  let count = config.settings["cpt_token_ids"]?.elements?.count ?? 0
  for key in ["cpt_mask", "cpt_tokens_type_mask"] {
    if config.settings[key] ?? .null == .null {
      config.settings[key] = .array([JSONValue](repeating: .integer(1), count: count))
    }
    guard config.settings[key]?.elements?.count == count else {
      throw .configValue(
        path: PeftConfig.fileName, key: key, expected: "\(count) values, as many as cpt_token_ids has",
        found: config.settings[key]?.compactText ?? "null")
    }
  }
  config.settings["num_virtual_tokens"] = .integer(count)
  config.settings["num_transformer_submodules"] = .integer(1)
  try FreshPrompt.complete(&config, base)
}

/// What the encoder makes of its virtual tokens is stored, the encoder is not.
private func freshEncoded(_ prompt: FreshPrompt, _ source: inout FreshSource) throws(AdapterError) -> [FreshTensor] {
  let encoder = try PromptEncoder(prompt, &source)
  return [FreshTensor("prompt_embeddings", [encoder.tokens, encoder.outputWidth], encoder.encoded())]
}
