internal import TensorFiles

/// A base, and what the tensors of adapters are looked up in.
struct MatchedBase {
  let model: BaseModel
  /// True if the adapters are merged into it, and are to be taken out.
  let holdsAdapters: Bool
  let resolver: NameResolver
  /// The head that the checkpoint does not hold because it is tied.
  let absentHead: BaseModel.Module?
  /// The path of the head that config.json ties to the input embedding, whether the checkpoint stores it or not: PEFT goes
  /// by the configuration. Nil where there is none, or its place is not known.
  let tiedHead: String?
  /// Modules by the name of their weight; a tied head has none of its own.
  private let modules: [ExactName: BaseModel.Module]

  /// - Parameter taskType: the adapters'.
  init(_ model: BaseModel, taskType: String?, holdsAdapters: Bool) {
    self.model = model
    self.holdsAdapters = holdsAdapters
    resolver = NameResolver(model)
    absentHead = model.modules.first(where: \.isTiedHead)
    modules = Dictionary(
      model.modules.filter { !$0.isTiedHead }.map { ($0.weightName, $0) }, uniquingKeysWith: { first, _ in first })
    let isTied =
      model.asksForTie && model.family?.embedding != nil
      && BaseModel.hasLanguageHead(taskType: taskType, config: model.config)
    tiedHead = isTied ? model.family?.head : nil
  }

  var path: String { model.path }
  var checkpoint: Checkpoint { model.checkpoint }
  var embedding: String? { model.family?.embedding }

  /// The module whose weight has that name in the checkpoint.
  func module(ofWeight name: String) -> BaseModel.Module? { modules[name] }

  /// The base's tensor behind the name of one that comes out.
  func stored(_ name: String) -> TensorEntry? { model.origin(of: name)?.entry }

  /// The name under which the weight of an adapter's module comes out: that of a tensor of the base, or a tied head's own.
  func weightName(of module: Adapter.Module) throws(AdapterError) -> String? {
    if let tied = absentHead, tied.path.isExactly(module.path) {
      return holdsAdapters ? tied.weightName : "\(tied.path).weight"
    }
    if let name = try resolver.resolve("\(module.path).weight") { return name }
    // torch's MultiheadAttention holds three projections in one parameter, and PEFT wraps its output within.
    if let name = try resolver.resolve("\(module.path).in_proj_weight") { return name }
    let plain = module.path.replacing(".base_layer.", with: ".")
    if let name = plain.isExactly(module.path) ? nil : try resolver.resolve("\(plain).weight") { return name }
    // torch's `weight_norm`, by its new name and its old one.
    for direction in ["parametrizations.weight.original1", "weight_v"] {
      guard let name = try resolver.resolve("\(module.path).\(direction)") else { continue }
      throw .unsupported(
        path: path, what: "a LoRA on '\(module.path)'",
        reason: "the weight is normed: it is the direction '\(name)' times a magnitude, and a sum changes both. "
          + "Remove the norm from the base (torch.nn.utils.parametrize.remove_parametrizations), or run the adapter apart."
      )
    }
    return nil
  }
}

extension BaseModel {
  /// A tensor of the checkpoint with its file; nil if there is none of that name.
  func tensor(_ name: String) -> StoredTensor? {
    checkpoint[name].map { StoredTensor(file: checkpoint.shards[$0.shard].file, entry: $0.entry) }
  }

  /// The tensor behind the name of one that comes out; that of a tied head that the checkpoint lacks is the embedding's.
  func origin(of name: String) -> StoredTensor? {
    if let tensor = tensor(name) { return tensor }
    guard let tied = modules.first(where: \.isTiedHead), "\(tied.path).weight" == name else { return nil }
    return tensor(tied.weightName)
  }
}
