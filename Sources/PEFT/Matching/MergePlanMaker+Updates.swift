internal import TensorFiles

extension MergePlanMaker {
  /// Checks the shapes of a LoRA against its weight, and says how to add it.
  mutating func update(
    _ module: Adapter.Module, weight name: String, _ scaling: LoRAScaling
  ) throws(AdapterError) -> LoRAUpdate {
    let entry = try weight(name, of: module)
    guard entry.dtype.isComputable else { throw .baseDType(base: base.path, tensor: name, dtype: entry.dtype) }
    let shape = try weightShape(entry, of: module)
    // No initialisation decomposes an embedding.
    let values = try scaling.values(
      for: scalingPath(of: module), leastExtent: module.isEmbedding ? .max : shape.min() ?? 0)
    let (factorA, factorB) = try factors(module, weightShape: shape, rank: values.rank)
    let (input, output) = (factorA.columns, factorB.rows)
    let isTransposed: Bool
    if shape.count > 2 {
      guard shape == [output] + module.a.shape.dropFirst() else {
        throw .shapeMismatch(
          base: base.path, tensor: entry.name, found: entry.shape, expected: [output] + module.a.shape.dropFirst())
      }
      isTransposed = false
    } else if module.isEmbedding {
      guard shape == [input, output] else {
        throw .shapeMismatch(base: base.path, tensor: name, found: entry.shape, expected: [input, output])
      }
      isTransposed = true
    } else if adapter.config.targetedParameters(in: module.path).contains("weight") {
      // A parameter that is targeted as such is [out, in] to PEFT, whatever layer it belongs to.
      guard shape == [output, input] else {
        throw .shapeMismatch(base: base.path, tensor: name, found: shape, expected: [output, input])
      }
      isTransposed = false
    } else {
      isTransposed = try self.isTransposed(entry, shape, of: module, input: input, output: output)
    }
    if let magnitude = module.magnitude, magnitude.elementCount != output {
      throw .shapeMismatch(
        base: adapter.file.path, tensor: magnitude.name, found: magnitude.shape, expected: [output])
    }
    guard (module.magnitude != nil) == adapter.config.useDoRA else {
      throw .configContradiction(
        path: adapter.configPath,
        reason: "use_dora is \(adapter.config.useDoRA), but module '\(module.path)' has "
          + (module.magnitude == nil ? "no lora_magnitude_vector." : "a lora_magnitude_vector."))
    }
    if module.magnitude != nil || module.diagonal != nil, isAttention(module, weight: name) {
      throw .unsupported(
        path: adapter.file.path,
        what: "\(module.magnitude == nil ? "KaSA" : "DoRA") on the attention '\(module.path)'",
        reason: "PEFT has neither for torch's MultiheadAttention, so nothing says what it would compute.")
    }
    if module.magnitude != nil {
      try requireWhole(
        "DoRA on '\(module.path)'", because: "its magnitudes fit the whole change only.",
        lost: "its magnitudes have taken the place of the weight's own, which the model no longer holds.")
    }
    if let copy = adapter.baseCopies[module.path] {
      if unmerges {
        if !unusedCopies.contains(name) { unusedCopies.append(name) }
      } else if copy.shape == shape, baseCopies[name] == nil {
        baseCopies[name] = (adapter.file, copy)
      }
    }
    let file = adapter.file.file
    var term = LoRAUpdate.Term(
      left: isTransposed ? factorA.transposed : factorB, right: isTransposed ? factorB.transposed : factorA,
      scale: values.scale * adapterWeight)
    if let diagonal = try self.diagonal(module, rank: values.rank) {
      term.diagonal = FactorView(file, diagonal, rows: values.rank, columns: 1)
    }
    return LoRAUpdate(
      terms: [term], rows: isTransposed ? input : output, columns: isTransposed ? output : input,
      isTransposed: isTransposed,
      magnitude: module.magnitude.map { FactorView(file, $0, rows: output, columns: 1) },
      removal: try removal(module, values, shape: shape, isTransposed: isTransposed))
  }

  /// True for torch's MultiheadAttention, or its output projection.
  private func isAttention(_ module: Adapter.Module, weight name: String) -> Bool {
    name.hasSuffix("in_proj_weight") || adapter.config.attention(ofOutput: module.path) != nil
  }

  /// True for a LoRA on an attention's output projection that the LoRA on the attention brings along already.
  func isHiddenByAttention(_ module: Adapter.Module) -> Bool {
    guard module.path.hasSuffix(".out_proj"), adapter.config.attention(ofOutput: module.path) == nil else {
      return false
    }
    let inner = module.path.dropLast(".out_proj".count) + ".base_layer.out_proj"
    return modulePaths.contains(String(inner)) && adapter.config.attention(ofOutput: String(inner)) != nil
  }

  /// What rank and alpha patterns are matched with: the module's path, or that of its targeted parameter.
  private func scalingPath(of module: Adapter.Module) -> String {
    adapter.config.targetedParameters(in: module.path).contains("weight") ? "\(module.path).weight" : module.path
  }

  /// The shape of W as the adapter has it: an embedding or a head may have other rows than the base's.
  private func weightShape(_ entry: TensorEntry, of module: Adapter.Module) throws(AdapterError) -> [Int] {
    guard !unmerges, let copy = adapter.baseCopies[module.path], copy.shape != entry.shape else { return entry.shape }
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
        path: adapter.file.path, what: "LoRA on '\(module.path)'",
        reason: "it is a convolution with groups, which PEFT cannot merge either.")
    }
    let mismatch = AdapterError.rankMismatch(
      path: adapter.file.path, module: module.path, expectedRank: rank, shapeA: a, shapeB: b)
    guard a.count == (shape.count > 2 ? shape.count : 2), b.count == a.count, a[0] == rank,
      b.dropFirst(2).allSatisfy({ $0 == 1 })
    else { throw mismatch }
    let file = adapter.file.file
    var viewA = FactorView(file, module.a, rows: rank, columns: a.dropFirst().reduce(1, *))
    var viewB = FactorView(file, module.b, rows: b[0], columns: rank)
    let blocks = adapter.config.useBDLoRA["nblocks"]?.integerValue ?? 1
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
    guard (module.diagonal != nil) == (adapter.config.kasaConfig != .null) else {
      throw .configContradiction(
        path: adapter.configPath,
        reason: "kasa_config and the tensor lora_diag of module '\(module.path)' need each other; one is missing.")
    }
    if let diagonal = module.diagonal, diagonal.shape != [rank] {
      throw .shapeMismatch(base: adapter.file.path, tensor: diagonal.name, found: diagonal.shape, expected: [rank])
    }
    return module.diagonal
  }

  /// What the initialisation took out of this weight.
  private func removal(
    _ module: Adapter.Module, _ values: LoRAScaling.Values, shape: [Int], isTransposed: Bool
  ) throws(AdapterError) -> BaseRemoval? {
    let name = adapter.config.initLoRAWeights.stringValue?.lowercased()
    let title = name == "pissa" ? "PiSSA" : name == "olora" ? "OLoRA" : "KaSA"
    if unmerges, name == "pissa" || name == "olora" || adapter.config.kasaConfig != .null {
      throw .irreversible(
        path: adapter.file.path, what: "\(title) on '\(module.path)'",
        reason:
          "what its initialisation took out of the weight is computed from the base, which the model no longer holds.")
    }
    let removal: BaseRemoval
    if adapter.config.kasaConfig != .null {
      removal = .minor(rank: values.rank)
    } else if module.isEmbedding {
      // PEFT leaves an embedding as it is, whatever the initialisation.
      return nil
    } else if name != nil, adapter.baseCopies[module.path] != nil {
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
    if base.isTied, module.path == base.family?.head || module.path == base.family?.embedding {
      reason = "it changes a weight that head and embedding share."
    } else if shape.count != 2 || module.isEmbedding {
      reason = "it is defined for linear layers only."
    } else if values.rank > (shape.min() ?? 0) - (adapter.config.kasaConfig == .null ? 0 : 1) {
      reason = "the rank \(values.rank) leaves nothing of a weight \(shape)."
    } else if adapterWeight != 1 {
      reason = "its change of the base weight has no weight \(adapterWeight)."
    } else if isTransposed, case .principal = removal {
      reason = nil
    } else if isTransposed {
      reason = "PEFT computes it for weights stored [out, in] only."
    }
    guard let reason else { return removal }
    throw .unsupported(
      path: adapter.file.path,
      what: "\(title) on '\(module.path)'",
      reason: reason)
  }

  /// Resolves the bias that lora_B's bias is added to.
  mutating func addBias(
    _ bias: TensorEntry, of module: Adapter.Module, weight name: String, _ scaling: LoRAScaling
  ) throws(AdapterError) {
    guard !name.hasSuffix("in_proj_weight") else {
      notes.append("'\(module.path)': PEFT does not use the bias of an attention's lora_B, which is left out here too")
      return
    }
    let target = String(name.dropLast("weight".count) + "bias")
    guard let entry = base.checkpoint[target]?.entry else {
      throw .unsupported(
        path: adapter.file.path, what: "the bias of lora_B of '\(module.path)'",
        reason: "the base layer has no bias to add it to; PEFT refuses too.")
    }
    guard entry.dtype.isComputable else { throw .baseDType(base: base.path, tensor: entry.name, dtype: entry.dtype) }
    guard entry.shape == bias.shape, entry.shape == [module.b.shape[0]] else {
      throw .shapeMismatch(base: base.path, tensor: entry.name, found: entry.shape, expected: bias.shape)
    }
    // The attention's merge leaves the bias to the projection's own, which adds it once.
    let path = adapter.config.attention(ofOutput: module.path) ?? module.path
    let scale = try scaling.values(for: path).scale
    try add(
      AddedBias(source: StoredTensor(file: adapter.file.file, entry: bias), scale: scale * adapterWeight),
      to: entry.name, of: module.path)
  }

  /// W of a module in the base.
  private func weight(_ name: String, of module: Adapter.Module) throws(AdapterError) -> TensorEntry {
    guard let stored = storedWeight(name) else {
      throw .unmatched(base: base.path, modules: [module.path], matched: 0, total: 1, nearest: [])
    }
    return stored
  }

  /// The base's tensor behind an output name; a tied head's is the embedding's.
  func storedWeight(_ name: String) -> TensorEntry? {
    if let entry = base.checkpoint[name]?.entry { return entry }
    guard let tied = tiedHead, "\(tied.path).weight" == name else { return nil }
    return base.checkpoint[tied.weightName]?.entry
  }
}
