internal import TensorFiles

/// One module of an adapter on its way from one form into another, in PEFT's names and orientations.
struct CarriedModule: Sendable {
  /// The path in the model, or in the part of a pipeline.
  var path: String
  /// By what PEFT writes after the path and a dot: `lora_A.weight`.
  var tensors: [String: MadeTensor]
  var rank: Int
  /// The scale is alpha / rank: of rsLoRA, alpha · √rank.
  var alpha: Double
  /// What the product of the factors is multiplied by.
  var scale: Double

  init(path: String, tensors: [String: MadeTensor], rank: Int, alpha: Double, scale: Double? = nil) {
    self.path = path
    self.tensors = tensors
    self.rank = rank
    self.alpha = alpha
    self.scale = scale ?? alpha / Double(rank)
  }

  subscript(_ role: LoRARole) -> MadeTensor? {
    get { tensors[role.ending] }
    set { tensors[role.ending] = newValue }
  }

  /// What over the rank gives the scale.
  var effectiveAlpha: Double { alpha / Double(rank) == scale ? alpha : (scale * Double(rank)) }

  var isEmbedding: Bool { self[.embeddingA] != nil }
  /// The factor that reads the input.
  var a: MadeTensor? { self[.a] ?? self[.embeddingA] }
  /// The factor that gives the output.
  var b: MadeTensor? { self[.b] ?? self[.embeddingB] }

  /// The module with another scale, the factor on the output's side making up for it.
  func folded(to scale: Double) -> CarriedModule {
    guard scale != self.scale else { return self }
    var module = self
    let role: LoRARole = isEmbedding ? .embeddingB : .b
    module[role] = self[role]?.scaled(by: self.scale / scale)
    module.scale = scale
    module.alpha = scale * Double(rank)
    return module
  }

  /// The module with rows and columns of zeros up to a greater rank; the scale stays.
  func padded(to rank: Int) -> CarriedModule {
    guard rank > self.rank else { return self }
    var module = self
    for role: LoRARole in [.a, .embeddingA] { module[role] = self[role]?.padded(rows: rank) }
    for role: LoRARole in [.b, .embeddingB] { module[role] = self[role]?.padded(columns: rank) }
    module.rank = rank
    module.alpha = scale * Double(rank)
    return module
  }
}

/// An adapter, or what a file has for one part of a pipeline, on its way from one form into another.
struct CarriedAdapter: Sendable {
  /// What an adapter has beside the factors of its modules.
  enum Extra: Sendable, Hashable {
    /// A tensor stored in full: from `modules_to_save`, or by its difference.
    case whole(name: String)
    case bias(name: String)
    case factorBias(module: String)
    case tokenRows(module: String)
    case baseCopy(module: String)
    case diagonal(module: String)
    /// A tensor that belongs to nothing known.
    case unknown(name: String)
  }

  /// diffusers' name of the part: unet, transformer, text_encoder …; nil for the adapter of a language model.
  var component: String?
  /// In the natural order of their paths.
  var modules: [CarriedModule]
  /// Settings beside rank, alpha and targets; all of them if `isConfigWhole`.
  var config: PeftConfig
  /// True if the configuration is PEFT's own for these modules, and not made from the tensors.
  var isConfigWhole: Bool
  var extras: [Extra] = []
  /// What of the values was rounded on the way.
  var notes: [String] = []
  /// Tensors of `extras`, by their names in PEFT's file.
  var extraTensors: [ExactName: MadeTensor] = [:]

  init(component: String? = nil, _ modules: [CarriedModule], config: PeftConfig, isConfigWhole: Bool = false) {
    self.component = component
    self.modules = modules.sorted { naturallyPrecedes($0.path, $1.path) }
    self.config = config
    self.isConfigWhole = isConfigWhole
  }

  var hasMagnitudes: Bool { modules.contains { $0[.magnitude] != nil } }

  /// The value that most modules have; of several, the one that comes first.
  static func mostFrequent<Value: Hashable>(_ values: [Value]) -> Value? {
    var counts: [Value: Int] = [:]
    for value in values { counts[value, default: 0] += 1 }
    let greatest = counts.values.max() ?? 0
    return values.first { counts[$0] == greatest }
  }

  /// The tensors in another dtype; whole numbers stay.
  func cast(to dtype: DType?) -> CarriedAdapter {
    guard let dtype else { return self }
    var adapter = self
    for index in modules.indices {
      adapter.modules[index].tensors = modules[index].tensors.mapValues { $0.cast(to: dtype) }
    }
    adapter.extraTensors = extraTensors.mapValues { $0.cast(to: dtype) }
    return adapter
  }
}
