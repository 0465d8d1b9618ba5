internal import TensorFiles

/// What an entry of a settings file stands for.
enum ArgumentMeaning: Sendable {
  /// A setting of `TrainingArguments`, with its value; nil for a value that has no counterpart.
  case setting(String, @Sendable (JSONValue) -> JSONValue?)
  /// An option of the data or the command, such as `max_length`.
  case option(String, @Sendable (JSONValue) -> JSONValue?)
  /// A key of adapter_config.json, which must say the same.
  case adapter(String)
  /// Without effect here, and why.
  case unused(String)
}

/// The names that settings have in transformers before 5, TRL, axolotl, LLaMA-Factory and mlx-lm, beside transformers' own.
enum ArgumentAliases {
  static let meanings: [String: ArgumentMeaning] = {
    var all: [String: ArgumentMeaning] = [:]
    for (name, aliases) in sameValue { for alias in aliases { all[alias] = .setting(name, { $0 }) } }
    for (name, aliases) in options { for alias in [name] + aliases { all[alias] = .option(name, { $0 }) } }
    for (name, aliases) in adapterKeys { for alias in [name] + aliases { all[alias] = .adapter(name) } }
    for (reason, names) in withoutEffect { for name in names { all[name] = .unused(reason) } }
    return all.merging(converted) { $1 }
  }()

  private static let sameValue: [String: [String]] = [
    "per_device_train_batch_size": ["micro_batch_size", "batch_size", "per_gpu_train_batch_size"],
    "per_device_eval_batch_size": ["eval_batch_size", "per_gpu_eval_batch_size"],
    "gradient_accumulation_steps": ["grad_accumulation_steps"],
    "num_train_epochs": ["num_epochs", "epochs"],
    "max_steps": ["iters"],
    "adam_beta1": ["beta1"], "adam_beta2": ["beta2"], "adam_epsilon": ["epsilon"],
    "lr_scheduler_type": ["lr_scheduler"],
    "activation_checkpointing": ["gradient_checkpointing", "grad_checkpoint"],
    "logging_steps": ["steps_per_report"],
    "eval_strategy": ["evaluation_strategy"],
    "save_steps": ["save_every"],
    "dataloader_drop_last": ["drop_last"],
  ]

  private static let options: [String: [String]] = [
    "max_length": ["max_seq_length", "sequence_len", "cutoff_len"],
    "packing": ["sample_packing", "packed"],
    "truncate": [],
    "resume_from_checkpoint": [],
    "eval_data": ["eval_dataset"],
  ]

  private static let adapterKeys: [String: [String]] = [
    "r": ["lora_r", "lora_rank", "rank"], "lora_alpha": [], "lora_dropout": [],
    "target_modules": ["lora_target_modules", "lora_target"], "use_dora": ["peft_use_dora"],
    "use_rslora": ["peft_use_rslora"], "modules_to_save": ["lora_modules_to_save", "additional_target"],
  ]

  private static let withoutEffect: [String: [String]] = [
    "the command line says it": [
      "model_name_or_path", "base_model", "model", "dataset", "datasets", "data", "dataset_dir", "train_data",
      "output_dir",
      "adapter_path", "peft_config", "adapter", "finetuning_type", "stage", "do_train", "do_eval", "train",
    ],
    "training computes in f32 here": [
      "bf16", "fp16", "tf32", "bf16_full_eval", "fp16_full_eval", "torch_dtype", "dtype",
    ],
    "--log and --quiet decide what is told": [
      "report_to", "run_name", "logging_dir", "log_level", "disable_tqdm", "logging_nan_inf_filter", "wandb_project",
      "plot_loss",
    ],
    "it has no counterpart in this program": [
      "remove_unused_columns", "dataloader_num_workers", "dataloader_pin_memory", "use_cpu", "no_cuda", "push_to_hub",
      "ddp_find_unused_parameters", "torch_compile", "use_liger_kernel", "flash_attention", "flash_attn",
      "overwrite_output_dir",
      "overwrite_cache", "preprocessing_num_workers", "length_column_name", "average_tokens_across_devices",
      "xformers_attention",
      "padding_free", "pad_to_sequence_len", "save_safetensors",
    ],
  ]

  private static let not: @Sendable (JSONValue) -> JSONValue? = { $0.boolValue.map { .bool(!$0) } }

  private static let converted: [String: ArgumentMeaning] = [
    "warmup_ratio": .setting("warmup_steps") { value in
      // From 1 on warmup_steps counts steps.
      guard let share = value.numberValue, (0..<1).contains(share) else { return value == .null ? .integer(0) : nil }
      return .number(share)
    },
    "group_by_length": .setting("train_sampling_strategy") { value in
      value.boolValue.map { .string($0 ? "group_by_length" : "random") }
    },
    "disable_gradient_checkpointing": .setting("activation_checkpointing", not),
    "steps_per_eval": .setting("eval_steps") { $0 },
    "optim": .setting("", optimizer), "optimizer": .setting("", optimizer),
    "train_on_inputs": .option("all_turns") { $0 }, "train_on_prompt": .option("all_turns") { $0 },
    "completion_only_loss": .option("all_turns", not), "assistant_only_loss": .option("all_turns", not),
    "mask_prompt": .option("all_turns", not),
  ]

  private static let optimizer: @Sendable (JSONValue) -> JSONValue? = { value in
    ["adamw_torch", "adamw_torch_fused", "adamw", "adamw_hf"].contains(value.stringValue ?? "") ? .null : nil
  }
}
