internal import TensorFiles

/// What keeps an adapter from being served as it is, and the command that cures it.
public struct ServingCheck: Sendable {
  /// A place where adapters run.
  public enum Server: String, Sendable, CaseIterable {
    case vllm, sglang, lorax
    case llamaCpp = "llama.cpp"
    case mlx
  }

  /// One thing that the server refuses or leaves out.
  public struct Blocker: Sendable, Equatable {
    public let feature: String
    /// What the server does with it.
    public let effect: String
    /// What to do.
    public let cure: String
  }

  public let server: Server
  public let blockers: [Blocker]

  /// Judges an adapter by its configuration and the names of its tensors.
  ///
  /// The rules are those that the servers' sources and issue trackers showed in 2026; they change.
  /// Throws as `AdapterSummary.init`.
  public init(directory: String, server: Server) throws(AdapterError) {
    let config = try PeftConfig.load(directory: directory)
    let file = try Adapter.openWeights(directory)
    self.server = server
    var blockers: [Blocker] = []
    let merge = "peft-tool merge BASE \(directory) OUT"
    func add(_ present: Bool, _ feature: String, _ effect: String, _ cure: String = merge) {
      if present { blockers.append(Blocker(feature: feature, effect: effect, cure: cure)) }
    }
    guard config.peftType == .lora else {
      let isMergeable = AdapterMethod.named(config.peftType).map { method in
        if case .none = method.merging { false } else { true }
      }
      add(
        true, "method \(config.peftType.rawValue)", "only LoRA is served",
        isMergeable == true ? merge : "run it with PEFT: it cannot be merged")
      self.blockers = blockers
      return
    }
    let names = file.entries.map(\.name)
    let embeds = names.contains { $0.contains("lora_embedding_") }
    let saves = names.contains { !$0.contains(".lora_") && !$0.contains("base_layer") }
    add(config.useDoRA, "DoRA", server == .llamaCpp ? "conversion stops at the magnitudes" : "refused or left out")
    add(saves, "modules stored in full, or biases", server == .llamaCpp ? "conversion stops" : "refused or left out")
    add(config.loraBias, "bias of lora_B", "refused or left out")
    add(!(config.targetParameters ?? []).isEmpty, "target_parameters (experts)", "refused or left out")
    add(!config.trainableTokenIndices.isEmptyOrFalse, "trained token rows", "refused or left out")
    add(
      config.aloraInvocationTokens != .null && server != .vllm && server != .llamaCpp, "aLoRA", "acts on every token",
      "serve it with vllm or llama.cpp")
    add(
      config.kasaConfig != .null || !config.useBDLoRA.isEmptyOrFalse, "KaSA or block-diagonal factors",
      "read as plain LoRA: wrong numbers")
    if let name = config.initLoRAWeights.stringValue,
      ["pissa", "olora", "corda", "lora_ga", "loftq"].contains(where: name.lowercased().hasPrefix)
    {
      add(true, "initialised with \(name)", "the base weight is not changed as in training: wrong numbers")
    }
    add(!config.layerReplication.isEmptyOrFalse, "layer_replication", "the base has other layers")
    let foreign = names.contains { !AdapterName.withoutForeignParts($0).foreign.isEmpty }
    add(foreign, "names with parts that wrappers left", "no module is found; the base is served silently")
    switch server {
    case .vllm, .sglang, .lorax:
      let scaling = try LoRAScaling(config, path: FileSystem.join(directory, PeftConfig.fileName))
      let ranks = file.entries.filter { $0.name.hasSuffix(".lora_A.weight") }.compactMap(\.shape.first)
      let configured = try scaling.values(for: "").rank
      let rank = ranks.max() ?? configured
      add(
        server == .vllm && rank > 16, "rank \(rank)", "refused: the default limit is 16",
        "start it with --max-lora-rank \(rank)")
      add(server != .vllm && embeds, "LoRA on embeddings", "refused or left out")
      add(
        server != .sglang && !config.rankPattern.entries.isEmpty && !config.alphaPattern.entries.isEmpty,
        "rank_pattern and alpha_pattern", "one scale for all modules: wrong numbers")
    case .llamaCpp:
      add(
        config.useRSLoRA || !config.alphaPattern.entries.isEmpty || !config.rankPattern.entries.isEmpty,
        "rsLoRA or patterns", "one alpha for all modules: wrong numbers")
    case .mlx:
      if case .pattern? = config.targetModules {
        add(
          true, "target_modules as a pattern", "cannot be read; a list is needed",
          "list the modules in adapter_config.json")
      }
      add(
        config.useRSLoRA || !config.alphaPattern.entries.isEmpty || !config.rankPattern.entries.isEmpty,
        "rsLoRA or patterns", "alpha / r for all modules: wrong numbers")
      add(embeds, "LoRA on embeddings", "left out")
    }
    self.blockers = blockers
  }
}
