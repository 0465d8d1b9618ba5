internal import TensorFiles

/// What LoRA can be beyond W + s·B·A, and is not merged: refused by name, never treated as plain LoRA.
enum LoRAVariants {
  /// Throws `.unsupported` if the configuration asks for a method or variant that is not merged.
  static func refuse(_ config: PeftConfig, path: String) throws(AdapterError) {
    guard config.peftType == .lora else {
      throw .unsupported(path: path, what: "peft_type \(config.peftType.rawValue)", reason: "only LORA is.")
    }
    let variants: [(present: Bool, what: String, reason: String)] = [
      (config.useQALoRA, "QA-LoRA (use_qalora)", "PEFT itself refuses to merge it."),
      (
        config.aloraInvocationTokens != .null, "aLoRA (alora_invocation_tokens)",
        "it acts on part of the sequence only, which no single weight can express; PEFT refuses too."
      ),
      (config.arrowConfig != .null, "Arrow (arrow_config)", "it routes between adapters by the input."),
      (config.useBDLoRA != .null, "block-diagonal LoRA (use_bdlora)", "its factors are stored packed."),
      (config.kasaConfig != .null, "KaSA (kasa_config)", "it removes components of the base weight."),
      (config.veloraConfig != .null, "VeLoRA (velora_config)", "its extra tensors are not known here."),
      (config.montecloraConfig != .null, "MonteCLoRA (monteclora_config)", "its extra tensors are not known here."),
      (
        !config.layerReplication.isEmptyOrFalse, "layer_replication",
        "the merged model would have other layers than the base."
      ),
      (
        !(config.targetParameters ?? []).isEmpty, "target_parameters",
        "it adapts bare parameters, such as fused experts."
      ),
    ]
    for variant in variants where variant.present {
      throw .unsupported(path: path, what: variant.what, reason: variant.reason)
    }
    if case .string(let name) = config.initLoRAWeights { try refuseInitialisation(name.lowercased(), path: path) }
  }

  /// Initialisations that take a part of the base weight away: the adapter fits only the changed base.
  private static func refuseInitialisation(_ name: String, path: String) throws(AdapterError) {
    let changing = ["olora", "corda", "lora_ga", "loftq"]
    guard changing.contains(name) || name.hasPrefix("pissa") else { return }
    throw .unsupported(
      path: path, what: "an adapter with init_lora_weights \"\(name)\"",
      reason: "it was trained on a changed base weight. Save it with path_initial_model_for_weight_conversion, which "
        + "turns it into a plain LoRA.")
  }

  /// Throws `.unsupported` if a tensor's name shows a variant, whatever the configuration says.
  static func refuse(_ file: SafetensorsFile) throws(AdapterError) {
    let marks: [(part: String, what: String, reason: String)] = [
      (".lora_diag", "KaSA", "it removes components of the base weight."),
      (".lora_velora_embed", "VeLoRA", "its extra tensors are not known here."),
      (".lora_arrow", "Arrow", "it routes between adapters by the input."),
    ]
    for entry in file.entries {
      for mark in marks where entry.name.contains(mark.part) {
        throw .unsupported(
          path: file.path, what: "\(mark.what) (tensor '\(entry.name)')", reason: mark.reason)
      }
    }
  }
}
