internal import TensorFiles
internal import TensorMath

/// The steps of making a recipe's plan.
struct RecipePlanMaker {
  /// One model's part in one output tensor.
  struct Part {
    let model: RecipeModel
    /// The tensor's name in the model.
    let name: String
    let source: MergeRecipe.Source
  }

  let recipe: MergeRecipe
  let models: [MergeRecipe.Model: RecipeModel]
  /// The model whose configuration and names the result has.
  let reference: RecipeModel
  var notes: [String] = []
  /// Layers of the result, if it has one stack of them.
  var layerCount: Int?
  /// True if the result has a head of its own, whatever the reference's configuration says of ties.
  var hasOwnHead = false
  /// The directory of the tokenizer that the recipe asks for, if it is a model's of its own.
  let tokenizerPath: String?

  init(
    _ recipe: MergeRecipe, locate: (String) throws(AdapterError) -> String
  ) throws(RecipeError) {
    self.recipe = recipe
    var models: [MergeRecipe.Model: RecipeModel] = [:]
    for model in recipe.models { models[model] = try RecipeModel(model, locate: locate) }
    self.models = models
    if case .model(let model)? = recipe.tokenizer {
      tokenizerPath = try asRecipeError { () throws(AdapterError) in try locate(model.base) }
    } else {
      tokenizerPath = nil
    }
    let first = recipe.base ?? recipe.slices[0].sources[0].model
    reference = models[first]!
    try checkArchitectures()
  }

  private func checkArchitectures() throws(RecipeError) {
    func kind(_ model: RecipeModel) -> String? {
      guard let type = model.config?["model_type"]?.stringValue else { return nil }
      return ([type] + [model.config?["architectures"]?.elements?.first?.stringValue].compactMap { $0 })
        .joined(separator: ", ")
    }
    for name in recipe.models {
      guard let model = models[name] else { continue }
      if let one = kind(reference), let other = kind(model), one != other {
        throw .architectures(first: reference.name, type: one, second: model.name, other: other)
      }
      // Whole layers can be moved as they are stored; nothing can be computed on codes.
      if recipe.method != .passthrough, let quantization = model.base.quantization {
        throw .unsupported(
          path: model.name, what: "a quantized model (\(quantization))",
          reason: "use the 16-bit checkpoint that it was made from.")
      }
    }
  }

  // MARK: Outputs

  /// All tensors of the result, in the order of the model: what comes before the layers, the layers, and the rest.
  mutating func outputs() throws(RecipeError) -> [RecipePlan.Output] {
    var slices: [(slice: MergeRecipe.Slice, sources: [MergeRecipe.Source])] = []
    for slice in recipe.slices { slices.append((slice, try sources(of: slice))) }
    let stacks = try stacks(slices.map(\.sources))
    let inLayers = Set(stacks)
    var before: [RecipePlan.Output] = []
    var after: [RecipePlan.Output] = []
    for (slices, isBefore) in [(slices[0], true), (slices[slices.count - 1], false)] {
      let parts = slices.sources.compactMap { models[$0.model] }
      let names = Set(parts.flatMap(\.names).map { ExactName($0) }).map(\.text).sorted(by: naturallyPrecedes)
      for name in names where LayerName(name).map({ !inLayers.contains($0.stack) }) ?? true {
        guard Self.standsBeforeLayers(name) == isBefore else { continue }
        let parts = slices.sources.map { Part(model: models[$0.model]!, name: name, source: $0) }
        guard let output = try output(name, parts, slices.slice, position: 0) else { continue }
        if isBefore { before.append(output) } else { after.append(output) }
      }
    }
    var layers: [RecipePlan.Output] = []
    for stack in stacks {
      var next = 0
      for (slice, sources) in slices {
        layers += try self.layers(of: stack, slice, sources, next: &next)
        // The same layers may stand in many slices.
        guard layers.count <= SafetensorsFile.tensorLimit else {
          throw .adapter(
            .file(
              .tooManyTensors(path: recipe.path, count: layers.count, limit: SafetensorsFile.tensorLimit)))
        }
      }
      if stacks.count == 1 { layerCount = next }
    }
    return before + layers + after
  }

  /// The slice's sources; of all models of a recipe without slices the base is one too.
  private func sources(of slice: MergeRecipe.Slice) throws(RecipeError) -> [MergeRecipe.Source] {
    let method = recipe.method
    var sources = slice.sources
    let base = slice.base ?? recipe.base
    if !recipe.isSliced, let base, !sources.contains(where: { $0.model == base }) {
      sources.append(MergeRecipe.Source(model: base, layers: nil, parameters: [:]))
    }
    func refuse(_ reason: String) -> RecipeError { .inputs(path: recipe.path, at: slice.place, reason: reason) }
    var seen: Set<MergeRecipe.Model> = []
    if let twice = sources.first(where: { !seen.insert($0.model).inserted }) {
      throw refuse("the model \(twice.model) stands twice.")
    }
    let hasBase = base.map { base in sources.contains { $0.model == base } } ?? false
    switch method.base {
    case .ignored: break
    case .required where base == nil: throw refuse("\(method.rawValue) needs 'base_model'.")
    case .required, .optional:
      if let base, !hasBase { throw refuse("the base model \(base) is not among the sources.") }
    }
    let count = sources.count
    guard method.inputCount.contains(count), method != .nuslerp || count - (hasBase ? 1 : 0) == 2 else {
      let needed =
        switch method {
        case .slerp: "two models, of which one is the base"
        case .nuslerp: "two models beside a base"
        case .modelStock: "two or more models beside the base"
        case .passthrough: "one model for each slice"
        default: "at least one model"
        }
      throw refuse("\(method.rawValue) takes \(needed); there are \(count)\(hasBase ? ", the base counted" : "").")
    }
    return sources
  }

  /// What stands before the numbers of layers, for every stack of layers that the models have.
  private func stacks(_ slices: [[MergeRecipe.Source]]) throws(RecipeError) -> [String] {
    let all = Set(slices.joined().flatMap { models[$0.model]!.layerCounts.keys.map { ExactName($0) } }).map(\.text)
      .sorted(by: naturallyPrecedes)
    if recipe.isSliced, all.count != 1 {
      throw .unsupported(
        path: recipe.path, what: "'slices' of models with \(all.count) stacks of layers",
        reason: all.isEmpty ? "they have no layers." : "use 'models' (\(all.joined(separator: ", "))).")
    }
    return all
  }

  private mutating func layers(
    of stack: String, _ slice: MergeRecipe.Slice, _ sources: [MergeRecipe.Source], next: inout Int
  ) throws(RecipeError) -> [RecipePlan.Output] {
    var ranges: [Range<Int>] = []
    for source in sources {
      let count = models[source.model]!.layerCounts[stack] ?? 0
      let range = source.layers ?? 0..<count
      guard range.upperBound <= count else {
        throw .layers(
          path: recipe.path, at: slice.place,
          reason:
            "layer_range [\(range.lowerBound), \(range.upperBound)] of \(source.model), which has \(count) layers.")
      }
      ranges.append(range)
    }
    guard let count = ranges.first?.count, ranges.allSatisfy({ $0.count == count }) else {
      let found = zip(sources, ranges).map { "\($1.count) of \($0.model)" }.joined(separator: ", ")
      throw .layers(
        path: recipe.path, at: slice.place,
        reason: "all models must give the same number of layers; there are \(found).")
    }
    var outputs: [RecipePlan.Output] = []
    // Numbers without tensors are passed over where all layers are taken; a slice must have all that it names.
    let numbers =
      recipe.isSliced
      ? Array(0..<count) : sources.reduce(into: Set()) { $0.formUnion(models[$1.model]!.layers(of: stack)) }.sorted()
    for index in numbers {
      if !recipe.isSliced { next = index }
      let position = count > 1 ? Double(index) / Double(count - 1) : 1
      var rests: Set<ExactName> = []
      for (source, range) in zip(sources, ranges) {
        rests.formUnion(models[source.model]!.rests(of: stack, layer: range.lowerBound + index).map { ExactName($0) })
      }
      guard !rests.isEmpty else {
        throw .layers(
          path: recipe.path, at: slice.place,
          reason: "layer \(ranges[0].lowerBound + index) of \(sources[0].model) has no tensors.")
      }
      for rest in rests.map(\.text).sorted(by: naturallyPrecedes) {
        let parts = zip(sources, ranges).map { source, range in
          Part(
            model: models[source.model]!, name: "\(stack).\(range.lowerBound + index).\(rest)", source: source)
        }
        if let output = try output("\(stack).\(next).\(rest)", parts, slice, position: position) {
          outputs.append(output)
        }
      }
      next += 1
    }
    return outputs
  }

  /// True for what feeds the layers: it is taken from the first slice's models, and all else outside of layers from the last's.
  private static func standsBeforeLayers(_ name: String) -> Bool {
    name.parts().contains { part in
      part.contains("embed") && part != "embed_out" || ["wte", "wpe", "shared", "relative_pe"].contains(part)
    }
  }
}
