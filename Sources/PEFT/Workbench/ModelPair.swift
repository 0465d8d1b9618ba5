internal import TensorFiles

/// A model and one that was trained from it, tensor beside tensor.
struct ModelPair: Sendable {
  /// A tensor of a file.
  struct Stored: Sendable {
    let file: OpenFile
    let entry: TensorEntry
  }

  /// What a tensor is to an adapter.
  enum Role: Sendable, Equatable {
    /// A weight that a LoRA can be put on.
    case weight(BaseModel.Module)
    /// One of the matrices of a parameter that holds all experts of a layer.
    case expert(parameter: String)
    /// In a module that can be saved in full: its path.
    case embedding(String)
    case head(String)
    case norm(String)
    /// A bias, of the module of that path.
    case bias(String)
    /// What no adapter of PEFT holds.
    case other
  }

  /// One tensor of the model, by its name there, and where both hold it.
  struct Tensor: Sendable {
    let name: String
    let role: Role
    /// Nil for a head that the base lacks.
    let before: Stored?
    let after: Stored
  }

  let base: BaseModel
  let tuned: BaseModel
  /// As in an adapter's configuration; nil where the fine-tuned model's class tells none.
  let taskType: String?
  /// In the natural order of their names.
  private(set) var tensors: [Tensor] = []
  /// Things worth a word.
  private(set) var notes: [String] = []

  /// Opens both. Throws `.notPossible` for models that are not of one kind, for tensors that one of them lacks and for shapes that
  /// differ beyond a vocabulary; `.baseDType`; `.file`.
  init(base basePath: String, tuned tunedPath: String) throws(AdapterError) {
    let task = Self.taskType(try BaseModel(path: tunedPath).config)
    (base, tuned) = (try BaseModel(path: basePath, taskType: task), try BaseModel(path: tunedPath, taskType: task))
    taskType = task
    if let one = base.modelType, let other = tuned.modelType, one != other {
      throw refusal("it is a model of type \(other), and \(base.path) one of type \(one).")
    }
    for model in [base, tuned] {
      guard let quantization = model.quantization else { continue }
      throw .notPossible(
        path: model.path, what: "extracting an adapter from a quantized model (\(quantization))",
        reason: "codes have no difference. Use the 16-bit checkpoint that it was made from.")
    }
    try pair()
  }

  private func refusal(_ reason: String) -> AdapterError {
    .notPossible(path: tuned.path, what: "extracting an adapter", reason: reason)
  }

  /// The task that the class in a config.json is for.
  private static func taskType(_ config: JSONValue?) -> String? {
    guard let name = config?["architectures"]?.elements?.first?.stringValue else { return nil }
    switch ModelHead(className: name) {
    case .languageModel:
      if name.contains("CausalLM") || name.contains("LMHead") { return "CAUSAL_LM" }
      return name.contains("ConditionalGeneration") && config?["is_encoder_decoder"]?.boolValue == true
        ? "SEQ_2_SEQ_LM" : nil
    case .sequenceClassifier: return "SEQ_CLS"
    case .tokenClassifier: return "TOKEN_CLS"
    case .answerer: return "QUESTION_ANS"
    case .none: return "FEATURE_EXTRACTION"
    case .imageClassifier, .other: return nil
    }
  }

  // MARK: Tensors

  private mutating func pair() throws(AdapterError) {
    let names = Set(base.fileNames.keys).union(tuned.fileNames.keys).map(\.text).sorted(by: naturallyPrecedes)
    let modules = Dictionary(
      (tuned.modules + base.modules).filter { !$0.isTiedHead }.map { (ExactName($0.path), $0) },
      uniquingKeysWith: { $1 })
    let tie = tie
    var (lacking, added): ([String], [String]) = ([], [])
    for name in names {
      // One weight under two names is taken once, under the embedding's.
      if let tie, name == "\(tie.head).weight" {
        if !names.containsExactly("\(tie.embedding).weight") { try add("\(tie.embedding).weight", modules) }
        continue
      }
      let (before, after) = (stored(name, base), stored(name, tuned))
      guard let shape = (after ?? before)?.entry.shape else { continue }
      let role = role(name, shape, modules)
      let isUnread = BaseParameters.isBuffer(name, shape) || BaseParameters.isUnread(name, base)
      if case .head = role {
      } else if !isUnread {
        if before == nil { added.append(name) }
        if after == nil { lacking.append(name) }
      }
      if after != nil, before != nil || !isUnread { try add(name, modules) }
    }
    func some(_ names: [String]) -> String {
      "'\(names[0])'" + (names.count > 1 ? " and \(names.count - 1) more tensors" : "")
    }
    if !lacking.isEmpty { throw refusal("it lacks \(some(lacking)), which \(base.path) holds.") }
    if !added.isEmpty { throw refusal("it holds \(some(added)), which \(base.path) lacks.") }
  }

  private mutating func add(_ name: String, _ modules: [ExactName: BaseModel.Module]) throws(AdapterError) {
    guard let after = stored(name, tuned) else { return }
    let before = stored(name, base)
    let role = role(name, after.entry.shape, modules)
    if let before, before.entry.shape != after.entry.shape {
      let (old, new) = (before.entry.shape, after.entry.shape)
      var hasRows = false
      switch role {
      case .embedding, .head: hasRows = old.dropFirst() == new.dropFirst() && old.count == new.count
      default: break
      }
      guard hasRows else { throw refusal("'\(name)' has shape \(new), and \(old) in \(base.path).") }
      notes.append("'\(name)' has \(new[0]) rows, \(old[0]) in the base")
    }
    for (model, tensor) in [(base, before), (tuned, after)] {
      guard let entry = tensor?.entry, !entry.dtype.isComputable, role != .other,
        !BaseParameters.isBuffer(name, entry.shape)
      else { continue }
      throw .baseDType(base: model.path, tensor: entry.name, dtype: entry.dtype)
    }
    tensors.append(Tensor(name: name, role: role, before: before, after: after))
  }

  /// Where a model holds a tensor, under its own name or under that of the weight that it is tied to.
  private func stored(_ name: String, _ model: BaseModel) -> Stored? {
    guard let fileName = model.storedName(name) ?? model.tiedName(name), let place = model.checkpoint[fileName] else {
      return nil
    }
    return Stored(file: model.checkpoint.shards[place.shard].file, entry: place.entry)
  }

  private func role(_ name: String, _ shape: [Int], _ modules: [ExactName: BaseModel.Module]) -> Role {
    if BaseParameters.isBuffer(name, shape) {
      // A norm's statistics are saved with it.
      let path = name.parts().dropLast().joined(separator: ".")
      return modules[ExactName(path)]?.kind == .other ? .norm(path) : .other
    }
    if let parameter = Self.expertParameter(name, shape) { return .expert(parameter: parameter) }
    let parts = name.parts()
    let path = parts.dropLast().joined(separator: ".")
    let (first, last) = (parts.first.map(String.init) ?? "", parts.last.map(String.init) ?? "")
    let head = tuned.family?.head ?? "lm_head"
    if path == head { return .head(path) }
    // Of a head that holds the output embedding beside other layers the parts cannot be saved one by one.
    if ModelNames.heads.contains(first) { return head.hasPrefix("\(first).") ? .other : .head(first) }
    // Encoder and decoder have copies of a shared embedding that no saved module changes.
    if sharedEmbedding?.isExactly(path) == true { return .other }
    let module = modules[ExactName(path)]
    switch module?.kind {
    case .embedding?: return .embedding(path)
    case .other?: return ["weight", "bias"].contains(last) ? .norm(path) : .other
    // A kernel of its own for each channel is no product of factors.
    case .convolution? where last == "weight" && shape[1] == 1 && shape[0] > 1: return .other
    case let kind? where last == "weight":
      return kind == .convolution && shape.count > 5 ? .other : module.map { .weight($0) } ?? .other
    default: return last == "bias" && shape.count == 1 ? .bias(path) : .other
    }
  }

  /// Parents of the experts' parameters: routers stand beside those.
  var expertBlocks: Set<ExactName> {
    Set(
      exactly: tensors.compactMap { tensor in
        guard case .expert(let parameter) = tensor.role else { return nil }
        return parameter.parts().dropLast(2).joined(separator: ".")
      })
  }

  /// The input embedding of a model whose encoder and decoder share it.
  private var sharedEmbedding: String? {
    guard let family = base.family, family.tiesMore, family.embedding.map(lastPart) == "shared" else { return nil }
    return family.embedding
  }

  /// The head that is one weight with the input embedding in both models, and the embedding; nil where there is none.
  var tie: (head: String, embedding: String)? {
    guard base.isTied, tuned.isTied, let head = base.family?.head, let embedding = base.family?.embedding,
      BaseModel.hasLanguageHead(taskType: taskType, config: tuned.config)
    else { return nil }
    return (head, embedding)
  }

  /// The parameter that a tensor is, or is a part of: all experts of a layer in one tensor, or a matrix for each.
  private static func expertParameter(_ name: String, _ shape: [Int]) -> String? {
    let parts = name.parts().map(String.init)
    if shape.count == 3, let last = parts.last, ["gate_up_proj", "down_proj"].contains(last) { return name }
    guard shape.count == 2, parts.count > 3, parts.last == "weight", parts[parts.count - 4] == "experts",
      Int(parts[parts.count - 3]) != nil
    else { return nil }
    let container = parts.dropLast(3).joined(separator: ".")
    switch parts[parts.count - 2] {
    case "w1", "w3", "gate_proj", "up_proj": return "\(container).gate_up_proj"
    case "w2", "down_proj": return "\(container).down_proj"
    default: return nil
    }
  }
}
