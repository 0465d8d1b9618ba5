internal import TensorFiles

/// The parameters of the model that an adapter is put on: what the class that the adapter names takes of the base's checkpoint, and
/// what it has that the checkpoint lacks.
struct BaseParameters {
  /// A parameter, whether it is trained or not.
  struct Parameter {
    /// The name in the model.
    let name: String
    let shape: [Int]
    var count: Int { shape.reduce(1, *) }
    /// The path of the module that holds it.
    var path: String { name.lastIndex(of: ".").map { String(name[..<$0]) } ?? "" }
    /// As PEFT asks; `beta` is what the first BERT checkpoints call it.
    var isBias: Bool { ["bias", "beta"].contains(lastPart(name)) }
  }

  /// Each once, whatever names it has.
  let list: [Parameter]
  /// Whether head and input embedding share their weight.
  let isTied: Bool
  /// The embedding's rows in the checkpoint.
  let rows: Int?
  private let paths: BasePaths

  /// The path of the input embedding in this model.
  var embedding: String? { paths.embedding }
  var head: String? { paths.head }

  /// Whether a tensor of the model is one that it has under another name already.
  func isSecondName(_ name: String) -> Bool { isTied && paths.isSecondName(name) }

  /// - Parameter savedPaths: modules that the adapter stores in full.
  /// Throws `.uncountable` where the class has parts that neither base nor adapter holds, `.file`.
  init(_ base: BaseModel, _ config: PeftConfig, configPath: String, savedPaths: Set<String>) throws(AdapterError) {
    let paths = BasePaths(base)
    self.paths = paths
    rows = base.modules.first { $0.path == paths.embedding }?.shape.first
    isTied = base.isTied
    try Self.refuse(base, config, configPath, savedPaths)
    let wanted = try Self.head(base, config, configPath: configPath)
    let type = base.modelType ?? ""
    var modelNames: [ExactName: String] = [:]
    for (name, fileName) in base.fileNames { modelNames[fileName] = name.text }
    var list: [Parameter] = []
    for shard in base.checkpoint.shards {
      for entry in shard.entries where !Self.isBuffer(entry.name, entry.shape) {
        // Gradients, and so parameters, are of floating point.
        if [.i8, .i16, .i32, .i64, .u8, .u16, .u32, .u64, .bool].contains(entry.dtype) { continue }
        let name = modelNames[entry.name] ?? entry.name
        guard wanted.takes(name, modelType: type), !Self.isUnread(name, base) else { continue }
        guard base.modelType != nil || Self.isParameter(name) else {
          throw .uncountable(
            path: configPath, what: "a model outside transformers",
            reason: "whether '\(name)' of \(base.path) is a parameter or a buffer is not in its files.")
        }
        if isTied && paths.isSecondName(name) { continue }
        list.append(Parameter(name: name, shape: entry.shape))
      }
    }
    if type == "marian" { list += Self.sinusoids(list, base.config) }
    if base.family != nil {
      if let dense = ModelHead.DenseLayer.named(type), dense.heads.contains(wanted),
        !(list.map(\.name) + savedPaths.map { "\($0)." }).contains(where: { ".\($0)".contains(".\(dense.part).") })
      {
        guard let extent = ModelHead.DenseLayer.extent(base.config) else {
          throw .uncountable(
            path: configPath, what: "the model's \(dense.part)", reason: "config.json does not say its hidden size.")
        }
        list.append(Parameter(name: "\(dense.part).weight", shape: [extent, extent]))
        list.append(Parameter(name: "\(dense.part).bias", shape: [extent]))
      }
      let learnt = wanted.learntParts
      let isThere = (list.map(\.name) + savedPaths.map { "\($0)." }).contains { name in
        learnt.contains { name.hasPrefix("\($0).") }
      }
      // Some classes have a further layer, which no adapter stores.
      let isPartial = type == "modernbert" && wanted != .none && !list.contains { $0.name.hasPrefix("head.") }
      if !learnt.isEmpty && !isThere || isPartial {
        throw Self.lacksHead(base, configPath)
      }
    }
    if wanted == .languageModel, let head = paths.head,
      let source = base.modules.first(where: { $0.path == paths.embedding }),
      !list.contains(where: { $0.name.hasPrefix(head.split(separator: ".")[0] + ".") })
    {
      if ModelHead.typesWithLargeLanguageHeads.contains(type), base.ownHead != .languageModel {
        throw Self.lacksHead(base, configPath)
      }
      if !isTied { list.append(Parameter(name: "\(head).weight", shape: source.shape)) }
    }
    self.list = list
  }

  /// Refuses bases whose files do not tell the model's parameters.
  private static func refuse(
    _ base: BaseModel, _ config: PeftConfig, _ configPath: String, _ savedPaths: Set<String>
  ) throws(AdapterError) {
    if let method = base.config?["quantization_config"], method != .null {
      throw .uncountable(
        path: configPath, what: "a quantized base",
        reason: "PEFT's number depends on how \(base.path) is loaded (quantization_config "
          + "\(method["quant_method"]?.stringValue ?? "")). Give the checkpoint that it was made from.")
    }
    guard base.config == nil else { return }
    let paths = Set(base.checkpoint.names.map { $0.split(separator: ".").dropLast().joined(separator: ".") })
    if let path = savedPaths.sorted().first(where: { !paths.contains($0) }) {
      throw .uncountable(
        path: configPath, what: "module '\(path)'",
        reason:
          "the adapter stores it in full, and \(base.path) does not hold it: whether it shares another's weight is not "
          + "known.")
    }
  }

  /// Whether a tensor of a model outside transformers is a parameter by its name: those of torch's modules, and what
  /// positions, tokens and scales are called.
  private static func isParameter(_ name: String) -> Bool {
    let last = lastPart(name).lowercased()
    return ["weight", "bias", "embed", "token", "proj", "scale", "gamma", "beta", "param", "original", "lora_"]
      .contains { last.contains($0) } || last.hasPrefix("pos")
  }

  /// The tables of positions that Marian makes anew. Source: transformers/models/marian `_keys_to_ignore_on_save`.
  private static func sinusoids(_ list: [Parameter], _ config: JSONValue?) -> [Parameter] {
    guard let length = config?["max_position_embeddings"]?.integerValue, let width = config?["d_model"]?.integerValue,
      (1...1 << 24).contains(length), (1...1 << 20).contains(width)
    else { return [] }
    return ["model.encoder", "model.decoder"].map { "\($0).embed_positions.weight" }
      .filter { name in !list.contains { name.hasSuffix($0.name) } }
      .map { Parameter(name: $0, shape: [length, width]) }
  }

  private static func lacksHead(_ base: BaseModel, _ configPath: String) -> AdapterError {
    .uncountable(
      path: configPath, what: "the model's head",
      reason:
        "neither the base \(base.path) nor the adapter's weights hold it; give the adapter's directory, and a base of "
        + "the class that it was trained on.")
  }

  /// The head of the class that the adapter was trained on: its `auto_mapping`, its task, or the base's own class.
  private static func head(
    _ base: BaseModel, _ config: PeftConfig, configPath: String
  ) throws(AdapterError) -> ModelHead {
    let own = base.ownHead
    var isUnknown = false
    var wanted = ModelHead(taskType: config.taskType)
    if let name = config.autoMapping["base_model_class"]?.stringValue, base.config != nil {
      let className = base.config?["architectures"]?.elements?.first?.stringValue
      if name == className { return base.family == nil ? .other : own ?? .other }
      wanted = ModelHead(className: name)
      isUnknown = className != nil && wanted == .other
    }
    guard let wanted else { return .other }
    guard let own else { return base.family == nil ? .other : wanted }
    if wanted == own && !isUnknown { return base.family == nil ? .other : wanted }
    let isText = base.family?.head != nil
    if own == .other && !isText && wanted != .none && !isUnknown { return .other }
    guard base.family != nil, isText || wanted == .imageClassifier, !isUnknown else {
      throw .uncountable(
        path: configPath, what: "this adapter",
        reason:
          "it was trained on another class of the model type '\(base.modelType ?? "unknown")' than the base was saved "
          + "from, and which parts the two share is not known. Give a base of the adapter's class.")
    }
    return wanted
  }
}

/// Where the input embedding and the head are in a model with or without its head.
private struct BasePaths {
  let embedding: String?
  let head: String?
  /// Whether the checkpoint holds the head's bias beside the head, too.
  private let hasOuterBias: Bool
  /// False for a tied checkpoint that holds the head alone.
  private let hasEmbedding: Bool
  /// Whether encoder and decoder share an embedding of their own name.
  private let hasShared: Bool

  init(_ base: BaseModel) {
    let prefix = (base.family?.prefix).map { "\($0)." } ?? ""
    func present(_ path: String) -> String {
      let bare = path.hasPrefix(prefix) ? String(path.dropFirst(prefix.count)) : path
      return base.fileNames["\(path).weight"] == nil && base.fileNames["\(bare).weight"] != nil ? bare : path
    }
    embedding = (base.family?.embedding).map(present)
    head = base.family?.head
    let parent = (head ?? "").split(separator: ".").dropLast().joined(separator: ".")
    hasOuterBias = base.storedName("\(parent).bias") != nil
    hasEmbedding = embedding.map { base.storedName("\($0).weight") != nil } ?? true
    hasShared = base.modules.contains { lastPart($0.path) == "shared" }
  }

  /// Whether a tensor of a tied model is one that the model has under another name already.
  func isSecondName(_ name: String) -> Bool {
    if let head, name.hasPrefix("\(head).") {
      return name == "\(head).weight" && hasEmbedding || name == "\(head).bias" && hasOuterBias
    }
    return hasShared
      && (name.hasSuffix("encoder.embed_tokens.weight") || name.hasSuffix("decoder.embed_tokens.weight"))
  }
}

extension BaseModel {
  /// The head of the class that the base was saved from; nil where config.json names none.
  var ownHead: ModelHead? { config?["architectures"]?.elements?.first?.stringValue.map(ModelHead.init(className:)) }
}
