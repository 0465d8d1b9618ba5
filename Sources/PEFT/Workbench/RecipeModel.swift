internal import TensorFiles
internal import TensorMath

/// A model of a recipe, opened: its tensors by the names that they have in the model with its head.
struct RecipeModel: Sendable {
  /// Where a tensor's values come from.
  enum Source: Sendable {
    case stored(OpenFile, TensorEntry)
    /// What the merge of an adapter would write, before it is rounded.
    case merged(MatchedTensor)
  }

  struct Tensor: Sendable {
    /// The name in the model's file.
    let fileName: String
    let dtype: DType
    let shape: [Int]
    let source: Source
  }

  /// As the recipe spells it.
  let name: String
  let base: BaseModel
  let config: JSONValue?
  /// The directory of the adapter, if there is one.
  let adapter: String?
  /// The files that its tensors are in.
  let weights: [String]
  private let tensors: [ExactName: Tensor]
  /// All names, in their natural order.
  let names: [String]
  /// The layers of each stack, by what stands before the layer's number.
  let layerCounts: [String: Int]
  /// What follows the numbers of layers in names.
  private let restsOfLayers: [String: [Int: [String]]]
  /// For each kind of tensor in a stack, the first layer's that has it.
  private let firstOfKind: [LayerName: Tensor]

  /// - Parameter locate: gives the directory of a path or a repository.
  /// Throws `.adapter`.
  init(
    _ model: MergeRecipe.Model, locate: (String) throws(AdapterError) -> String
  ) throws(RecipeError) {
    name = model.description
    var outputs: [MatchedTensor] = []
    (base, config, adapter, weights, outputs) = try asRecipeError { () throws(AdapterError) in
      let path = try locate(model.base)
      guard let adapter = model.adapter else {
        let base = try BaseModel(path: path)
        return (base, base.config, nil, base.checkpoint.shards.map(\.path), [])
      }
      let directory = try locate(adapter)
      let plan = try MergePlan(base: path, adapter: directory)
      let weights = plan.base.checkpoint.shards.map(\.path) + plan.adapters.map(\.file.path)
      return (plan.base, plan.editedConfig ?? plan.base.config, directory, weights, plan.shards.flatMap(\.outputs))
    }
    if adapter == nil {
      outputs = base.checkpoint.shards.flatMap { file in
        file.entries.map { MatchedTensor(unchanged: $0, in: file) }
      }
    }
    // Names of a file that share a name in the model, as experts' parts do, keep their own.
    var keys: [ExactName: String] = [:]
    if base.fileNames.count == base.checkpoint.names.count {
      for (key, fileName) in base.fileNames { keys[ExactName(fileName)] = key.text }
    }
    var tensors: [ExactName: Tensor] = [:]
    for output in outputs {
      let source: Source =
        output.change.isUnchanged ? .stored(output.source.file, output.source.entry) : .merged(output)
      tensors[ExactName(keys[ExactName(output.item.name)] ?? output.item.name)] = Tensor(
        fileName: output.item.name, dtype: output.item.dtype, shape: output.item.shape, source: source)
    }
    self.tensors = tensors
    names = tensors.keys.map(\.text).sorted(by: naturallyPrecedes)
    var rests: [String: [Int: [String]]] = [:]
    var firstOfKind: [LayerName: Tensor] = [:]
    for name in names {
      guard let layer = LayerName(name) else { continue }
      rests[layer.stack, default: [:]][layer.index, default: []].append(layer.rest)
      if firstOfKind[layer.withIndex(0)] == nil { firstOfKind[layer.withIndex(0)] = tensors[ExactName(name)] }
    }
    self.firstOfKind = firstOfKind
    restsOfLayers = rests
    layerCounts = rests.mapValues { ($0.keys.max() ?? -1) + 1 }
  }

  /// The numbers of the layers that have tensors. A stack may have gaps, such as functions without weights.
  func layers(of stack: String) -> Set<Int> { Set((restsOfLayers[stack] ?? [:]).keys) }

  /// What follows the layer's number in the names of its tensors.
  func rests(of stack: String, layer: Int) -> [String] { restsOfLayers[stack]?[layer] ?? [] }

  /// The tensor of that name, if the model has one of its own.
  subscript(_ name: String) -> Tensor? { tensors[ExactName(name)] }

  /// The tensor that stands for the name because the model's head and embedding are one.
  func tied(_ name: String) -> Tensor? {
    guard let fileName = base.tiedName(name) else { return nil }
    return tensors.values.first { $0.fileName.isExactly(fileName) }
  }

  /// The name that a tensor has in files like this model's. Layers that it does not have are named as those that it has.
  func fileName(of name: String) -> String? {
    if let tensor = self[name] { return tensor.fileName }
    guard let layer = LayerName(name), let alike = firstOfKind[layer.withIndex(0)] else { return nil }
    return LayerName(alike.fileName)?.withIndex(layer.index).name
  }
}

/// The name of a tensor in a layer: what stands before and after the first part that is a number.
struct LayerName: Sendable, Hashable {
  let stack: String
  let index: Int
  let rest: String

  /// Nil for a tensor outside of layers.
  init?(_ name: String) {
    let parts = name.parts(keepingEmpty: true)
    let place = parts.dropFirst().dropLast().firstIndex { part in
      !part.isEmpty && part.utf8.count < 8 && part.utf8.allSatisfy { (0x30...0x39).contains($0) }
    }
    guard let place, let index = Int(parts[place]) else { return nil }
    stack = parts[..<place].joined(separator: ".")
    self.index = index
    rest = parts[(place + 1)...].joined(separator: ".")
  }

  private init(stack: String, index: Int, rest: String) {
    self.stack = stack
    self.index = index
    self.rest = rest
  }

  var name: String { "\(stack).\(index).\(rest)" }

  /// The same tensor of another layer.
  func withIndex(_ index: Int) -> LayerName { LayerName(stack: stack, index: index, rest: rest) }
}
