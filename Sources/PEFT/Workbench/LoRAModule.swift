internal import TensorFiles
internal import TensorMath

/// One module of a LoRA: its factors, whatever kind of layer it is on, and what multiplies them.
struct LoRAModule: Sendable {
  /// The module's path as the file's names have it.
  @ExactName var path: String
  /// What rank and alpha patterns are matched with: the path, or that of a parameter of experts or of an attention.
  let key: String
  let a: TensorEntry
  let b: TensorEntry
  let isEmbedding: Bool
  /// The bias of lora_B.
  let bias: TensorEntry?
  let values: LoRAScaling.Values
  /// B·A without the scale: one for each expert, one of any other module.
  let changes: [FactoredChange]

  var experts: Int { changes.count }

  /// The shape of lora_A for another rank.
  func shapeA(rank: Int) -> [Int] { [experts * rank] + a.shape.dropFirst() }

  /// The shape of lora_B for another rank.
  func shapeB(rank: Int) -> [Int] { [b.shape[0], experts * rank] + b.shape.dropFirst(2) }

  /// ‖B·A‖², all experts together. Throws `.file`.
  func squares() throws(AdapterError) -> Double {
    var sum = 0.0
    for change in changes { sum += try change.squares() }
    return sum
  }

  /// The modules of a LoRA without DoRA, KaSA and the like: what is s·B·A and no more.
  ///
  /// Throws `.notPossible` for any other, `.rankMismatch`, and what `LoRAScaling` throws.
  static func all(of adapter: Adapter) throws(AdapterError) -> [LoRAModule] {
    let scaling = try LoRAScaling(adapter.config, path: adapter.configPath)
    var modules: [LoRAModule] = []
    for module in adapter.modules { modules.append(try LoRAModule(module, of: adapter, scaling)) }
    return modules
  }

  private init(_ module: Adapter.Module, of adapter: Adapter, _ scaling: LoRAScaling) throws(AdapterError) {
    let (a, b) = (module.a, module.b)
    let key = Self.key(of: module.path, in: adapter)
    let values = try scaling.values(for: key)
    let mismatch = AdapterError.rankMismatch(
      path: adapter.file.path, module: module.path, expectedRank: values.rank, shapeA: a.shape, shapeB: b.shape)
    guard a.shape.count >= 2, b.shape.count >= 2, a.shape[0] > 0, a.shape[0] == b.shape[1],
      b.shape.dropFirst(2).allSatisfy({ $0 == 1 }), a.elementCount > 0, b.elementCount > 0
    else { throw mismatch }
    // An initialisation that decomposes the weight is clipped to its lesser extent.
    let rank = a.shape[0] < values.rank ? a.shape[0] : values.rank
    let experts = a.shape[0] / rank
    guard experts * rank == a.shape[0], experts == 1 || key != module.path else { throw mismatch }
    let (output, input) = (b.shape[0], a.shape.dropFirst().reduce(1, *))
    let file = adapter.file.file
    changes = (0..<experts).map { expert in
      // lora_A holds the experts below each other, lora_B interleaved.
      let left =
        experts == 1
        ? FactorView(file, b, rows: output, columns: rank)
        : FactorView(
          file, b, rows: output, columns: rank, offset: expert, rowStride: rank * experts, columnStride: experts)
      let right = FactorView(
        file, a, rows: rank, columns: input, offset: expert * rank * input, rowStride: input, columnStride: 1)
      return FactoredChange(
        output: output, input: input, products: [.stored(LoRAUpdate.Term(left: left, right: right, scale: 1))])
    }
    self.key = key
    self.a = a
    self.b = b
    self.values = LoRAScaling.Values(rank: rank, alpha: values.alpha, scale: values.scale)
    isEmbedding = module.isEmbedding
    bias = module.bias
    _path = ExactName(module.path)
  }

  private static func key(of path: String, in adapter: Adapter) -> String {
    if let attention = adapter.config.attention(ofOutput: path) { return attention }
    let (container, depth) = ParameterWrapping.unwrapped(path)
    let parameters = ParameterWrapping.inOrder(adapter.config.targetedParameters(in: container))
    guard !parameters.isEmpty else { return path }
    // The last parameter is wrapped outermost.
    let wrappers = ParameterWrapping.count(of: container, in: adapter)
    let place = wrappers - 1 - depth
    return "\(container).\(parameters[parameters.indices.contains(place) ? place : 0])"
  }
}

extension Adapter {
  /// Refuses a LoRA whose change is more than s·B·A, so that its factors alone are not enough.
  ///
  /// - Parameter allowsMagnitudes: true to let DoRA pass.
  /// Throws `.optionNeeded`.
  func requirePlainLoRA(allowsMagnitudes: Bool = false, to purpose: String) throws(AdapterError) {
    guard let extra = config.loraExtra else { return }
    let what: (name: String, reason: String)
    switch extra {
    case .otherMethod: what = ("peft_type \(config.peftType.rawValue)", "its tensors are no factors B and A.")
    case .kasa:
      what = ("KaSA (kasa_config)", "it takes out of the base weight as many components as it has ranks.")
    case .removal(let name):
      what = ("an adapter with init_lora_weights \"\(name)\"", "it takes out of the base weight what its rank says.")
    case .blocks:
      what = ("block-diagonal LoRA (use_bdlora)", "only the base tells which of its factors are packed.")
    case .magnitudes:
      guard !allowsMagnitudes else { return }
      what = ("DoRA (use_dora)", "its magnitudes fit this change and this base weight only.")
    }
    throw .optionNeeded(
      path: configPath, what: "\(purpose) \(what.name)", reason: what.reason, option: .giveBaseForPlainLoRA)
  }
}
