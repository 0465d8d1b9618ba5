internal import TensorFiles

/// Says how the LoRA of a module changes its weight, by the shapes of both.
struct LoRAMatcher {
  private let part: MatchedAdapter
  private let scaling: LoRAScaling
  private var config: PeftConfig { part.config }
  private var path: String { part.file.path }
  private var base: MatchedBase { part.base }

  init(_ part: MatchedAdapter, _ scaling: LoRAScaling) {
    (self.part, self.scaling) = (part, scaling)
  }

  /// Checks the shapes of a LoRA against its weight, and says how to add it.
  func update(
    _ module: Adapter.Module, weight name: String, _ squares: inout SquareWeights
  ) throws(AdapterError) -> LoRAUpdate {
    guard let entry = base.stored(name) else {
      throw .unmatched(base: base.path, modules: [module.path], matched: 0, total: 1, nearest: [])
    }
    guard entry.dtype.isComputable else { throw .baseDType(base: base.path, tensor: name, dtype: entry.dtype) }
    let shape = try weightShape(entry, of: module)
    // No initialisation decomposes an embedding.
    let values = try scaling.values(
      for: scalingPath(of: module), leastExtent: module.isEmbedding ? .max : shape.min() ?? 0)
    let (factorA, factorB) = try factors(module, weightShape: shape, rank: values.rank)
    let (input, output) = (factorA.columns, factorB.rows)
    let isTransposed: Bool
    if let plain = plainOrientation(of: module, weight: shape, input: input, output: output) {
      guard shape == plain.shape else {
        throw .shapeMismatch(base: base.path, tensor: entry.name, found: entry.shape, expected: plain.shape)
      }
      isTransposed = plain.isTransposed
    } else {
      isTransposed = try part.isTransposed(entry, shape, of: module, input: input, output: output, &squares)
    }
    try checkMagnitude(module, weight: name, output: output)
    var term = LoRAUpdate.Term(
      left: isTransposed ? factorA.transposed : factorB, right: isTransposed ? factorB.transposed : factorA,
      scale: values.scale * part.weight)
    if let diagonal = try self.diagonal(module, rank: values.rank) {
      term.diagonal = FactorView(part.file.file, diagonal, rows: values.rank, columns: 1)
    }
    return LoRAUpdate(
      terms: [term], rows: isTransposed ? input : output, columns: isTransposed ? output : input,
      isTransposed: isTransposed,
      magnitude: module.magnitude.map { FactorView(part.file.file, $0, rows: output, columns: 1) },
      removal: try removal(module, values, shape: shape, isTransposed: isTransposed))
  }

  /// The weight's shape, and whether that is `[in, out]`, where the kind of the layer says so; nil for linear layers.
  private func plainOrientation(
    of module: Adapter.Module, weight shape: [Int], input: Int, output: Int
  ) -> (shape: [Int], isTransposed: Bool)? {
    if shape.count > 2 { return ([output] + module.a.shape.dropFirst(), false) }
    if module.isEmbedding { return ([input, output], true) }
    // A parameter that is targeted as such is [out, in] to PEFT, whatever layer it belongs to.
    return config.targetedParameters(in: module.path).contains("weight") ? ([output, input], false) : nil
  }

  private func checkMagnitude(
    _ module: Adapter.Module, weight name: String, output: Int
  ) throws(AdapterError) {
    if let magnitude = module.magnitude, magnitude.elementCount != output {
      throw .shapeMismatch(base: path, tensor: magnitude.name, found: magnitude.shape, expected: [output])
    }
    guard (module.magnitude != nil) == config.useDoRA else {
      throw .configContradiction(
        path: part.adapter.configPath,
        reason: "use_dora is \(config.useDoRA), but module '\(module.path)' has "
          + (module.magnitude == nil ? "no lora_magnitude_vector." : "a lora_magnitude_vector."))
    }
    // torch's MultiheadAttention, or its output projection.
    let isAttention = name.hasSuffix("in_proj_weight") || config.attention(ofOutput: module.path) != nil
    if module.magnitude != nil || module.diagonal != nil, isAttention {
      throw .unsupported(
        path: path, what: "\(module.magnitude == nil ? "KaSA" : "DoRA") on the attention '\(module.path)'",
        reason: "PEFT has neither for torch's MultiheadAttention, so nothing says what it would compute.")
    }
    guard module.magnitude != nil else { return }
    try part.requireWhole(
      "DoRA on '\(module.path)'", because: "its magnitudes fit the whole change only.",
      lost: "its magnitudes have taken the place of the weight's own, which the model no longer holds.")
  }

  /// What rank and alpha patterns are matched with: the module's path, or that of its targeted parameter.
  private func scalingPath(of module: Adapter.Module) -> String {
    config.targetedParameters(in: module.path).contains("weight") ? "\(module.path).weight" : module.path
  }

  /// The shape of W as the adapter has it: an embedding or a head may have other rows than the base's.
  private func weightShape(_ entry: TensorEntry, of module: Adapter.Module) throws(AdapterError) -> [Int] {
    guard !base.holdsAdapters, let copy = part.adapter.baseCopies[module.path], copy.shape != entry.shape else {
      return entry.shape
    }
    guard copy.shape.count == 2, entry.shape.count == 2, copy.shape[1] == entry.shape[1] else {
      throw .replacementShape(base: base.path, tensor: entry.name, found: entry.shape, replacement: copy.shape)
    }
    return copy.shape
  }

  /// A `[r, in]` and B `[out, r]` of a module, kernels counted as inputs.
  private func factors(
    _ module: Adapter.Module, weightShape shape: [Int], rank: Int
  ) throws(AdapterError) -> (a: FactorView, b: FactorView) {
    let (a, b) = (module.a.shape, module.b.shape)
    if shape.count > 2, a.count == shape.count, shape[1] > 0, a[1] > shape[1], a[1].isMultiple(of: shape[1]) {
      throw .unsupported(
        path: path, what: "LoRA on '\(module.path)'",
        reason: "it is a convolution with groups, which PEFT cannot merge either.")
    }
    let mismatch = AdapterError.rankMismatch(
      path: path, module: module.path, expectedRank: rank, shapeA: a, shapeB: b)
    guard a.count == (shape.count > 2 ? shape.count : 2), b.count == a.count, a[0] == rank,
      b.dropFirst(2).allSatisfy({ $0 == 1 })
    else { throw mismatch }
    let file = part.file.file
    var viewA = FactorView(file, module.a, rows: rank, columns: a.dropFirst().reduce(1, *))
    var viewB = FactorView(file, module.b, rows: b[0], columns: rank)
    let blocks = config.useBDLoRA["nblocks"]?.integerValue ?? 1
    // Which side is packed shows in the shapes: the configuration's names may be patterns.
    if blocks > 1, shape.count == 2, rank % blocks == 0 {
      if a[1] != shape[1], checkedProduct(a[1], blocks) == shape[1] {
        viewA = FactorView(file, module.a, rows: rank, columns: shape[1], blockCount: blocks)
      }
      if b[1] != rank, checkedProduct(b[1], blocks) == rank, b[0] % blocks == 0 {
        viewB = FactorView(file, module.b, rows: b[0], columns: rank, blockCount: blocks)
      }
    }
    guard viewB.blockCount > 1 || b[1] == rank else { throw mismatch }
    return (viewA, viewB)
  }

  private func diagonal(_ module: Adapter.Module, rank: Int) throws(AdapterError) -> TensorEntry? {
    guard (module.diagonal != nil) == (config.kasaConfig != .null) else {
      throw .configContradiction(
        path: part.adapter.configPath,
        reason: "kasa_config and the tensor lora_diag of module '\(module.path)' need each other; one is missing.")
    }
    if let diagonal = module.diagonal, diagonal.shape != [rank] {
      throw .shapeMismatch(base: path, tensor: diagonal.name, found: diagonal.shape, expected: [rank])
    }
    return module.diagonal
  }

  /// What the initialisation took out of this weight.
  private func removal(
    _ module: Adapter.Module, _ values: LoRAScaling.Values, shape: [Int], isTransposed: Bool
  ) throws(AdapterError) -> BaseRemoval? {
    let name = config.initLoRAWeights.stringValue?.lowercased()
    let title = name == "pissa" ? "PiSSA" : name == "olora" ? "OLoRA" : "KaSA"
    if base.holdsAdapters, name == "pissa" || name == "olora" || config.kasaConfig != .null {
      throw .irreversible(
        path: path, what: "\(title) on '\(module.path)'",
        reason:
          "what its initialisation took out of the weight is computed from the base, which the model no longer holds.")
    }
    let removal: BaseRemoval
    if config.kasaConfig != .null {
      removal = .minor(rank: values.rank)
    } else if module.isEmbedding {
      // PEFT leaves an embedding as it is, whatever the initialisation.
      return nil
    } else if name != nil, part.adapter.baseCopies[module.path] != nil {
      // The copy of the base weight that PEFT stored is what was left of it.
      return nil
    } else if name == "pissa" {
      removal = .principal(rank: values.rank)
    } else if name == "olora" {
      removal = .firstColumns(rank: values.rank, scale: values.scale)
    } else {
      return nil
    }
    var reason: String?
    if base.model.isTied, module.path == base.model.family?.head || module.path == base.embedding {
      reason = "it changes a weight that head and embedding share."
    } else if shape.count != 2 || module.isEmbedding {
      reason = "it is defined for linear layers only."
    } else if values.rank > (shape.min() ?? 0) - (config.kasaConfig == .null ? 0 : 1) {
      reason = "the rank \(values.rank) leaves nothing of a weight \(shape)."
    } else if part.weight != 1 {
      reason = "its change of the base weight has no weight \(part.weight)."
    } else if isTransposed, case .principal = removal {
      reason = nil
    } else if isTransposed {
      reason = "PEFT computes it for weights stored [out, in] only."
    }
    guard let reason else { return removal }
    throw .unsupported(
      path: path,
      what: "\(title) on '\(module.path)'",
      reason: reason)
  }

  /// What lora_B's bias adds to the layer's bias `target`.
  func addend(_ bias: TensorEntry, to target: String, of module: Adapter.Module) throws(AdapterError) -> AddedBias {
    guard let entry = base.checkpoint[target]?.entry else {
      throw .unsupported(
        path: path, what: "the bias of lora_B of '\(module.path)'",
        reason: "the base layer has no bias to add it to; PEFT refuses too.")
    }
    try part.requireComputable(entry)
    guard entry.shape == bias.shape, entry.shape == [module.b.shape[0]] else {
      throw .shapeMismatch(base: base.path, tensor: entry.name, found: entry.shape, expected: bias.shape)
    }
    // The attention's merge leaves the bias to the projection's own, which adds it once.
    let scale = try scaling.values(for: config.attention(ofOutput: module.path) ?? module.path).scale
    return AddedBias(source: part.stored(bias), scale: scale * part.weight)
  }
}
