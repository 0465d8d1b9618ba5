internal import TensorFiles
internal import TensorMath

/// Makes a fresh adapter for a base, as PEFT's `get_peft_model` does: it changes nothing yet.
public struct AdapterInitializer: Sendable {
  /// A module that gets an adapter.
  public struct Target: Sendable {
    public let path: String
    /// The rank of a LoRA; 0 for other methods.
    public let rank: Int
    /// What lora_A reads; a kernel's places count.
    public var input: Int { isEmbedding ? module.shape[0] : isTransposed ? module.shape[0] : rest }
    /// What lora_B gives.
    public var output: Int { isEmbedding || isTransposed ? module.shape[1] : module.shape[0] }

    let module: BaseModel.Module
    /// The dtype that PEFT rounds drawn values to.
    let dtype: DType

    var isEmbedding: Bool { module.kind == .embedding }
    var isTransposed: Bool { module.kind == .transposedLinear }
    /// A kernel's extents; empty for other layers.
    var kernel: [Int] { module.kind == .convolution ? Array(module.shape.dropFirst(2)) : [] }
    private var rest: Int { module.shape.dropFirst().reduce(1, *) }
  }

  /// The configuration as it will be written: targets expanded, base named, inference mode set.
  public let config: PeftConfig
  /// The modules that get an adapter, in the order in which they are drawn.
  public let modules: [Target]
  /// True if that is the model's own order, so that the values are those that PEFT draws with the same seed.
  public let isInModelOrder: Bool
  /// Names in the adapter and tensors of the base of modules that are stored in full.
  let saved: [(name: String, location: Checkpoint.Location)]
  let base: BaseModel
  let configPath: String
  let seed: UInt64
  let promptTokens: [Int]?

  /// Matches the configuration's targets against the base.
  ///
  /// - Parameter configPath: names the configuration in errors.
  /// - Parameter seed: the same seed, base and configuration give the same bytes: those that PEFT writes after
  ///   `torch.manual_seed(seed)`, where `isInModelOrder`.
  /// - Parameter promptTokens: the tokens of `prompt_tuning_init_text`, for a prompt that starts from a text.
  /// Throws `.notMade` for a variant or method that is not made, `.nothingTargeted`, `.targetNotLinear`, and what
  /// `LoRAScaling` throws.
  public init(
    base: BaseModel, config: PeftConfig, configPath: String, seed: UInt64, promptTokens: [Int]? = nil
  ) throws(AdapterError) {
    let method = AdapterMethod.named(config.peftType)
    if method == nil { try Self.refuse(config, base, path: configPath) }
    let kinds = try Self.kinds(method, path: configPath)
    var expanded = config
    try method?.completed(&expanded, base)
    if !kinds.isEmpty { expanded = try base.expandingTargets(of: expanded) }
    let scaling = method == nil ? try LoRAScaling(expanded, path: configPath) : nil
    let targeted = kinds.isEmpty ? [] : try Self.targets(expanded, base, configPath)
    var byPath: [String: Target] = [:]
    for module in targeted {
      guard kinds.contains(module.kind), module.shape.allSatisfy({ $0 > 0 }) else {
        if method?.passesOverOthers ?? false { continue }
        throw .targetNotLinear(base: base.path, module: module.path, shape: module.shape)
      }
      if config.loraBias, module.kind == .embedding {
        throw .notMade(
          path: configPath, what: "lora_bias on '\(module.path)'", reason: "an embedding has no such bias.")
      }
      let rank = try scaling?.values(for: module.path).rank ?? 0
      let dtype = base.checkpoint[module.weightName]?.entry.dtype ?? .f32
      byPath[module.path] = Target(path: module.path, rank: rank, module: module, dtype: dtype)
    }
    try Self.refuseUselessRanks(byPath.values, config, path: configPath)
    let order = base.registrationOrder(targeted.map(\.path))
    let modules = (order ?? targeted.map(\.path)).compactMap { byPath[$0] }
    var saved: [(name: String, location: Checkpoint.Location)] = []
    if !config.savedModuleNames.isEmpty {
      expanded.modulesToSave = config.savedModuleNames
      saved = try Self.savedTensors(base, config, configPath: configPath)
    }
    saved += Self.baseCopies(base, expanded, targeted)
    if config.taskType == nil && config.autoMapping == .null { expanded.autoMapping = base.autoMapping }
    expanded.baseModelNameOrPath = config.baseModelNameOrPath ?? base.path
    expanded.inferenceMode = true
    // PEFT corrects the flag to the last linear layer that it wraps.
    if method?.keepsFanInFanOut ?? true, let last = modules.last(where: { $0.module.isLinear }) {
      expanded.fanInFanOut = last.isTransposed
    }
    expanded.peftVersion = config.peftVersion ?? PeftConfig.mirroredVersion
    // Copies draw nothing, in whatever order.
    isInModelOrder = order != nil || kinds.contains(.other)
    self.configPath = configPath
    self.promptTokens = promptTokens
    self.modules = modules
    self.saved = saved
    self.config = expanded
    self.base = base
    self.seed = seed
  }

  /// The kinds of modules that a method takes; none for a prompt. Throws `.notMade` for a method that is not made.
  private static func kinds(
    _ method: AdapterMethod?, path: String
  ) throws(AdapterError) -> Set<BaseModel.Module.Kind> {
    switch method?.start {
    case nil: return [.linear, .transposedLinear, .embedding, .convolution]
    case .modules(let kinds, _)?: return kinds
    case .prompt?: return []
    case .none(let reason)?:
      throw .notMade(path: path, what: "peft_type \(method?.type.rawValue ?? "")", reason: reason)
    }
  }

  /// The targeted modules. Throws `.notMade` where a quantized base does not tell their sizes.
  ///
  /// A quantized layer has no weight, or one of another shape (bitsandbytes' `[n, 1]`, EETQ's `[in, out]`).
  private static func targets(
    _ config: PeftConfig, _ base: BaseModel, _ configPath: String
  ) throws(AdapterError) -> [BaseModel.Module] {
    func notMade(_ what: String) -> AdapterError {
      .notMade(
        path: configPath, what: what,
        reason: "\(base.path) is quantized"
          + (base.quantization.map { " (\($0))" } ?? "")
          + ", so that the layers' sizes are not in its files. Give the 16-bit model that it was made from: the adapter "
          + "fits both.")
    }
    let modules: [BaseModel.Module]
    do throws(AdapterError) {
      modules = try base.targets(of: config)
    } catch {
      if case .quantizedBase(_, _, let targets) = base.explained(error) { throw notMade("the targets \(targets)") }
      throw error
    }
    for module in modules {
      guard let entry = base.checkpoint[module.weightName]?.entry, !entry.dtype.isComputable else { continue }
      throw notMade("'\(module.path)', whose weight is \(entry.dtype.rawValue) \(entry.shape)")
    }
    return modules
  }

  /// Refuses ranks far above what the weights can have, where they take more than a gigabyte.
  ///
  /// Other factors take at most a few times their weight. Throws `.configValue`.
  private static func refuseUselessRanks(
    _ targets: some Sequence<Target>, _ config: PeftConfig, path: String
  ) throws(AdapterError) {
    var bytes = 0.0
    for target in targets where target.rank / 4 > min(target.input, target.output) {
      bytes += 4 * Double(target.rank) * (Double(target.input) + Double(target.output))
      guard bytes <= 0x1p30 else {
        throw .configValue(
          path: path, key: "r", expected: "a rank that '\(target.path)' can have, of shape \(target.module.shape)",
          found: String(target.rank))
      }
    }
  }

  /// Throws `.notMade` for what is more than a LoRA's or DoRA's random start.
  private static func refuse(_ config: PeftConfig, _ base: BaseModel, path: String) throws(AdapterError) {
    func refuse(
      _ present: Bool, _ what: String,
      _ reason: String = "what its tensors start from is not drawn here; start it with PEFT."
    ) throws(AdapterError) {
      if present { throw .notMade(path: path, what: what, reason: reason) }
    }
    try refuse(!(config.targetParameters ?? []).isEmpty, "target_parameters")
    try refuse(!config.trainableTokenIndices.isEmptyOrFalse, "trainable_token_indices")
    try refuse(!config.layerReplication.isEmptyOrFalse, "layer_replication")
    try refuse(config.ensureWeightTying && base.isTied, "ensure_weight_tying on a tied model")
    try refuse(config.useQALoRA, "use_qalora")
    try refuse(config.arrowConfig != .null, "arrow_config", "it routes between adapters that are trained already.")
    try refuse(config.kasaConfig != .null, "kasa_config")
    try refuse(config.veloraConfig != .null, "velora_config")
    try refuse(config.montecloraConfig != .null, "monteclora_config")
    try refuse(!config.useBDLoRA.isEmptyOrFalse, "use_bdlora")
    let start = initialisation(config)
    try refuse(
      start == nil, "init_lora_weights \(config.initLoRAWeights.compactText)",
      "true, false, gaussian, orthogonal, pissa, olora and mica are made here; others start from data, or are drawn otherwise."
    )
    try refuse(
      config.useDoRA && start != .uniform && start != .gaussian,
      "use_dora with init_lora_weights \(config.initLoRAWeights.compactText)",
      "magnitudes are those of the base weight, which needs lora_B to be zero.")
  }

  /// How values are drawn.
  enum Initialisation {
    /// A kaiming-uniform, B zero.
    case uniform
    /// A normal, B zero.
    case gaussian
    /// Both as the layers are made.
    case random
    /// Both from halves of an orthogonal matrix.
    case orthogonal
    /// Both from the greatest singular values of the weight.
    case pissa
    /// Both from the weight's QR decomposition.
    case olora
    /// B from the least singular values of the weight, A zero.
    case minor
  }

  /// Nil for an initialisation that is not drawn here. Source: peft/tuners/lora/layer.py `reset_lora_parameters`.
  static func initialisation(_ config: PeftConfig) -> Initialisation? {
    switch config.initLoRAWeights {
    case .bool(true): .uniform
    case .bool(false), .null: .random
    case .string(let name):
      switch name.lowercased() {
      case "gaussian": .gaussian
      case "olora": .olora
      case "mica": .minor
      default: ["pissa": .pissa, "orthogonal": .orthogonal][name]
      }
    default: nil
    }
  }

  /// Names that PEFT looks for among the targets to tell whether an embedding's base weight is saved too.
  ///
  /// Source: peft/utils/other.py `EMBEDDING_LAYER_NAMES`.
  private static let embeddingNames = ["embed_tokens", "lm_head"]

  /// What PEFT stores of the base beside the LoRA: the weights of targeted embeddings and heads, and biases that are trained.
  ///
  /// Source: peft/utils/save_and_load.py `get_peft_model_state_dict`.
  private static func baseCopies(
    _ base: BaseModel, _ config: PeftConfig, _ targets: [BaseModel.Module]
  ) -> [(name: String, location: Checkpoint.Location)] {
    let targeted = Set(exactly: targets.map(\.path))
    var namesEmbedding = targets.contains { embeddingNames.contains(lastPart($0.path)) }
    // A name in a list counts only as it stands.
    if case .names(let names)? = config.targetModules {
      namesEmbedding = names.contains { embeddingNames.contains($0) }
    }
    let embeddings = [base.family?.embedding ?? "model.embed_tokens", base.family?.head ?? "lm_head"]
    var tensors: [(String, Checkpoint.Location)] = []
    if case .rows? = AdapterMethod.named(config.peftType)?.merging { namesEmbedding = false }
    for module in base.modules where !config.savesModule(module.path) {
      let isTarget = targeted.contains(module.path)
      let path = Adapter.prefix + module.path + (isTarget ? ".base_layer" : "")
      if isTarget, namesEmbedding, embeddings.contains(module.path), let weight = base.checkpoint[module.weightName] {
        tensors.append(("\(path).weight", weight))
      }
      guard !module.isTiedHead, config.bias == "all" || (config.bias != "none" && isTarget) else { continue }
      let bias = module.weightName.dropLast("weight".count) + "bias"
      if let location = base.checkpoint[String(bias)] { tensors.append(("\(path).bias", location)) }
    }
    return tensors
  }

  /// The parameters of the modules to save, as the base has them.
  private static func savedTensors(
    _ base: BaseModel, _ config: PeftConfig, configPath: String
  ) throws(AdapterError) -> [(name: String, location: Checkpoint.Location)] {
    var tensors: [(String, Checkpoint.Location)] = []
    for module in base.modules where config.savesModule(module.path) {
      let stem = module.weightName.dropLast("weight".count)
      for parameter in ["weight", "bias"] where !(module.isTiedHead && parameter == "bias") {
        guard let location = base.checkpoint[stem + parameter] else { continue }
        tensors.append(("\(Adapter.prefix)\(module.path).\(parameter)", location))
      }
    }
    guard !tensors.isEmpty else {
      throw .notMade(
        path: configPath, what: "modules_to_save \(config.savedModuleNames.joined(separator: ", "))",
        reason: "the base has no such module to start from. Save the base with its head first.")
    }
    return tensors
  }
}
