internal import TensorMath

/// The parameters of one output tensor, and the mix that they make.
///
/// Source: mergekit 0.1.5, parameter_resolver.py: a source's own value comes first, then the slice's, the module's, the recipe's; a
/// value whose filters all fail gives way to the next.
struct RecipeParameters {
  let recipe: MergeRecipe
  let slice: MergeRecipe.Slice
  let tensor: String
  let position: Double
  /// The base model, where the method gives it a part of its own.
  let base: MergeRecipe.Model?

  /// The mix, and which parts are its inputs and its base; nil to take the only part as it is.
  ///
  /// - Parameter roundsDensities: true to round densities of draws to bf16, as mergekit's draws in bf16 do.
  /// Throws `.parameterMissing`, `.badValue`, `.inputs`.
  func mix(
    _ parts: [RecipePlanMaker.Part], roundsDensities: Bool
  ) throws(RecipeError) -> (mix: TensorMix, inputs: [Int], base: Int?)? {
    let baseIndex = base.flatMap { base in parts.firstIndex { $0.source.model == base } }
    let others = parts.indices.filter { $0 != baseIndex }
    let all = Array(parts.indices)
    switch recipe.method {
    case .passthrough:
      guard let scale = try number("scale", parts[0]), scale != 1 else { return nil }
      return (.sum([scale]), [0], nil)
    case .linear:
      let weights = try numbers("weight", parts)
      guard try flag("normalize") else { return (.sum(weights), all, nil) }
      let total = weights.reduce(0, +)
      guard total != 0 else {
        throw .inputs(
          path: recipe.path, at: slice.place,
          reason:
            "the weights for tensor '\(tensor)' sum to zero, by which linear divides. Correct them, or set normalize: false."
        )
      }
      return (.sum(weights.map { $0 / total }), all, nil)
    case .slerp:
      guard let baseIndex, let other = others.first else { return nil }
      return (.slerp(t: try number("t", nil) ?? 0), [baseIndex, other], nil)
    case .nuslerp:
      let weights = try numbers("weight", others.map { parts[$0] })
      let total = weights.reduce(0, +)
      let t = abs(total) < 1e-6 ? 0.5 : weights[1] / total
      let vectors: TensorMix.Vectors =
        try flag("nuslerp_flatten") ? .whole : try flag("nuslerp_row_wise") ? .columns : .rows
      return (.nuslerp(t: t, vectors), others, baseIndex)
    case .modelStock:
      return (.stock(try flag("filter_wise") ? .rows : .whole), others, baseIndex)
    case .taskArithmetic, .ties, .dareLinear, .dareTies, .della, .dellaLinear, .breadcrumbs, .breadcrumbsTies:
      // A base alone is what it is.
      guard !others.isEmpty else { return nil }
      var pruning: [ChangeMix.Pruning] = []
      for index in others { pruning.append(try self.pruning(parts[index], roundsDensities)) }
      var mix = ChangeMix(weights: try numbers("weight", others.map { parts[$0] }), pruning: pruning)
      mix.elects = recipe.method.elects
      mix.normalizes = try flag("normalize")
      mix.rescales = try flag("rescale")
      mix.scale = try number("lambda", nil) ?? 1
      return (.changes(mix), others, baseIndex)
    }
  }

  private func pruning(
    _ part: RecipePlanMaker.Part, _ roundsDensities: Bool
  ) throws(RecipeError) -> ChangeMix.Pruning {
    func share(_ name: String) throws(RecipeError) -> Double {
      guard recipe.method.parameters.contains(where: { $0.name == name }) else { return 0 }
      let value = try number(name, part) ?? 0
      guard value >= 0 else { throw bad(name, part, "at least 0", value) }
      return value
    }
    let (density, gamma, epsilon) = (try share("density"), try share("gamma"), try share("epsilon"))
    let rule = recipe.method.pruning(density: density, gamma: gamma, epsilon: epsilon)
    switch rule {
    case .random(let density) where roundsDensities: return .random(density: roundedToBF16(density))
    case .ranked where density > 0 && density < 1:
      guard density + epsilon < 1, density - epsilon > 0 else {
        throw bad(
          "epsilon", part, "less than \(min(density, 1 - density)), so that density ± epsilon lies within 0 and 1",
          epsilon)
      }
      return rule
    default: return rule
    }
  }

  private func bad(_ name: String, _ part: RecipePlanMaker.Part, _ expected: String, _ found: Double) -> RecipeError {
    .badValue(
      path: recipe.path, at: "'\(name)' of \(part.model.name) for tensor '\(part.name)'", expected: expected,
      found: "\(found)")
  }

  // MARK: Values

  private func numbers(_ name: String, _ parts: [RecipePlanMaker.Part]) throws(RecipeError) -> [Double] {
    var values: [Double] = []
    for part in parts { values.append(try number(name, part) ?? 0) }
    return values
  }

  private func flag(_ name: String) throws(RecipeError) -> Bool { try value(name, nil)?.flag ?? false }

  private func number(_ name: String, _ part: RecipePlanMaker.Part?) throws(RecipeError) -> Double? {
    try value(name, part)?.number
  }

  /// - Parameter part: for parameters that each model has its own of.
  private func value(_ name: String, _ part: RecipePlanMaker.Part?) throws(RecipeError) -> RecipeSetting.Value? {
    guard let parameter = recipe.method.parameters.first(where: { $0.name == name }) else { return nil }
    for settings in [part?.source.parameters ?? [:], slice.parameters] + recipe.parameters {
      if let value = settings[name]?.value(for: part?.name ?? tensor, at: position) { return value }
    }
    if let standard = parameter.standard { return standard }
    if parameter.isOptional { return nil }
    throw .parameterMissing(path: recipe.path, parameter: name, tensor: part?.name ?? tensor, model: part?.model.name)
  }
}
