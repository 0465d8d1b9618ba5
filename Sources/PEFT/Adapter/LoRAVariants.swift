internal import TensorFiles

/// What LoRA can be beyond W + s·B·A, and cannot be merged: refused by name, never treated as plain LoRA.
enum LoRAVariants {
  /// Throws `.unsupported` if the configuration asks for a variant that is not merged.
  ///
  /// - Parameter allowsInvocation: true to let aLoRA pass, whose factors are those of any LoRA.
  static func refuse(_ config: PeftConfig, path: String, allowsInvocation: Bool = false) throws(AdapterError) {
    let variants: [(present: Bool, what: String, reason: String)] = [
      (config.useQALoRA, "QA-LoRA (use_qalora)", "PEFT itself refuses to merge it."),
      (
        !allowsInvocation && config.aloraInvocationTokens != .null, "aLoRA (alora_invocation_tokens)",
        "it acts on part of the sequence only, which no single weight can express; PEFT refuses too."
      ),
      (config.arrowConfig != .null, "Arrow (arrow_config)", "it routes between adapters by the input."),
    ]
    for variant in variants where variant.present {
      throw .unsupported(path: path, what: variant.what, reason: variant.reason)
    }
    if case .string(let name) = config.initLoRAWeights { try refuseInitialisation(name.lowercased(), path: path) }
  }

  /// Initialisations that change the base weight in a way that the adapter and the base do not determine.
  private static func refuseInitialisation(_ name: String, path: String) throws(AdapterError) {
    let reason: String
    switch name {
    case "corda": reason = "its change of the base weight depends on calibration data."
    case "lora_ga": reason = "its change of the base weight depends on gradients; PEFT loads it onto the wrong weight."
    case "loftq": reason = "it was trained on a quantized form of the base weight."
    case _ where name.hasPrefix("pissa_niter"): reason = "its change of the base weight depends on random numbers."
    default: return
    }
    throw .unsupported(
      path: path, what: "an adapter with init_lora_weights \"\(name)\"",
      reason: reason + " Save it with path_initial_model_for_weight_conversion, which turns it into a plain LoRA.")
  }

  /// Throws `.unsupported` if a tensor's name shows a variant, whatever the configuration says.
  static func refuse(_ file: SafetensorsFile) throws(AdapterError) {
    for entry in file.entries where entry.name.holds(".lora_arrow") {
      throw .unsupported(
        path: file.path, what: "Arrow (tensor '\(entry.name)')", reason: "it routes between adapters by the input.")
    }
  }

  /// True for tensors of training only, which a merge leaves out: VeLoRA's embedding and MonteCLoRA's sampler.
  ///
  /// Source: peft/tuners/lora/variants.py `VeloraLinearVariant`, `MontecloraLinearVariant`, which merge as plain LoRA.
  static func isUnusedAtMerge(_ name: String, _ config: PeftConfig) -> Bool {
    (config.veloraConfig != .null && name.contains(".lora_velora"))
      || (config.montecloraConfig != .null && name.contains(".lora_monteclora"))
  }
}

/// What makes a LoRA more than s·B·A of the factors that its file holds.
package enum LoRAExtra: Sendable {
  /// It is another method, whose tensors are no factors.
  case otherMethod
  /// KaSA, which takes components out of the base weight.
  case kasa
  /// An initialisation that takes something out of the base weight, by its name.
  case removal(String)
  /// Factors of which some are packed as blocks.
  case blocks
  /// DoRA's magnitudes.
  case magnitudes
}

extension PeftConfig {
  /// The first of these that the configuration asks for; nil for a plain LoRA, whose ΔW does not depend on the base.
  package var loraExtra: LoRAExtra? {
    let name = initLoRAWeights.stringValue?.lowercased() ?? ""
    if AdapterMethod.named(peftType) != nil { return .otherMethod }
    if kasaConfig != .null { return .kasa }
    if name.hasPrefix("pissa") || name == "olora" { return .removal(name) }
    if !useBDLoRA.isEmptyOrFalse { return .blocks }
    return useDoRA ? .magnitudes : nil
  }
}
