internal import Synchronization
internal import TensorFiles

/// A method other than LoRA, all that its type implies: its configuration, the names of its tensors, what a merge does with them,
/// what a fresh adapter starts from.
public struct AdapterMethod: Sendable {
  /// What a merge does with an adapter of the method.
  public enum Merging: Sendable {
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
  public enum Start: Sendable {
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

  /// PEFT's name of the method.
  public let type: PeftType
  /// Every key of the method's configuration that PEFT 0.21.2 writes, with its default, as JSON.
  public let defaults: String
  /// What the names of its tensors begin with, after the module's path.
  public let prefixes: [String]
  /// Stored tensors that are no parameters: PEFT does not count them.
  public var buffers: Set<String> = []
  /// True if PEFT puts the method on transformers' Conv1D, whose weight is stored `[in, out]`.
  public var takesConv1D = false
  /// True if PEFT keeps in the saved `fan_in_fan_out` whether the last module that it adapted was a Conv1D.
  public var keepsFanInFanOut = true
  /// True if PEFT leaves targets that are no torch Linear as they are, and says nothing.
  public var passesOverOthers = false
  public let merging: Merging
  /// What a fresh adapter starts from.
  public var start = Start.none(reason: "what its tensors start from is not drawn here; start it with PEFT.")
  /// The targets for a model type where the configuration names none; nil where PEFT wants them named.
  var defaultTargets: @Sendable (String) -> ModuleRule? = DefaultTargets.lora
  /// Fills in further settings that PEFT fills in when it makes an adapter.
  var completed: @Sendable (inout PeftConfig, BaseModel) throws(AdapterError) -> Void = { _, _ throws(AdapterError) in }
  /// What a module's stored tensors say of its weight's shape, for a look at an adapter without its base.
  public var storedShape: @Sendable (StoredModule) -> StoredShape = { _ in .dependsOnWeight }
  /// Tensors that each module must have.
  public var neededRoles: [String] = []
  /// Tensors of a form that PEFT no longer reads.
  var formerRoles: Set<String> = []
  /// The method that PEFT 0.21.2 knows this one as; tensors' names change with it.
  var successor: PeftType?
  /// True if an embedding's table is seen transposed.
  var transposesEmbeddings = false

  /// The methods of PEFT 0.21.2.
  private static let builtIn: [AdapterMethod] = [
    adaLoRA, adaMSS, adaptionPrompt, beft, boft, bone, c3a, cartridge, cpt, deft, deLoRA, fourierFT, frod, gLoRA,
    graLoRA, hiRA, hra, ia3, lily, lnTuning, loHa, loKr, miss, multitaskPromptTuning, oft, osf, peanut, poly,
    prefixTuning, promptEncoder, promptTuning, psoft, pveRA, randLoRA, roAd, shadow, shira, superTuning, tinyLoRA,
    trainableTokens, uniLoRA, vbLoRA, veRA, waveFT, xLoRA,
  ]

  private struct Registry {
    var byType: [PeftType: AdapterMethod]
    var prefixes: [String]

    init(_ methods: some Sequence<AdapterMethod>) {
      byType = Dictionary(methods.map { ($0.type, $0) }, uniquingKeysWith: { _, later in later })
      prefixes = Set(exactly: byType.values.flatMap(\.prefixes)).map(\.text).sorted()
    }
  }

  private static let registry = Mutex(Registry(builtIn))

  /// Lets adapters of one more method be read, merged, counted and run, or those of a known one otherwise than before.
  public static func register(_ method: AdapterMethod) {
    registry.withLock { $0 = Registry(Array($0.byType.values) + [method]) }
  }

  /// All methods but LoRA, by their names.
  static var all: [AdapterMethod] {
    registry.withLock { Array($0.byType.values) }.sorted { $0.type.rawValue < $1.type.rawValue }
  }

  /// What names of tensors of any method but LoRA begin with, after the module's path.
  static var allPrefixes: [String] { registry.withLock { $0.prefixes } }

  /// The method of a type; nil for LoRA.
  static func named(_ type: PeftType) -> AdapterMethod? { registry.withLock { $0.byType[type] } }

  /// The configuration's defaults as a document.
  var defaultSettings: [JSONValue.Member] { JSONValue(parsing: defaults)?.members ?? [] }

  /// Whether modules can be stored in full beside the method's tensors, such as a classifier that the task adds.
  var savesModules: Bool { Self.savingTypes.contains(type) }

  private static let savingTypes = Set(all.filter { $0.defaults.contains("\"modules_to_save\"") }.map(\.type))

  /// The module's path and the tensor's role in a name without `base_model.model.`; nil if the name is not the method's.
  func split(_ name: String) -> (path: String, role: String)? {
    let parts = name.parts(keepingEmpty: true)
    guard let index = parts.firstIndex(where: { part in prefixes.contains { part.hasPrefix($0) } }), index > 0 else {
      return nil
    }
    return (parts[..<index].joined(separator: "."), parts[index...].joined(separator: "."))
  }
}

extension AdapterMethod {
  /// - Parameters:
  ///   - type: the name in `peft_type`.
  ///   - defaults: every key of the method's configuration with its default, as a JSON object.
  ///   - prefixes: what the names of its tensors begin with, after the module's path.
  public init(_ type: PeftType, defaults: String, prefixes: [String], merging: Merging) {
    self.init(type: type, defaults: defaults, prefixes: prefixes, merging: merging)
  }
}
