internal import TensorFiles

/// A method of PEFT other than LoRA: its configuration, the names of its tensors, and what a merge does with it.
struct AdapterMethod: Sendable {
  /// What a merge does with an adapter of the method.
  enum Merging: Sendable {
    /// Each module's weight is changed by a rule.
    case rule(@Sendable (MethodModule) throws(AdapterError) -> any WeightRule)
    /// The stored tensors take the place of the module's parameters; the infix is left out of their names.
    case replacement(infix: String)
    /// The stored rows take the place of an embedding's; the setting lists them.
    case rows(tensor: String, setting: String)
    /// It cannot be expressed by changed weights.
    case none(reason: String)
  }

  /// What a fresh adapter of the method starts from.
  enum Start: Sendable {
    /// Tensors of each module of these kinds, drawn in the order in which the model registers the modules. A tensor of the
    /// whole adapter that a later module draws again takes the place of the earlier.
    case modules(
      Set<BaseModel.Module.Kind>,
      @Sendable (FreshModule, inout FreshSource) throws(AdapterError) -> [FreshTensor])
    /// Virtual tokens.
    case prompt(@Sendable (FreshPrompt, inout FreshSource) throws(AdapterError) -> [FreshTensor])
    /// It is not made.
    case none(reason: String)
  }

  let type: PeftType
  /// Every key of the method's configuration that PEFT 0.21.2 writes, with its default, as JSON.
  let defaults: String
  /// What the names of its tensors begin with, after the module's path.
  let prefixes: [String]
  /// Stored tensors that are no parameters: PEFT does not count them.
  var buffers: Set<String> = []
  /// True if PEFT puts the method on transformers' Conv1D, whose weight is stored `[in, out]`.
  var takesConv1D = false
  /// True if PEFT keeps in the saved `fan_in_fan_out` whether the last module that it adapted was a Conv1D.
  var keepsFanInFanOut = true
  /// True if PEFT leaves targets that are no torch Linear as they are, and says nothing.
  var passesOverOthers = false
  let merging: Merging
  /// What a fresh adapter starts from.
  var start = Start.none(reason: "what its tensors start from is not drawn here; start it with PEFT.")
  /// The targets for a model type where the configuration names none; nil where PEFT wants them named.
  var defaultTargets: @Sendable (String) -> ModuleRule? = DefaultTargets.lora
  /// Fills in further settings that PEFT fills in when it makes an adapter.
  var completed: @Sendable (inout PeftConfig, BaseModel) throws(AdapterError) -> Void = { _, _ throws(AdapterError) in }

  /// All methods but LoRA.
  static let all: [AdapterMethod] = [
    adaLoRA, adaMSS, adaptionPrompt, beft, boft, bone, c3a, cartridge, cpt, deft, deLoRA, fourierFT, frod, gLoRA,
    graLoRA,
    hiRA, hra, ia3, lily, lnTuning, loHa, loKr, miss, multitaskPromptTuning, oft, osf, peanut, poly, prefixTuning,
    promptEncoder, promptTuning, psoft, pveRA, randLoRA, roAd, shadow, shira, superTuning, tinyLoRA, trainableTokens,
    uniLoRA, vbLoRA, veRA, waveFT, xLoRA,
  ]

  private static let byType = Dictionary(uniqueKeysWithValues: all.map { ($0.type, $0) })

  /// The method of a type; nil for LoRA.
  static func named(_ type: PeftType) -> AdapterMethod? { byType[type] }

  /// The configuration's defaults as a document.
  var defaultSettings: [JSONValue.Member] { JSONValue(parsing: defaults)?.members ?? [] }

  /// Whether modules can be stored in full beside the method's tensors, such as a classifier that the task adds.
  var savesModules: Bool { defaults.contains("\"modules_to_save\"") }

  /// The module's path and the tensor's role in a name without `base_model.model.`; nil if the name is not the method's.
  func split(_ name: String) -> (path: String, role: String)? {
    let parts = name.parts(keepingEmpty: true)
    guard let index = parts.firstIndex(where: { part in prefixes.contains { part.hasPrefix($0) } }), index > 0 else {
      return nil
    }
    return (parts[..<index].joined(separator: "."), parts[index...].joined(separator: "."))
  }
}
