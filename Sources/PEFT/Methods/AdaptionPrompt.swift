internal import TensorFiles
internal import TensorMath

extension AdapterMethod {
  /// Prompts that the attention of the upper layers sees through a gate.
  static let adaptionPrompt = AdapterMethod(
    type: PeftType(rawValue: "ADAPTION_PROMPT"),
    defaults: """
      {"adapter_layers": null, "adapter_len": null, "target_modules": null}
      """,
    prefixes: ["adaption_"],
    merging: .none(reason: "it adds a gated attention over prompts, which no weight can express."),
    start: .prompt(freshAdaptionPrompt),
    completed: { config, base throws(AdapterError) in
      let model = base.modelType ?? ""
      guard let name = adaptedAttentions.first(where: { $0.types.contains(model) })?.name else {
        throw .notMade(
          path: PeftConfig.fileName, what: "peft_type ADAPTION_PROMPT on a \(model) model",
          reason: "PEFT has it for llama, mistral and gpt2 models.")
      }
      if config.targetModules == nil { config.targetModules = .pattern(name) }
    })

  /// Source: peft/tuners/adaption_prompt/config.py `TRANSFORMERS_MODEL_CONFIG`.
  private static let adaptedAttentions = [
    (name: "self_attn", types: ["llama", "mistral"]), (name: "attn", types: ["gpt2"]),
  ]
}

/// Source: peft/tuners/adaption_prompt/model.py `AdaptionPromptModel.add_adapter`; layer.py `_BaseAdaptedAttention`.
private func freshAdaptionPrompt(
  _ prompt: FreshPrompt, _ source: inout FreshSource
) throws(AdapterError) -> [FreshTensor] {
  let (length, count) = (try prompt.size("adapter_len"), try prompt.size("adapter_layers"))
  guard case .pattern(let name)? = prompt.config.targetModules else {
    throw .configValue(
      path: prompt.configPath, key: "target_modules", expected: "the name of the attention", found: "a list")
  }
  let model = prompt.base.config ?? .null
  guard let width = (model["hidden_size"] ?? model["n_embd"])?.integerValue, width > 0 else {
    throw .notMade(
      path: prompt.configPath, what: "peft_type ADAPTION_PROMPT", reason: "the model's hidden_size is not known.")
  }
  let paths = prompt.base.modules.map(\.path)
  var dtypes: [ExactName: DType] = [:]
  var attentions: [String] = []
  for path in prompt.base.registrationOrder(paths) ?? paths {
    let parts = path.parts()
    guard let place = parts.lastIndex(where: { $0.isExactly(name) }), place > 0, place + 1 < parts.count else {
      continue
    }
    let attention = parts[...place].joined(separator: ".")
    if dtypes[attention] == nil { attentions.append(attention) }
    let module = prompt.base.modules.first { $0.path.isExactly(path) }
    dtypes[attention] = module.flatMap { prompt.base.checkpoint[$0.weightName]?.entry.dtype } ?? .f32
  }
  guard count <= attentions.count else {
    throw .configValue(
      path: prompt.configPath, key: "adapter_layers", expected: "at most the model's \(attentions.count)",
      found: "\(count)")
  }
  var tensors: [FreshTensor] = []
  for attention in attentions.suffix(count) {
    let dtype = dtypes[attention] ?? .f32
    let drawn = try source.normal("adaption_prompt", [1, length, width], like: dtype).floats
    for (name, shape, values) in [("adaption_prompt", [1, length, width], drawn), ("adaption_gate", [1], [0])] {
      let path = "\(Adapter.prefix)\(attention).\(name)"
      tensors.append(
        dtype == .f32 ? FreshTensor(path, shape, values) : FreshTensor(path, shape, values, stored: dtype))
    }
  }
  return tensors
}
