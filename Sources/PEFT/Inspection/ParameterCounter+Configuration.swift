internal import TensorFiles

extension ParameterCounter {
  /// Without the adapter's weights: LoRA on modules whose sizes the base's tensors tell.
  ///
  /// Throws `.uncountable` where they do not, `.nothingTargeted`.
  func byConfiguration() throws(AdapterError) -> ParameterCount {
    guard AdapterMethod.named(config.peftType) == nil else {
      throw lacksWeights("peft_type \(config.peftType.rawValue)", "it is counted by its stored weights")
    }
    guard (config.targetParameters ?? []).isEmpty, config.layerReplication.isEmptyOrFalse,
      config.useBDLoRA.isEmptyOrFalse, config.kasaConfig == .null, config.arrowConfig == .null
    else { throw lacksWeights("this LoRA", "what it targets does not tell its size") }
    if config.ensureWeightTying && parameters.isTied {
      throw lacksWeights(
        "this LoRA", "ensure_weight_tying gives tied modules adapters of which the targets do not tell")
    }
    if isEncoderDecoder, namesDecoderAlone(config.taskType) != namesDecoderAlone(ownClass) {
      throw lacksWeights("this LoRA", "whether its model is an encoder and a decoder or a decoder alone is not known")
    }
    try refuseSecondNames()
    let scaling = try LoRAScaling(config, path: configPath)
    let freezesB = config.initLoRAWeights.stringValue?.lowercased() == "mica"
    let targets = try loraTargets()
    var (trained, frozen) = (0, 0)
    for target in targets {
      let least = target.isEmbedding ? Int.max : min(target.input, target.output)
      let rank = try scaling.values(for: target.ranked ?? target.path, leastExtent: least).rank
      trained += try product(rank, target.input)
      if freezesB {
        frozen += try product(rank, target.output)
      } else {
        trained += try product(rank, target.output)
      }
      if config.useDoRA { trained += target.magnitudes }
      if config.loraBias { trained += target.output }
      if config.montecloraConfig != .null {
        // Source: peft/tuners/lora/monteclora.py `MontecloraSampler.__init__`.
        let samples = config.montecloraConfig["num_samples"] ?? .integer(8)
        guard let number = samples.integerValue, (0...1 << 20).contains(number) else {
          throw .configValue(
            path: configPath, key: "monteclora_config", expected: "a num_samples from 0 to \(1 << 20)",
            found: samples.compactText)
        }
        trained += rank + number
      }
    }
    return count(trained: trained + (try tokenCount()), frozen: frozen, adapted: Set(exactly: targets.map(\.path)))
  }

  private func lacksWeights(_ what: String, _ reason: String) -> AdapterError {
    .uncountable(path: configPath, what: what, reason: "\(reason); give the adapter's directory with its weights.")
  }

  /// The two extents of a LoRA's factors.
  private struct Target {
    let path: String
    let input: Int
    let output: Int
    /// DoRA's magnitudes.
    let magnitudes: Int
    var isEmbedding = false
    /// The module whose rank it has, where that is another: an attention's, of its output projection.
    var ranked: String?
  }

  private func loraTargets() throws(AdapterError) -> [Target] {
    let matcher = try TargetMatcher(base.expandingTargets(of: config))
    var targets: [Target] = []
    // nn.MultiheadAttention carries one LoRA for the input's three projections and one for the output's.
    // Source: peft/tuners/lora/layer.py `MultiheadAttention`.
    for parameter in parameters.list
    where lastPart(parameter.name) == "in_proj_weight" && parameter.shape.count == 2 {
      guard try matcher.verdict(parameter.path) == .targeted else { continue }
      let (output, input) = (parameter.shape[0], parameter.shape[1])
      targets.append(Target(path: parameter.path, input: input, output: output, magnitudes: output))
      targets.append(
        Target(
          path: "\(parameter.path).out_proj", input: input, output: input, magnitudes: input, ranked: parameter.path))
    }
    if targets.isEmpty {
      try refuseFormerNames(matcher)
      _ = try base.targets(of: config)
    }
    let known = Set(parameters.list.map(\.path))
    for module in base.modules
    where known.contains(module.path) || module.isTiedHead || parameters.isSecondName(module.weightName) {
      if try matcher.verdict(module.path) == .targeted { targets.append(try target(module)) }
    }
    return targets
  }

  private var isEncoderDecoder: Bool {
    guard let embedding = parameters.embedding else { return false }
    return lastPart(embedding) == "shared" || base.modelType == "whisper"
  }

  private var ownClass: String? {
    config.autoMapping["base_model_class"]?.stringValue ?? base.config?["architectures"]?.elements?.first?.stringValue
  }

  private func namesDecoderAlone(_ name: String?) -> Bool {
    name == "CAUSAL_LM" || name?.hasSuffix("ForCausalLM") ?? false
  }

  /// Refuses rules that pick a module which shares another's weight: PEFT treats some of these as one and some as two.
  private func refuseSecondNames() throws(AdapterError) {
    var second: [String] = []
    if isEncoderDecoder, let embedding = parameters.embedding, lastPart(embedding) == "shared" {
      let stem = embedding.dropLast("shared".count)
      second = ["\(stem)encoder.embed_tokens", "\(stem)decoder.embed_tokens"].filter {
        parameters.isTied || base.storedName("\($0).weight") == nil
      }
    }
    let expanded = try base.expandingTargets(of: config)
    let matcher = try TargetMatcher(expanded)
    if base.config == nil {
      // A file without a model type holds a shared weight under one of its names only.
      var names = config.savedModuleNames
      if case .names(let targets)? = expanded.targetModules { names += targets }
      var seen: Set<ExactName> = []
      let endings = NameEndings(names)
      let held = Set(parameters.list.lazy.filter { !$0.isBias }.flatMap { endings.places(in: $0.path) })
      for (place, name) in names.enumerated() where seen.insert(name).inserted && !held.contains(place) {
        throw lacksWeights("this LoRA", "the base holds no '\(name)', which may share another module's weight")
      }
    }
    for path in second {
      let isTargeted = try matcher.verdict(path) == .targeted
      if isTargeted || config.savesModule(path) {
        throw lacksWeights("this LoRA", "'\(path)' is a second name of another embedding")
      }
    }
    if parameters.isTied, let head = parameters.head { second.append(head) }
    let tokens = ListedTokens(config)
    if let path = second.first(where: { tokens.name(of: $0) != nil }) {
      throw lacksWeights("trained tokens", "'\(path)' is a second name of another embedding")
    }
  }

  /// Names the new name of a module whose old one the configuration targets.
  private func refuseFormerNames(_ matcher: TargetMatcher) throws(AdapterError) {
    guard let renaming = base.family?.renaming, !renaming.isEmpty else { return }
    for name in base.checkpoint.names.sorted() where name.hasSuffix(".weight") {
      let path = String(name.dropLast(".weight".count))
      guard renaming.modelName(name) != name, try matcher.verdict(path) == .targeted else { continue }
      let new = renaming.modelName(name).dropLast(".weight".count)
      throw .uncountable(
        path: configPath, what: "this LoRA",
        reason:
          "it targets '\(path)', which transformers 5 calls '\(new)' when it loads the base. Give target_modules the new "
          + "names, or give the adapter's directory with its weights.")
    }
  }

  private func target(_ module: BaseModel.Module) throws(AdapterError) -> Target {
    let shape = module.shape
    guard shape.count > 1, shape.allSatisfy({ $0 > 0 }) else {
      throw .targetNotLinear(base: base.path, module: module.path, shape: shape)
    }
    switch module.kind {
    case .convolution:
      guard Self.typesWithPlainConvolutions.contains(base.modelType ?? "") else {
        throw lacksWeights("this LoRA", "the groups of the convolution '\(module.path)' are not in the base's files")
      }
      return Target(
        path: module.path, input: shape.dropFirst().reduce(1, *), output: shape[0], magnitudes: shape[0])
    case .embedding where base.family != nil:
      return Target(
        path: module.path, input: shape[0], output: shape[1], magnitudes: shape[1], isEmbedding: true)
    default:
      let dependsOnKind =
        config.useDoRA || config.loraBias || config.initLoRAWeights.stringValue?.lowercased() == "mica"
      let isClipped = ["pissa", "olora"].contains(config.initLoRAWeights.stringValue?.lowercased())
      if base.family == nil && (dependsOnKind || isClipped) && shape[0] != shape[1] {
        throw lacksWeights(
          "this LoRA", "whether '\(module.path)' is a Linear, a Conv1D or an Embedding is not in the base's files")
      }
      return Target(
        path: module.path, input: module.inFeatures, output: module.outFeatures, magnitudes: module.outFeatures)
    }
  }

  /// Model types whose convolutions have one group each.
  private static let typesWithPlainConvolutions: Set<String> = [
    "resnet", "vit", "deit", "vit_msn", "vivit", "dinov2", "dinov2_with_registers", "beit", "swin", "clip", "siglip",
    "whisper", "llava", "llava_next", "gemma3", "paligemma",
  ]

  private func tokenCount() throws(AdapterError) -> Int {
    let setting = config.trainableTokenIndices
    let tokens = ListedTokens(config)
    var count = 0
    var greatest: [ExactName: Int] = [:]
    for parameter in parameters.list where parameter.name.hasSuffix(".weight") && parameter.shape.count == 2 {
      let path = parameter.path
      let name = tokens.name(of: path) ?? ""
      let listed = tokens.named(path) ?? (path == parameters.embedding ? tokens.forAll : nil)
      if let listed, greatest[name] == nil { greatest[name] = listed.lazy.map { $0.integerValue ?? 0 }.max() ?? -1 }
      if listed != nil, greatest[name] ?? -1 >= parameter.shape[0] {
        throw lacksWeights("trained tokens", "'\(path)' of the base lacks some of them, so it was resized")
      }
      count += try product(listed?.count ?? 0, parameter.shape[1])
    }
    if count == 0 && !setting.isEmptyOrFalse {
      throw lacksWeights("trained tokens", "which module is the input embedding is not known")
    }
    return count
  }
}
