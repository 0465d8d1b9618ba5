internal import TensorFiles

extension MergePlanMaker {
  /// Checks the shapes of a LoRA against its weight, and says how to add it.
  mutating func update(
    _ module: Adapter.Module, weight name: String, _ scaling: LoRAScaling
  ) throws(AdapterError) -> LoRAUpdate {
    let entry = try weight(name, of: module)
    guard entry.dtype.isComputable else { throw .baseDType(base: base.path, tensor: name, dtype: entry.dtype) }
    let shape = try weightShape(entry, of: module)
    let values = try scaling.values(for: scalingPath(of: module), leastExtent: shape.min() ?? 0)
    let (factorA, factorB) = try factors(module, weightShape: shape, rank: values.rank)
    let (input, output) = (factorA.columns, factorB.rows)
    let isTransposed: Bool
    if shape.count > 2 {
      guard shape == [output] + module.a.shape.dropFirst() else {
        throw convolutionMismatch(entry, module.a.shape, module.b.shape)
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
      isTransposed = try orientation(entry, shape, known: kinds[name], input: input, output: output)
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
      if a[1] != shape[1], a[1].multipliedReportingOverflow(by: blocks) == (shape[1], false) {
        viewA = FactorView(file, module.a, rows: rank, columns: shape[1], blockCount: blocks)
      }
      if b[1] != rank, b[1] * blocks == rank, b[0] % blocks == 0 {
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

  private func convolutionMismatch(_ entry: TensorEntry, _ a: [Int], _ b: [Int]) -> AdapterError {
    if entry.shape.count == a.count, entry.shape[1] < a[1], a[1] % max(1, entry.shape[1]) == 0 {
      return .unsupported(
        path: adapter.file.path, what: "LoRA on the grouped convolution '\(entry.name)'",
        reason: "PEFT itself refuses to merge it.")
    }
    return .shapeMismatch(base: base.path, tensor: entry.name, found: entry.shape, expected: [b[0]] + a.dropFirst())
  }

  /// Resolves the bias that lora_B's bias is added to.
  mutating func addBias(
    _ bias: TensorEntry, of module: Adapter.Module, weight name: String, _ scaling: LoRAScaling
  ) throws(AdapterError) {
    let target = name.hasSuffix("in_proj_weight") ? name.dropLast(6) + "bias" : name.dropLast("weight".count) + "bias"
    guard let entry = base.checkpoint[String(target)]?.entry else {
      throw .unsupported(
        path: adapter.file.path, what: "the bias of lora_B of '\(module.path)'",
        reason: "the base layer has no bias to add it to; PEFT refuses too.")
    }
    guard entry.dtype.isComputable else { throw .baseDType(base: base.path, tensor: entry.name, dtype: entry.dtype) }
    guard entry.shape == bias.shape, entry.shape == [module.b.shape[0]] else {
      throw .shapeMismatch(base: base.path, tensor: entry.name, found: entry.shape, expected: bias.shape)
    }
    try own(entry.name, module.path)
    let scale = try scaling.values(for: module.path).scale * adapterWeight
    try requireFinite(scale, for: entry.name, of: module.path)
    biases[entry.name] = LoRABias(file: adapter.file.file, entry: bias, scale: scale)
  }

  /// Finds the rows of an embedding that a tensor replaces.
  func tokenReplacement(
    _ rows: Adapter.TokenRows, weight name: String
  ) throws(AdapterError) -> TokenReplacement {
    let setting = adapter.config.trainableTokenIndices
    let listed =
      setting.elements
      ?? setting.members?.first { rows.path.isExactly($0.key) || rows.path.endsExactly(".\($0.key)") }?.value.elements
    return try tokenReplacement(rows, weight: name, listed: listed ?? [], key: "trainable_token_indices")
  }

  /// The rows with the indices that a key of the configuration lists.
  func tokenReplacement(
    _ rows: Adapter.TokenRows, weight name: String, listed: [JSONValue], key: String
  ) throws(AdapterError) -> TokenReplacement {
    guard let entry = base.checkpoint[name]?.entry, entry.dtype.isComputable, entry.shape.count == 2 else {
      throw .unmatched(base: base.path, modules: [rows.path], matched: 0, total: 1, nearest: [])
    }
    try requireWhole(
      "'\(rows.path)' with trainable tokens",
      because: "rows that are stored in full replace the base's and have no weight.",
      lost: "rows that are stored in full have taken the place of the base's, which the model no longer holds.")
    let indices = listed.compactMap(\.integerValue)
    guard rows.entry.shape == [indices.count, entry.shape[1]], indices.count == listed.count else {
      throw .shapeMismatch(
        base: adapter.file.path, tensor: rows.entry.name, found: rows.entry.shape,
        expected: [listed.count, entry.shape[1]])
    }
    guard rows.entry.dtype.isComputable else {
      throw .adapterDType(path: adapter.file.path, tensor: rows.entry.name, dtype: rows.entry.dtype)
    }
    let rowCount = grownRows[name] ?? entry.shape[0]
    for index in indices where index < 0 || index >= rowCount {
      throw .configValue(
        path: adapter.configPath, key: key, expected: "rows from 0 to \(rowCount - 1) of '\(name)'",
        found: "\(index)")
    }
    return TokenReplacement(file: adapter.file.file, entry: rows.entry, indices: indices)
  }

  /// Whether W is stored `[in, out]`. The shape decides; where it is square, the model type, and where that is unknown
  /// the configuration's fan_in_fan_out.
  private func orientation(
    _ entry: TensorEntry, _ shape: [Int], known: BaseModel.Module.Kind?, input: Int, output: Int
  ) throws(AdapterError) -> Bool {
    if input != output {
      if shape == [output, input] { return false }
      if shape == [input, output], known == .transposedLinear || base.family == nil { return true }
    } else if shape == [output, input] {
      return base.family == nil ? adapter.config.fanInFanOut : known == .transposedLinear
    }
    if known == .embedding && shape == [input, output] {
      throw .unsupported(
        path: adapter.file.path, what: "a linear LoRA on the embedding '\(entry.name)'",
        reason: "an embedding takes lora_embedding_A and lora_embedding_B.")
    }
    throw .shapeMismatch(
      base: base.path, tensor: entry.name, found: entry.shape,
      expected: known == .transposedLinear ? [input, output] : [output, input])
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
