public import LanguageModels
public import PEFT
internal import TensorFiles
internal import TensorMath

extension TrainableModel {
  /// A model with an adapter to be trained: fresh, or one to go on from.
  ///
  /// Throws `.unsupported` for what is not trained here, `.adapter` where the adapter does not fit the model.
  public convenience init(
    _ model: CausalLanguageModel, adapter: StoredAdapter, seed: UInt64 = 42
  ) throws(ModelError) {
    let config = adapter.config
    guard config.peftType == .lora else {
      throw .unsupported(what: "training \(config.peftType.rawValue)", reason: "only LORA is trained here.")
    }
    let scaling = try withAdapterErrors({ () throws(AdapterError) in
      try LoRAScaling(config, path: PeftConfig.fileName)
    })
    let frozen = try model.frozen()
    let linears = Dictionary(
      (frozen.layers.flatMap(\.linears) + [frozen.head]).map { ($0.path, $0) }, uniquingKeysWith: { first, _ in first })
    let file = adapter.weights
    var initial: [ParameterStore.Initial] = []
    var makers: [(path: String, make: (ParameterStore) -> any LinearAdapter)] = []
    var left = Set(file.entries.map(\.name))
    func take(_ name: String, _ shape: [Int?]) throws(ModelError) -> ParameterStore.Initial {
      guard let entry = file[name] else {
        throw .adapter(.tensorMissing(path: file.path, module: "a module", tensor: name))
      }
      guard entry.shape.count == shape.count, zip(entry.shape, shape).allSatisfy({ $1 == nil || $0 == $1 }),
        let format = entry.dtype.format
      else {
        throw .adapter(
          .methodShape(path: file.path, tensor: name, found: entry.shape, expected: [shape.map { $0 ?? 0 }]))
      }
      left.remove(name)
      let bytes: [UInt8]
      do { bytes = try file.file.bytes(entry.byteRange) } catch { throw .file(error) }
      return ParameterStore.Initial(name: name, shape: entry.shape, values: Float.decoded(bytes, format))
    }
    for (path, _) in model.root.namedModules() {
      let stem = "base_model.model.\(path)"
      guard let layer = linears[path], let first = file["\(stem).lora_A.weight"] else { continue }
      guard first.shape.count == 2 else {
        throw .adapter(
          .methodShape(path: file.path, tensor: first.name, found: first.shape, expected: [[0, layer.inFeatures]]))
      }
      let rank = first.shape[0]
      let a = try take("\(stem).lora_A.weight", [rank, layer.inFeatures])
      let b = try take("\(stem).lora_B.weight", [layer.outFeatures, rank])
      initial += [a, b]
      if config.loraBias { initial.append(try take("\(stem).lora_B.bias", [layer.outFeatures])) }
      let scale = try withAdapterErrors({ () throws(AdapterError) in try scaling.values(for: path).scale })
      let dropout = config.dropout?.doubleValue ?? 0
      let hasBias = config.loraBias
      makers.append(
        (
          path,
          { store in
            LoRATraining(
              a: store.parameter("\(stem).lora_A.weight"), b: store.parameter("\(stem).lora_B.weight"),
              bias: hasBias ? store.parameter("\(stem).lora_B.bias") : nil, scale: Float(scale), dropout: dropout)
          }
        ))
    }
    if let name = left.min() {
      throw .unsupported(
        what: "training '\(name)'", reason: "only LoRA's factors on layers of the decoder are trained here.")
    }
    let workspace = Workspace()
    let store = ParameterStore(initial, in: workspace)
    let adapters = Dictionary(makers.map { ($0.path, $0.make(store)) }, uniquingKeysWith: { first, _ in first })
    self.init(frozen, parameters: store, adapters: adapters, seed: seed, workspace: workspace)
  }
}
