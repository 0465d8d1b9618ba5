public import TensorFiles

/// An adapter's configuration: what adapter_config.json holds.
///
/// Mirrors `LoraConfig` of PEFT 0.21.2, field by field, with its defaults. The configuration of another method keeps its
/// own keys in `settings`.
/// Source: peft/tuners/lora/config.py `LoraConfig`; peft/config.py `PeftConfig`.
public struct PeftConfig: Sendable, Equatable {
  /// `peft_type`.
  public var peftType: PeftType = .lora
  /// The settings of another method than LoRA that have no property here, defaults filled in. An object.
  public var settings: JSONValue = .object([]) {
    didSet { if settings["feedforward_modules"] != oldValue["feedforward_modules"] { arrangeFeedForward() } }
  }
  /// `r`: the rank. Positive where it is used.
  public var rank = 8
  /// `lora_alpha`: the product is scaled by alpha / r. Null in some files of PEFT 0.1 to 0.3.
  public var alpha: PythonNumber? = 8
  /// `lora_dropout`: during training only. Null in some files of PEFT 0.1 to 0.3.
  public var dropout: PythonNumber? = 0.0
  /// `use_rslora`: scale by alpha / √r.
  public var useRSLoRA = false
  /// `rank_pattern`: ranks by module.
  public var rankPattern = PatternMap<Int>()
  /// `alpha_pattern`: alphas by module.
  public var alphaPattern = PatternMap<PythonNumber>()
  /// `fan_in_fan_out`: weights are stored `[in, out]`. PEFT corrects it by layer type; the base's shapes decide.
  public var fanInFanOut = false

  /// `target_modules`: which modules carry an adapter.
  public var targetModules: ModuleRule?
  /// `exclude_modules`: which do not, although targeted.
  public var excludeModules: ModuleRule?
  /// `target_parameters`: bare parameters that carry an adapter.
  public var targetParameters: [String]? { didSet { parameterTargets = ParameterTargets(targetParameters ?? []) } }
  /// `layers_to_transform`: only these layers.
  public var layersToTransform: OneOrMany<Int>?
  /// `layers_pattern`: the name before a layer's number.
  public var layersPattern: OneOrMany<String>?
  /// `modules_to_save`: modules that are trained and stored in full.
  public var modulesToSave: [String]? { didSet { savedTails = NameTails(modulesToSave ?? []) } }
  /// `trainable_token_indices`: rows of an embedding that are trained and stored in full.
  public var trainableTokenIndices: JSONValue = .null

  /// `bias`: "none", "all" or "lora_only".
  public var bias = "none"
  /// `lora_bias`: lora_B has a bias.
  public var loraBias = false
  /// `use_dora`: weight-decomposed LoRA.
  public var useDoRA = false
  /// `init_lora_weights`: true, false, or the name of an initialisation.
  public var initLoRAWeights: JSONValue = .bool(true)
  /// `layer_replication`: ranges of layers that are stacked anew.
  public var layerReplication: JSONValue = .null
  /// `ensure_weight_tying`: adapters of tied modules are tied.
  public var ensureWeightTying = false
  /// `use_qalora`, with `qalora_group_size`: quantization-aware LoRA.
  public var useQALoRA = false
  /// `qalora_group_size`.
  public var qaloraGroupSize = 16
  /// `alora_invocation_tokens`: tokens that switch the adapter on.
  public var aloraInvocationTokens: JSONValue = .null

  /// `loftq_config`.
  public var loftqConfig: JSONValue = .object([])
  /// `eva_config`.
  public var evaConfig: JSONValue = .null
  /// `corda_config`.
  public var cordaConfig: JSONValue = .null
  /// `arrow_config`.
  public var arrowConfig: JSONValue = .null
  /// `lora_ga_config`.
  public var loraGAConfig: JSONValue = .null
  /// `kasa_config`.
  public var kasaConfig: JSONValue = .null
  /// `velora_config`.
  public var veloraConfig: JSONValue = .null
  /// `monteclora_config`.
  public var montecloraConfig: JSONValue = .null
  /// `use_bdlora`: block-diagonal LoRA's settings.
  public var useBDLoRA: JSONValue = .null
  /// `megatron_config`.
  public var megatronConfig: JSONValue = .null
  /// `megatron_core`.
  public var megatronCore: String? = "megatron.core"

  /// `base_model_name_or_path`: the model that the adapter was trained on.
  public var baseModelNameOrPath: String?
  /// `revision` of the base model.
  public var revision: String?
  /// `task_type`: one of `taskTypes`, or null.
  public var taskType: String?
  /// `inference_mode`.
  public var inferenceMode = false
  /// `auto_mapping`: the base's class, where there is no task type.
  public var autoMapping: JSONValue = .null
  /// `peft_version` that wrote the file; absent before 0.18.
  public var peftVersion: String?

  /// Keys that are not PEFT 0.21.2's, in the order of the file.
  public var unknownKeys: [JSONValue.Member] = []

  /// Values that are read as others, by their keys: they are written as they were. See `usual`.
  var asWritten: [String: JSONValue] = [:]

  // The lists of names above, arranged for questions about many modules.
  private(set) var feedForwardTails = NameTails([])
  private(set) var parameterTargets = ParameterTargets([])
  private(set) var savedTails = NameTails([])

  public init() {}

  mutating func arrangeFeedForward() {
    feedForwardTails = NameTails((settings["feedforward_modules"]?.elements ?? []).compactMap(\.stringValue))
  }

  /// The release of PEFT that is mirrored.
  public static let mirroredVersion = "0.21.2"

  /// True if a release of PEFT before that one saved the file. Those before 0.18 wrote no version.
  func precedes(_ release: Int...) -> Bool {
    let numbers = (peftVersion ?? "0").split { !$0.isNumber }.prefix(3).map { Int($0) ?? 0 }
    return numbers.lexicographicallyPrecedes(release)
  }

  /// The values that `task_type` may have. Source: peft/utils/peft_types.py `TaskType`.
  public static let taskTypes = [
    "SEQ_CLS", "SEQ_2_SEQ_LM", "CAUSAL_LM", "TOKEN_CLS", "QUESTION_ANS", "FEATURE_EXTRACTION",
  ]

  /// `modules_to_save` with the heads that PEFT adds for the task: what its loader and its count go by.
  ///
  /// Source: peft/peft_model.py `PeftModelForSequenceClassification`, `PeftModelForTokenClassification`,
  /// `PeftModelForQuestionAnswering`.
  public var savedModuleNames: [String] {
    guard canSaveModules else { return [] }
    let heads = headsOfTask
    return (modulesToSave ?? []) + (heads.isEmpty ? [] : heads.filter { !(modulesToSave ?? []).containsExactly($0) })
  }

  private var canSaveModules: Bool { AdapterMethod.named(peftType)?.savesModules ?? true }

  private var headsOfTask: [String] {
    switch taskType {
    case "SEQ_CLS", "TOKEN_CLS": ["classifier", "score"]
    case "QUESTION_ANS": ["qa_outputs"]
    default: []
    }
  }

  /// True if `modules_to_save` picks a module or one that it lies in. PEFT compares the ends of names, without a dot.
  ///
  /// Source: peft/utils/other.py `_set_trainable`.
  public func savesModule(_ path: String) -> Bool {
    guard canSaveModules else { return false }
    if savedTails.contains(endOfModuleAround: path) { return true }
    let heads = headsOfTask
    return !heads.isEmpty && NameTails(heads).contains(endOfModuleAround: path)
  }
}
