/// What servers do with what adapters have: facts only, with the release that they are true of.
enum ServingTable {
  /// What to do about a feature.
  enum Cure: Sendable {
    case merge
    /// `peft-tool convert`, which writes the adapter as PEFT saves it.
    case convert
    /// The server's own option for ranks.
    case greaterRank
    case mergeOr(String)
    /// Words; ADAPTER stands for the directory.
    case other(String)
  }

  /// One feature that a server does not take.
  struct Rule: Sendable {
    let feature: ServedFeature
    let effect: String
    var cure = Cure.merge
    /// True if nothing else needs to be said.
    var isFinal = false

    init(_ feature: ServedFeature, _ effect: String, _ cure: Cure = .merge, isFinal: Bool = false) {
      self.feature = feature
      self.effect = effect
      self.cure = cure
      self.isFinal = isFinal
    }
  }

  /// What one server does.
  struct Rules: Sendable {
    let version: String
    var ranks: ServingCheck.RankLimits?
    let blockers: [Rule]
  }

  static func rules(of server: ServingCheck.Server) -> Rules {
    switch server {
    case .vllm: vllm
    case .sglang: sglang
    case .lorax: lorax
    case .llamaCpp: llamaCpp
    case .mlx: mlx
    case .ollama: ollama
    }
  }

  private static let wrongBase = "the base weight is not changed as in training: wrong numbers"
  private static let onlyLoRA = Rule(.otherMethod, "refused: only LoRA is served", .merge, isFinal: true)
  private static let everyToken = "acts on every token: wrong numbers"
  private static let plainLoRA = "read as a plain LoRA: wrong numbers"

  /// Source: vllm/lora/peft_helper.py, vllm/lora/lora_model.py, vllm/config/lora.py.
  private static let vllm = Rules(
    version: "0.33.0",
    ranks: ServingCheck.RankLimits(byDefault: 16, allowed: [1, 8, 16, 32, 64, 128, 256, 320, 512]),
    blockers: [
      onlyLoRA,
      Rule(.absentKeys, "refused: these keys are required", .convert),
      Rule(.dora, "refused"), Rule(.loraBias, "refused"), Rule(.trainedBiases, "refused"),
      Rule(.savedModules, "refused: only classifier and score may be stored in full"),
      Rule(.changedBase, "refused, because the base weight is changed in training"),
      Rule(.invocationTokens, "refused", .other("serve it with llama.cpp")),
      Rule(.layerReplication, "refused"), Rule(.blockDiagonal, "refused"), Rule(.quantizationAware, "refused"),
      Rule(.rankAboveDefault, "refused: the limit is 16 unless the server is told otherwise", .greaterRank),
      Rule(.rankAboveGreatest, "refused: no more than 512 can be asked for"),
      Rule(.foreignNames, "refused: unsupported LoRA weight", .convert),
      Rule(.trainedTokens, "refused: unsupported LoRA weight"), Rule(.kasa, "refused: unsupported LoRA weight"),
      Rule(.otherTensors, "refused: unsupported LoRA weight"),
    ])

  /// Source: sglang/srt/lora/lora_config.py, lora.py, lora_manager.py.
  private static let sglang = Rules(
    version: "0.5.23",
    blockers: [
      onlyLoRA,
      Rule(.dora, "refused"),
      Rule(
        .targetPattern, "refused: a list of names is needed",
        .mergeOr("list the modules' last names in adapter_config.json")),
      Rule(.addedTokens, "refused where it names tokens beyond the base's vocabulary"),
      Rule(.rsLoRA, "ignored: the change is too weak by the root of the rank"),
      Rule(.rankPattern, "ignored: wrong numbers"), Rule(.alphaPattern, "ignored: wrong numbers"),
      Rule(.loneQuery, "refused: a layer needs q_proj and v_proj"),
      Rule(.loraBias, "left out"), Rule(.trainedBiases, "left out"), Rule(.anySavedModules, "left out"),
      Rule(.trainedTokens, "left out"), Rule(.experts, "left out"),
      Rule(.invocationTokens, everyToken, .other("serve it with llama.cpp")),
      Rule(.kasa, plainLoRA), Rule(.blockDiagonal, plainLoRA), Rule(.quantizationAware, plainLoRA),
      Rule(.changedBase, wrongBase), Rule(.layerReplication, "the base has other layers"),
      Rule(.foreignNames, "no module is found; the base is served silently", .convert),
    ])

  /// Source: server/lorax_server/adapters/lora.py.
  private static let lorax = Rules(
    version: "of 2025, read in source; TGI's is alike",
    blockers: [
      onlyLoRA,
      Rule(
        .unevenLayers,
        "modules of one name must be in every layer with one rank; else they are dropped or stop the server"),
      Rule(.rankPattern, "ignored: wrong numbers"), Rule(.alphaPattern, "ignored: wrong numbers"),
      Rule(.dora, "the magnitudes are left out: wrong numbers"), Rule(.loraBias, "left out"),
      Rule(.trainedBiases, "left out"), Rule(.anySavedModules, "left out"), Rule(.embeddingFactors, "left out"),
      Rule(.trainedTokens, "left out"), Rule(.experts, "left out"),
      Rule(.invocationTokens, everyToken, .other("serve it with llama.cpp")),
      Rule(.kasa, plainLoRA), Rule(.blockDiagonal, plainLoRA), Rule(.quantizationAware, plainLoRA),
      Rule(.changedBase, wrongBase), Rule(.layerReplication, "the base has other layers"),
      Rule(.foreignNames, "no module is found; the base is served silently", .convert),
    ])

  /// Source: convert_lora_to_gguf.py, src/llama-adapter.cpp.
  private static let llamaCpp = Rules(
    version: "of 2026, read in source",
    blockers: [
      onlyLoRA,
      Rule(.dora, "the conversion stops at the magnitudes"),
      Rule(.anySavedModules, "the conversion stops, or norms are left out"),
      Rule(.trainedTokens, "the conversion stops"), Rule(.trainedBiases, "the conversion stops"),
      Rule(.loraBias, "the conversion stops"),
      Rule(.rsLoRA, "the conversion takes alpha / r: the change is too weak by the root of the rank"),
      Rule(.alphaPattern, "the conversion takes one alpha for all modules: wrong numbers"),
      Rule(.experts, "the conversion stops at fused experts"),
      Rule(.kasa, "the conversion stops"), Rule(.blockDiagonal, plainLoRA), Rule(.quantizationAware, plainLoRA),
      Rule(.changedBase, wrongBase), Rule(.layerReplication, "the base has other layers"),
      Rule(.foreignNames, "the conversion stops", .convert),
      Rule(
        .peftForm, "GGUF is read, not safetensors",
        .other("peft-tool convert ADAPTER OUT --to gguf --base BASE")),
    ])

  /// Source: mlx_lm/tuner/utils.py `load_adapters`.
  private static let mlx = Rules(
    version: "mlx-lm 0.32.2",
    blockers: [
      Rule(
        .peftForm, "refused: num_layers and lora_parameters are required, and lora_a and lora_b are stored transposed",
        .other("peft-tool convert ADAPTER OUT --to mlx"), isFinal: true)
    ])

  /// Source: convert/convert.go, convert/convert_llama_adapter.go, convert_gemma2_adapter.go.
  private static let ollama = Rules(
    version: "of 2025, read in source",
    blockers: [
      onlyLoRA,
      Rule(.torchFile, "refused: safetensors is needed", .convert),
      Rule(.fractionalAlpha, "refused: lora_alpha is read as a whole number"),
      Rule(.dora, "refused: a tensor that is not known"), Rule(.anySavedModules, "refused: a tensor that is not known"),
      Rule(.trainedTokens, "refused: a tensor that is not known"),
      Rule(.loraBias, "refused: a tensor that is not known"),
      Rule(.trainedBiases, "refused: a tensor that is not known"),
      Rule(.embeddingFactors, "refused: a tensor that is not known"),
      Rule(.rsLoRA, "ignored: the change is too weak by the root of the rank"),
      Rule(.alphaPattern, "ignored: wrong numbers"), Rule(.experts, "refused: a tensor that is not known"),
      Rule(.invocationTokens, everyToken, .other("serve it with llama.cpp")),
      Rule(.kasa, "refused: a tensor that is not known"), Rule(.blockDiagonal, plainLoRA),
      Rule(.quantizationAware, plainLoRA), Rule(.changedBase, wrongBase),
      Rule(.layerReplication, "the base has other layers"), Rule(.foreignNames, "refused", .convert),
    ])
}
