internal import TensorFiles

extension CarriedAdapter {
  private static let merge = "peft-tool merge BASE ADAPTER OUT"

  /// What beside the factors of modules is in an adapter, and of what the configuration says that they are no plain LoRA, is
  /// carried by PEFT's own form only.
  ///
  /// - Parameters:
  ///   - takesMagnitudes: whether the form has DoRA.
  ///   - takesInvocationTokens: whether the form has aLoRA.
  ///   - methods: the methods that the form has.
  func obstacles(
    takesMagnitudes: Bool, takesInvocationTokens: Bool = false, methods: [KohyaMethod] = [.lora]
  ) -> [ConversionObstacle] {
    var found = extraObstacles
    func add(_ condition: Bool, _ what: String, _ reason: String, _ cure: String = Self.merge) {
      if condition { found.append(ConversionObstacle(what: what, reason: reason, cure: cure)) }
    }
    add(
      !methods.contains { $0.type == config.peftType }, "method \(config.peftType.rawValue)", "the form has LoRA only",
      "peft-tool to-lora ADAPTER OUT")
    guard config.peftType == .lora else { return found }
    if !takesMagnitudes {
      add(hasMagnitudes || config.useDoRA, "DoRA", "the form has no magnitudes")
    } else if hasMagnitudes, let plain = modules.first(where: { $0[.magnitude] == nil }) {
      add(true, "DoRA in some modules only", "module '\(plain.path)' has no magnitudes, and the form has all or none")
    }
    if !takesInvocationTokens {
      add(
        !config.aloraInvocationTokens.isEmptyOrFalse, "aLoRA (alora_invocation_tokens)",
        "the form applies an adapter to every token", "peft-tool convert ADAPTER OUT --to gguf")
    }
    add(!(config.targetParameters ?? []).isEmpty, "target_parameters (fused experts)", "the form has modules only")
    add(!config.layerReplication.isEmptyOrFalse, "layer_replication", "the base has other layers")
    add(config.useQALoRA, "QA-LoRA (use_qalora)", "its inputs are pooled", "keep PEFT's form")
    add(
      config.arrowConfig != .null, "Arrow (arrow_config)", "it routes between adapters by the input", "keep PEFT's form"
    )
    add(!config.useBDLoRA.isEmptyOrFalse, "block-diagonal factors (use_bdlora)", "the form has whole factors")
    if let name = config.initLoRAWeights.stringValue?.lowercased(),
      !["gaussian", "eva", "orthogonal", "mica"].contains(name)
    {
      add(true, "init_lora_weights \"\(name)\"", "the base's weights were changed when training began")
    }
    return found
  }

  private var extraObstacles: [ConversionObstacle] {
    var found: [ConversionObstacle] = []
    func add(_ names: [String], _ one: String, _ many: String, _ reason: String, _ cure: String = Self.merge) {
      guard let first = names.first else { return }
      let what = names.count == 1 ? "\(one) '\(first)'" : "\(names.count) \(many), such as '\(first)'"
      found.append(ConversionObstacle(what: what, reason: reason, cure: cure))
    }
    func names(_ pick: (Extra) -> String?) -> [String] { extras.compactMap(pick) }
    add(
      names { if case .whole(let name) = $0 { name } else { nil } }, "the tensor stored in full",
      "tensors stored in full", "the form has only factors",
      "\(Self.merge); for copies that training left as they were: peft-tool slim ADAPTER OUT --base BASE")
    add(
      names { if case .bias(let name) = $0 { name } else { nil } }, "the bias", "biases", "the form has only factors")
    add(
      names { if case .factorBias(let name) = $0 { name } else { nil } }, "the bias of lora_B in", "biases of lora_B",
      "the form has no bias")
    add(
      names { if case .tokenRows(let name) = $0 { name } else { nil } }, "trained token rows of",
      "modules with trained rows",
      "the form has only factors")
    add(
      names { if case .diagonal(let name) = $0 { name } else { nil } }, "KaSA's singular values of",
      "modules with KaSA's singular values", "the form has two factors")
    add(
      names { if case .baseCopy(let name) = $0 { name } else { nil } }, "a copy of the base's weight of",
      "copies of the base's weights", "the form has only factors", "peft-tool slim ADAPTER OUT --base BASE")
    add(
      names { if case .unknown(let name) = $0 { name } else { nil } }, "the tensor", "tensors of no known part",
      "what it means is not known", "peft-tool validate ADAPTER")
    return found
  }
}
