internal import TensorFiles

extension AdapterCombination {
  /// The configuration of the result: the first adapter's, with what differs put right.
  ///
  /// Throws as `PeftConfig.setRanks`.
  func combinedConfig(_ steps: [Step]) throws(AdapterError) -> PeftConfig {
    let configs = inputs.map(\.config)
    var config = configs[0]
    config.useRSLoRA = false
    // Trained factors are no start for an initialisation, and what only training or a variant used has no part in them.
    config.initLoRAWeights = .bool(true)
    (config.loftqConfig, config.evaConfig, config.cordaConfig, config.loraGAConfig) = (.object([]), .null, .null, .null)
    (config.veloraConfig, config.montecloraConfig, config.useBDLoRA) = (.null, .null, .null)
    config.loraBias = inputs.contains { $0.modules.contains { $0.bias != nil } }
    config.unknownKeys = config.unknownKeys.filter { member in configs.allSatisfy { $0.unknownKeys.contains(member) } }
    if configs.contains(where: { $0.baseModelNameOrPath != config.baseModelNameOrPath }) { config.revision = nil }
    setTargets(&config, configs)
    try config.setRanks(
      steps.map { ModuleRank(key: $0.module.key, rank: $0.rank, scale: $0.scale) }, path: "the combination")
    return config
  }

  private func setTargets(_ config: inout PeftConfig, _ configs: [PeftConfig]) {
    var parameters: [String] = []
    for name in configs.flatMap({ $0.targetParameters ?? [] }) where !parameters.containsExactly(name) {
      parameters.append(name)
    }
    config.targetParameters = parameters.isEmpty ? nil : parameters
    func isSame<Value: Equatable>(_ value: (PeftConfig) -> Value) -> Bool {
      configs.allSatisfy { value($0) == value(config) }
    }
    let layersAgree =
      isSame(\.layersToTransform) && isSame(\.layersPattern) && isSame(\.excludeModules)
    if !options.isPlain, layersAgree, isSame(\.targetModules) { return }
    let lists = configs.map { rule -> [String]? in
      if case .names(let names)? = rule.targetModules { names } else { nil }
    }
    var names: [String] = []
    if !options.isPlain, layersAgree, !lists.contains(where: { $0 == nil }) {
      for name in lists.flatMap({ $0 ?? [] }) where !names.containsExactly(name) { names.append(name) }
    } else {
      // The modules themselves: what several rules would pick together cannot be said by one.
      (config.layersToTransform, config.layersPattern, config.excludeModules) = (nil, nil, nil)
      for module in modules where config.attention(ofOutput: module.path) == nil && module.key.isExactly(module.path) {
        let name = options.isPlain ? module.path.parts().last.map(String.init) ?? module.path : module.path
        if !names.containsExactly(name) { names.append(name) }
      }
    }
    config.targetModules = .names(names)
  }
}
