internal import TensorFiles

extension MergePlanMaker {
  /// Checks the shapes of a LoRA against its weight, and says how to add it.
  mutating func update(
    _ module: Adapter.Module, weight name: String, _ scaling: LoRAScaling
  ) throws(AdapterError) -> LoRAUpdate {
    let entry = try weight(name, of: module)
    guard entry.dtype.isComputable else { throw .baseDType(base: base.path, tensor: name, dtype: entry.dtype) }
    let values = try scaling.values(for: module.path)
    let (a, b) = (module.a.shape, module.b.shape)
    let isConvolution = entry.shape.count > 2
    guard a.count == (isConvolution ? entry.shape.count : 2), b.count == a.count, a[0] == values.rank,
      b[1] == values.rank, b.dropFirst(2).allSatisfy({ $0 == 1 })
    else {
      throw .rankMismatch(
        path: adapter.file.path, module: module.path, expectedRank: values.rank, shapeA: a, shapeB: b)
    }
    let (input, output) = (a.dropFirst().reduce(1, *), b[0])
    let isTransposed: Bool
    if isConvolution {
      guard entry.shape == [output] + a.dropFirst() else { throw convolutionMismatch(entry, a, b) }
      isTransposed = false
    } else if module.isEmbedding {
      guard entry.shape == [input, output] else {
        throw .shapeMismatch(base: base.path, tensor: name, found: entry.shape, expected: [input, output])
      }
      isTransposed = true
    } else {
      isTransposed = try orientation(entry, known: kinds[name], input: input, output: output)
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
    guard module.magnitude == nil || adapterWeight == 1 else {
      throw .unsupported(
        path: adapter.file.path, what: "DoRA with weight \(adapterWeight)",
        reason: "its magnitudes fit the whole change only.")
    }
    if let copy = adapter.baseCopies[module.path], baseCopies[name] == nil { baseCopies[name] = (adapter.file, copy) }
    let term = LoRAUpdate.Term(
      file: adapter.file.file, a: module.a, b: module.b, rank: values.rank, scale: values.scale * adapterWeight)
    return LoRAUpdate(
      terms: [term], rows: isTransposed ? input : output, columns: isTransposed ? output : input,
      isTransposed: isTransposed, magnitude: module.magnitude)
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
    let target = name.dropLast("weight".count) + "bias"
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
    biases[entry.name] = LoRABias(
      file: adapter.file.file, entry: bias, scale: try scaling.values(for: module.path).scale * adapterWeight)
  }

  /// Finds the rows of an embedding that a tensor replaces.
  func tokenReplacement(
    _ rows: Adapter.TokenRows, weight name: String
  ) throws(AdapterError) -> TokenReplacement {
    guard let entry = base.checkpoint[name]?.entry, entry.dtype.isComputable, entry.shape.count == 2 else {
      throw .unmatched(base: base.path, modules: [rows.path], matched: 0, total: 1, nearest: [])
    }
    guard adapterWeight == 1 else {
      throw .unsupported(
        path: adapter.file.path, what: "trainable tokens with weight \(adapterWeight)",
        reason: "rows that are stored in full replace the base's and have no weight.")
    }
    let setting = adapter.config.trainableTokenIndices
    let listed =
      setting.elements
      ?? setting.members?.first { rows.path == $0.key || rows.path.hasSuffix(".\($0.key)") }?.value.elements
    let indices = (listed ?? []).compactMap(\.integerValue)
    guard rows.entry.shape == [indices.count, entry.shape[1]], indices.count == listed?.count else {
      throw .shapeMismatch(
        base: adapter.file.path, tensor: rows.entry.name, found: rows.entry.shape,
        expected: [listed?.count ?? 0, entry.shape[1]])
    }
    for index in indices where index < 0 || index >= entry.shape[0] {
      throw .configValue(
        path: adapter.configPath, key: "trainable_token_indices",
        expected: "rows from 0 to \(entry.shape[0] - 1) of '\(name)'", found: "\(index)")
    }
    return TokenReplacement(file: adapter.file.file, entry: rows.entry, indices: indices)
  }

  /// Whether W is stored `[in, out]`. The shape decides; where it is square, the model type, and where that is unknown
  /// the configuration's fan_in_fan_out.
  private func orientation(
    _ entry: TensorEntry, known: BaseModel.Module.Kind?, input: Int, output: Int
  ) throws(AdapterError) -> Bool {
    if input != output {
      if entry.shape == [output, input] { return false }
      if entry.shape == [input, output], known == .transposedLinear || base.family == nil { return true }
    } else if entry.shape == [output, input] {
      return base.family == nil ? adapter.config.fanInFanOut : known == .transposedLinear
    }
    if known == .embedding && entry.shape == [input, output] {
      throw .unsupported(
        path: adapter.file.path, what: "a linear LoRA on the embedding '\(entry.name)'",
        reason: "an embedding takes lora_embedding_A and lora_embedding_B.")
    }
    throw .shapeMismatch(
      base: base.path, tensor: entry.name, found: entry.shape,
      expected: known == .transposedLinear ? [input, output] : [output, input])
  }

  /// W of a module: the adapter's own copy where it has one of the base's dtype and shape, as PEFT loads it.
  private func weight(_ name: String, of module: Adapter.Module) throws(AdapterError) -> TensorEntry {
    guard let stored = storedWeight(name) else {
      throw .unmatched(base: base.path, modules: [module.path], matched: 0, total: 1, nearest: [])
    }
    guard let copy = adapter.baseCopies[module.path] else { return stored }
    guard copy.shape == stored.shape else {
      throw .replacementShape(base: base.path, tensor: name, found: stored.shape, replacement: copy.shape)
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
