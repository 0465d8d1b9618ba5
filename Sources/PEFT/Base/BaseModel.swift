public import TensorFiles

/// A base model on disk: its checkpoint, its config.json, and the modules that its tensors imply.
///
/// Modules carry the names that they have in the model with its head, which are the names that adapters use; the
/// checkpoint's own names may lack or add a prefix.
public struct BaseModel: Sendable {
  /// A module with a weight.
  public struct Module: Sendable, Hashable {
    /// What the weight's shape and name say.
    public enum Kind: Sendable, Hashable {
      /// `[out, in]`.
      case linear
      /// `[in, out]`: transformers' `Conv1D`.
      case transposedLinear
      case embedding
      case convolution
      /// A norm or something else with one dimension.
      case other
    }

    /// The path in the model, such as `model.layers.0.self_attn.q_proj`.
    @ExactName public var path: String
    public let kind: Kind
    /// The weight's name in the checkpoint; the input embedding's for a tied head that has none.
    @ExactName public var weightName: String
    /// The weight's shape as stored.
    public let shape: [Int]
    /// True for a tied head that the checkpoint does not hold.
    public let isTiedHead: Bool
    /// What the base says of `[out, in]` or `[in, out]`. The kind is `linear` where it does not say.
    let orientation: Orientations.Finding

    /// Features that the layer takes: the weight's `in`.
    public var inFeatures: Int { kind == .transposedLinear ? shape[0] : shape.count > 1 ? shape[1] : shape.first ?? 1 }
    /// Features that the layer gives: the weight's `out`.
    public var outFeatures: Int { kind == .transposedLinear ? shape[1] : shape.first ?? 1 }
    /// True for `linear` and `transposedLinear`.
    public var isLinear: Bool { kind == .linear || kind == .transposedLinear }
  }

  /// As given.
  public let path: String
  /// The directory with the side files; nil if the base is a single file.
  public let directory: String?
  public let checkpoint: Checkpoint
  /// config.json; nil if there is none.
  public let config: JSONValue?
  /// All modules with a weight, in the natural order of their paths.
  public let modules: [Module]
  let family: ModelFamily?
  /// The file's names of tensors by the model's.
  let fileNames: [ExactName: String]
  /// True if head and input embedding share their weight. See `areTied`.
  public let isTied: Bool

  /// Opens a directory, an index or a single safetensors file.
  ///
  /// - Parameter taskType: as in an adapter's configuration; decides whether the model has a head.
  /// Throws `.file`.
  public init(path: String, taskType: String? = nil) throws(AdapterError) {
    let checkpoint = try asAdapterError { () throws(TensorFileError) in try Checkpoint(path: path) }
    let isFile = FileSystem.kind(path) == .file
    let config = try asAdapterError { () throws(TensorFileError) -> JSONValue? in
      if let path = try ModelFiles.path("config.json", in: checkpoint.directory) {
        return try JSONValue(contentsOf: path)
      }
      let path = FileSystem.join(checkpoint.directory, "config.json")
      // Something has the name and cannot be read: not the same as a base without a configuration.
      return FileSystem.exists(path) ? try JSONValue(contentsOf: path) : nil
    }
    try self.init(
      path: path, directory: isFile && checkpoint.index == nil ? nil : checkpoint.directory, checkpoint: checkpoint,
      config: config, taskType: taskType)
  }

  init(
    path: String, directory: String?, checkpoint: Checkpoint, config: JSONValue?, taskType: String?
  ) throws(AdapterError) {
    self.path = path
    self.directory = directory
    self.checkpoint = checkpoint
    self.config = config
    let family = (config?["model_type"]?.stringValue).flatMap(ModelFamily.named)
    self.family = family
    let stems = checkpoint.names.map { family?.renaming.modelName($0) ?? $0 }
    let names = ModelNames(family: family, hasHead: Self.hasHead(taskType: taskType, config: config), stems: stems)
    let fileNames = Dictionary(
      checkpoint.names.map { (names.modelName($0), $0) }, uniquingKeysWith: { first, second in min(first, second) })
    self.fileNames = fileNames
    let isTied = try asAdapterError { () throws(TensorFileError) in
      try Self.areTied(checkpoint, names: fileNames, config: config, family: family)
    }
    self.isTied = isTied
    modules = Self.modules(
      checkpoint, names: fileNames, config: config, family: family, taskType: taskType, isTied: isTied)
  }

  /// The checkpoint's name of a tensor that the model with its head calls `name`; nil if the checkpoint does not hold it.
  package func storedName(_ name: String) -> String? { fileNames[name] }

  /// `model_type` of config.json.
  public var modelType: String? { config?["model_type"]?.stringValue }

  /// True if config.json asks for one weight of head and input embedding, whatever the checkpoint holds: what PEFT goes by.
  var asksForTie: Bool { Self.asksForTie(config, family) }

  /// Whether the model that adapters are trained on has a head: the task decides, then the class in config.json.
  static func hasHead(taskType: String?, config: JSONValue?) -> Bool {
    switch taskType {
    case "FEATURE_EXTRACTION"?: return false
    case .some: return true
    case nil:
      let name = config?["architectures"]?.elements?.first?.stringValue ?? "ForCausalLM"
      return name.contains("For") || name.contains("LMHead")
    }
  }

  /// Whether that head predicts tokens: with it the output embedding is part of the model.
  static func hasLanguageHead(taskType: String?, config: JSONValue?) -> Bool {
    if let taskType { return taskType == "CAUSAL_LM" || taskType == "SEQ_2_SEQ_LM" }
    let name = config?["architectures"]?.elements?.first?.stringValue ?? "ForCausalLM"
    return ["CausalLM", "LMHead", "ConditionalGeneration", "MaskedLM", "PreTraining"].contains { name.contains($0) }
  }

  private static func modules(
    _ checkpoint: Checkpoint, names: [ExactName: String], config: JSONValue?, family: ModelFamily?, taskType: String?,
    isTied: Bool
  ) -> [Module] {
    let suffix = ".weight"
    let orientations =
      family == nil ? Orientations(names.compactMapValues { checkpoint[$0]?.entry.shape }) : nil
    var modules: [Module] = []
    for (name, fileName) in names where name.text.hasSuffix(suffix) {
      guard let entry = checkpoint[fileName]?.entry else { continue }
      let path = String(name.text.dropLast(suffix.count))
      var kind = kind(path, shape: entry.shape, family: family)
      let orientation = kind == .linear ? orientations?.finding(path, shape: entry.shape) : nil
      if orientation == .transposed { kind = .transposedLinear }
      modules.append(
        Module(
          path: path, kind: kind, weightName: entry.name, shape: entry.shape, isTiedHead: false,
          orientation: orientation ?? (kind == .transposedLinear ? .transposed : .linear)))
    }
    if let head = family?.head, let embedding = family?.embedding, isTied,
      hasLanguageHead(taskType: taskType, config: config), !modules.contains(where: { $0.path == head }),
      let source = modules.first(where: { $0.path == embedding })
    {
      modules.append(
        Module(
          path: head, kind: .linear, weightName: source.weightName, shape: source.shape, isTiedHead: true,
          orientation: .linear))
    }
    // The places are sorted, not the modules, which take long to move.
    return modules.indices.sorted { naturallyPrecedes(modules[$0].path, modules[$1].path) }.map { modules[$0] }
  }

  private static func kind(_ path: String, shape: [Int], family: ModelFamily?) -> Module.Kind {
    let last = lastPart(path)
    switch shape.count {
    case 0, 1: return .other
    case 2:
      if last.lowercased().contains("norm") { return .other }
      if ModelFamily.embeddingNames.contains(last) || path == family?.embedding { return .embedding }
      return family?.transposed.contains(last) == true ? .transposedLinear : .linear
    default: return .convolution
    }
  }
}

/// Translates between the names of modules in a checkpoint and in the model that adapters are trained on.
struct ModelNames {
  private let family: ModelFamily?
  private let added: String
  private let removed: String

  init(family: ModelFamily?, hasHead: Bool, stems: [String]) {
    self.family = family
    let prefix = (family?.prefix).map { "\($0)." } ?? ""
    // Question answering heads of the Llama kind hold their base as `transformer`, whatever the family's prefix.
    let filePrefixed =
      !prefix.isEmpty && stems.contains { $0.hasPrefix(prefix) || $0.hasPrefix("transformer.layers.") }
    added = hasHead && !filePrefixed ? prefix : ""
    removed = !hasHead && filePrefixed ? prefix : ""
  }

  /// The name in the model of a tensor in the file.
  func modelName(_ fileName: String) -> String {
    let fileName = family?.renaming.modelName(fileName) ?? fileName
    for (model, file) in family?.fileNames ?? [:] where fileName.hasPrefix("\(file).") {
      return model + fileName.dropFirst(file.count)
    }
    if !removed.isEmpty, fileName.hasPrefix(removed) { return String(fileName.dropFirst(removed.count)) }
    if added.isEmpty { return fileName }
    if let head = family?.head, fileName.hasPrefix("\(head).") { return fileName }
    // Heads stand beside the base model, not in it.
    let first = fileName.parts().first.map(String.init) ?? fileName
    return Self.heads.contains(first) ? fileName : added + fileName
  }

  /// What heads are called.
  static let heads: Set<String> = ["lm_head", "score", "classifier", "qa_outputs", "cls"]
}
