internal import TensorFiles
internal import TensorMath

extension RecipePlanMaker {
  /// Tensors that are computed from the configuration: a model may lack them.
  private static let bufferEndings = ["rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", "position_ids"]

  /// The output of a name; nil if no model has a tensor of its own for it.
  ///
  /// - Parameter position: of the layer, from 0 to 1.
  mutating func output(
    _ name: String, _ parts: [Part], _ slice: MergeRecipe.Slice, position: Double
  ) throws(RecipeError) -> RecipePlan.Output? {
    guard let holder = parts.first(where: { $0.model[$0.name] != nil }) else { return nil }
    var found: [(part: Part, tensor: RecipeModel.Tensor)] = []
    var absent: Part?
    for part in parts {
      if let tensor = part.model[part.name] ?? part.model.tied(part.name) {
        found.append((part, tensor))
      } else {
        absent = part
      }
    }
    let isBuffer = Self.bufferEndings.contains { name.hasSuffix($0) }
    if let absent, !isBuffer {
      throw .tensorMissing(model: absent.model.name, tensor: absent.name, other: holder.model.name)
    }
    if let head = reference.base.family?.head, name == "\(head).weight" { hasOwnHead = true }
    let fileName =
      reference.fileName(of: name) ?? LayerName(name).flatMap { layer in
        holder.model[holder.name].flatMap { LayerName($0.fileName)?.withIndex(layer.index).name }
      } ?? name
    let shapes = found.map { (model: $0.part.model.name, shape: $0.tensor.shape) }
    guard shapes.allSatisfy({ $0.shape == shapes[0].shape }) else { throw .shapes(tensor: name, found: shapes) }
    let first = found[0].tensor
    let dtypes = found.map(\.tensor.dtype)
    guard dtypes.allSatisfy({ [.bf16, .f16, .f32].contains($0) }), !isBuffer else {
      return try copied(fileName, name, found)
    }
    // As torch promotes: two different half formats need f32.
    let computed = recipe.dtype ?? (dtypes.allSatisfy { $0 == dtypes[0] } ? dtypes[0] : .f32)
    let dtype = recipe.outDType ?? computed
    let item = SafetensorsLayout.Item(name: fileName, dtype: dtype, shape: first.shape)
    let parameters = RecipeParameters(
      recipe: recipe, slice: slice, tensor: name, position: position,
      base: recipe.method.base == .ignored ? nil : slice.base ?? recipe.base)
    let made = try parameters.mix(found.map(\.part), roundsDensities: computed == .bf16)
    guard let made else {
      // Nothing is changed: the bytes themselves are what is wanted, unless they are to be of another dtype.
      if case .stored(let file, let entry) = first.source, dtype == first.dtype {
        return RecipePlan.Output(item: item, source: .copy(file, entry))
      }
      let mixing = RecipePlan.Mixing(mix: .sum([1]), inputs: [first.source], base: nil, label: first.fileName)
      return RecipePlan.Output(item: item, source: .mix(mixing))
    }
    let label = found.map { ExactName($0.tensor.fileName) }.max()?.text ?? name
    let mixing = RecipePlan.Mixing(
      mix: made.mix, inputs: made.inputs.map { found[$0].tensor.source },
      base: made.base.map { found[$0].tensor.source },
      label: label)
    return RecipePlan.Output(item: item, source: .mix(mixing))
  }

  /// A tensor that is not computed on: all models that have it must have the same bytes.
  private func copied(
    _ fileName: String, _ name: String, _ found: [(part: Part, tensor: RecipeModel.Tensor)]
  ) throws(RecipeError) -> RecipePlan.Output {
    let first = found[0]
    let names = found.map(\.part.model.name)
    guard case .stored(let file, let entry) = first.tensor.source else {
      throw .notMixed(tensor: name, dtype: first.tensor.dtype.rawValue, models: names)
    }
    for (_, tensor) in found.dropFirst() {
      let isSame = try asRecipeError { () throws(AdapterError) in
        try asAdapterError { () throws(TensorFileError) in
          guard case .stored(let other, let second) = tensor.source, second.dtype == entry.dtype else { return false }
          return try file.holdsSameBytes(entry.byteRange, second.byteRange, of: other)
        }
      }
      if !isSame { throw .notMixed(tensor: name, dtype: tensor.dtype.rawValue, models: names) }
    }
    let item = SafetensorsLayout.Item(name: fileName, dtype: entry.dtype, shape: entry.shape)
    return RecipePlan.Output(item: item, source: .copy(file, entry))
  }
}
