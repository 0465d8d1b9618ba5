internal import TensorFiles

/// What an adapter can have that some server does not take.
enum ServedFeature: Sendable {
  /// Every adapter has it: for servers that read no adapter of PEFT's form.
  case peftForm
  case otherMethod
  case dora, loraBias, trainedBiases, trainedTokens, embeddingFactors, experts, invocationTokens, kasa, blockDiagonal
  case quantizationAware, layerReplication
  /// The initialisation has changed the base's weights.
  case changedBase
  case rsLoRA, rankPattern, alphaPattern
  /// Ranks above the server's default limit; the second, above its greatest.
  case rankAboveDefault, rankAboveGreatest
  /// Modules in modules_to_save other than a classifier's; and any.
  case savedModules, anySavedModules
  case targetPattern, absentKeys, foreignNames, torchFile, fractionalAlpha, addedTokens
  /// Tensors whose names vLLM does not read.
  case otherTensors
  /// Modules of one name that some layers have and others lack, or that have several ranks.
  case unevenLayers
  /// A layer with q_proj but without v_proj.
  case loneQuery
}

/// The facts of an adapter that servers differ about.
struct ServedAdapter {
  let config: PeftConfig
  private let path: String
  private let names: [String]
  private let modules: [ExactName: [LoRARole: TensorEntry]]
  private let keys: Set<String>
  private let isTorchFile: Bool
  private let hasAddedTokens: Bool

  /// Throws as `AdapterSummary.init`.
  init(directory: String) throws(AdapterError) {
    config = try PeftConfig.load(directory: directory)
    let file = try Adapter.openWeights(directory)
    path = FileSystem.join(directory, PeftConfig.fileName)
    names = file.entries.map(\.name)
    modules = AdapterName.loraModules(in: file)
    isTorchFile = FileSystem.kind(FileSystem.join(directory, Adapter.weightsName)) != .file
    hasAddedTokens = FileSystem.kind(FileSystem.join(directory, "added_tokens.json")) == .file
    let json = FileSystem.kind(path) == .file ? try? JSONValue(contentsOf: path) : nil
    keys = Set((json?.members ?? []).map(\.key))
  }

  /// Why no merge cures it; nil if one does.
  var mergeRefusal: String? {
    do throws(AdapterError) {
      if let method = AdapterMethod.named(config.peftType) {
        if case .none(let reason) = method.merging { return reason }
        return nil
      }
      try LoRAVariants.refuse(config, path: path)
      return nil
    } catch {
      if case .unsupported(_, _, let reason) = error { return reason }
      return error.description
    }
  }

  /// The greatest rank that the configuration names: what servers size their buffers by.
  var greatestRank: Int { max(config.rank, config.rankPattern.entries.map(\.value).max() ?? 0) }

  /// How the feature shows in this adapter, in a few words; nil if it does not have it.
  func finding(_ feature: ServedFeature, limits: ServingCheck.RankLimits?) -> String? {
    func when(_ present: Bool, _ words: String) -> String? { present ? words : nil }
    switch feature {
    case .peftForm: return "PEFT's adapter form"
    case .otherMethod: return when(config.peftType != .lora, "method \(config.peftType.rawValue)")
    case .dora: return when(config.useDoRA || has(.magnitude), "DoRA")
    case .loraBias: return when(config.loraBias || has(.bias), "bias of lora_B")
    case .trainedBiases: return when(config.bias != "none", "biases (bias \"\(config.bias)\")")
    case .trainedTokens:
      return when(!config.trainableTokenIndices.isEmptyOrFalse, "trained token rows (trainable_token_indices)")
    case .embeddingFactors: return when(has(.embeddingA), "LoRA on embeddings")
    case .experts: return when(!(config.targetParameters ?? []).isEmpty, "target_parameters (experts)")
    case .invocationTokens: return when(!config.aloraInvocationTokens.isEmptyOrFalse, "aLoRA (alora_invocation_tokens)")
    case .kasa: return when(config.kasaConfig != .null || has(.diagonal), "KaSA (kasa_config)")
    case .blockDiagonal: return when(!config.useBDLoRA.isEmptyOrFalse, "block-diagonal factors (use_bdlora)")
    case .quantizationAware: return when(config.useQALoRA, "QA-LoRA (use_qalora)")
    case .layerReplication: return when(!config.layerReplication.isEmptyOrFalse, "layer_replication")
    case .changedBase: return changedBase
    case .rsLoRA: return when(config.useRSLoRA, "rsLoRA (use_rslora)")
    case .rankPattern: return when(!config.rankPattern.entries.isEmpty, "rank_pattern")
    case .alphaPattern: return when(!config.alphaPattern.entries.isEmpty, "alpha_pattern")
    case .rankAboveDefault:
      guard let limits, let allowed = limits.allowed.last else { return nil }
      return when(greatestRank > limits.byDefault && greatestRank <= allowed, "rank \(greatestRank)")
    case .rankAboveGreatest:
      guard let allowed = limits?.allowed.last else { return nil }
      return when(greatestRank > allowed, "rank \(greatestRank)")
    case .savedModules:
      let others = (config.modulesToSave ?? []).filter { !Self.classifiers.contains($0) }
      return when(!others.isEmpty, "modules_to_save \(others.joined(separator: ", "))")
    case .anySavedModules:
      let saved = config.modulesToSave ?? []
      let holds = names.contains { name in
        guard let plain = AdapterName.inModel(name) else { return false }
        return !plain.contains(LoRARole.mark) && !plain.contains("base_layer") && !plain.hasSuffix("_delta")
          && !plain.hasSuffix(".bias")
      }
      return when(
        holds, saved.isEmpty ? "modules stored in full" : "modules stored in full (\(saved.joined(separator: ", ")))")
    case .targetPattern:
      guard case .pattern? = config.targetModules, config.targetModules?.isAllLinear != true else { return nil }
      return "target_modules as a pattern"
    case .absentKeys:
      let absent = ["r", "lora_alpha", "target_modules"].filter { !keys.contains($0) }
      return when(
        !absent.isEmpty,
        keys.isEmpty ? "no adapter_config.json" : "adapter_config.json without \(absent.joined(separator: ", "))")
    case .foreignNames: return foreignParts
    case .torchFile: return when(isTorchFile, "weights in adapter_model.bin")
    case .fractionalAlpha: return fractionalAlpha
    case .addedTokens: return when(hasAddedTokens, "added_tokens.json")
    case .otherTensors: return otherTensor
    case .unevenLayers: return unevenModule
    case .loneQuery: return loneQuery
    }
  }

  private static let classifiers = ["classifier", "score"]

  private func has(_ role: LoRARole) -> Bool { modules.values.contains { $0[role] != nil } }

  private var changedBase: String? {
    guard let name = config.initLoRAWeights.stringValue else { return nil }
    // Others set the adapter's first values only. Source: vllm/lora/peft_helper.py `_init_is_supported`.
    let harmless = ["gaussian", "eva", "orthogonal", "mica", "lora_ga"]
    return harmless.contains(name.lowercased()) ? nil : "initialised with \(name) (init_lora_weights)"
  }

  private var foreignParts: String? {
    var parts: Set<String> = []
    for name in names { parts.formUnion(AdapterName.withoutForeignParts(name).foreign) }
    return parts.isEmpty ? nil : "names of tensors with \(parts.sorted().joined(separator: ", ")) in them"
  }

  private var fractionalAlpha: String? {
    guard let alpha = config.alpha?.doubleValue, alpha != alpha.rounded() || alpha < 0 else { return nil }
    return "lora_alpha \(alpha)"
  }

  /// Source: vllm/lora/utils.py `parse_fine_tuned_lora_name`, `is_base_embedding_weights`.
  private var otherTensor: String? {
    func isRead(_ name: String) -> Bool {
      if name.hasSuffix(".embed_tokens.base_layer.weight") || name.hasSuffix(".lm_head.base_layer.weight") {
        return true
      }
      let parts = name.split(separator: ".").map(String.init)
      guard let last = parts.last else { return false }
      if last == LoRARole.embeddingA.ending || last == LoRARole.embeddingB.ending { return true }
      guard parts.count >= 2, last == "weight" || last == "bias" else { return false }
      let module = parts[parts.count - 2]
      let ending = "\(module).\(last)"
      return ending == LoRARole.a.ending || ending == LoRARole.b.ending || Self.classifiers.contains(module)
    }
    let unread = names.filter { !isRead($0) && AdapterName.withoutForeignParts($0).foreign.isEmpty }
    guard let first = unread.first else { return nil }
    return "\(unread.count) tensors that are no factors, such as '\(first)'"
  }

  private var unevenModule: String? {
    var ranks: [String: [Int: Int]] = [:]
    var layers: Set<Int> = []
    for (path, tensors) in modules {
      let parts = path.text.parts()
      guard let index = parts.firstIndex(where: { Int($0) != nil }), let layer = Int(parts[index]) else { continue }
      layers.insert(layer)
      let a = tensors[.a] ?? tensors[.embeddingA]
      ranks[parts[(index + 1)...].joined(separator: "."), default: [:]][layer] = a?.shape.first ?? 0
    }
    for (name, found) in ranks.sorted(by: { $0.key < $1.key }) {
      if found.count < layers.count { return "'\(name)' in \(found.count) of \(layers.count) layers" }
      if Set(found.values).count > 1 { return "'\(name)' with several ranks" }
    }
    return nil
  }

  private var loneQuery: String? {
    let lone = modules.keys.map(\.text).filter { path in
      path.hasSuffix(".q_proj") && modules["\(path.dropLast("q_proj".count))v_proj"] == nil
    }
    return lone.min(by: naturallyPrecedes).map { "'\($0)' without its v_proj" }
  }
}
