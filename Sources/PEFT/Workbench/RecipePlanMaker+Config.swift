internal import TensorFiles

extension RecipePlanMaker {
  /// Keys of config.json that say how many layers there are.
  private static let countKeys = ["num_hidden_layers", "n_layer", "n_layers", "num_layers"]
  /// Keys that hold a value for each layer.
  private static let listKeys = [
    "layer_types", "mlp_layer_types", "layers_block_type", "no_rope_layers", "attention_layers",
  ]

  /// The reference's config.json with the result's dtype, layers and ties.
  mutating func outputConfig(_ outputs: [RecipePlan.Output]) -> JSONValue? {
    guard var config = reference.config, config.members != nil else { return nil }
    if let dtype = Self.mainDType(outputs.map(\.item)),
      recipe.outDType ?? recipe.dtype != nil || dtype != Self.mainDType(of: reference)
    {
      let key = config["dtype"] == nil && config["torch_dtype"] != nil ? "torch_dtype" : "dtype"
      config[key] = .string(dtype == .bf16 ? "bfloat16" : dtype == .f16 ? "float16" : "float32")
    }
    if recipe.isSliced { setLayers(&config) }
    if hasOwnHead, reference.base.asksForTie, reference.base.family?.tiesMore == false,
      models.values.contains(where: { !$0.base.isTied })
    {
      config["tie_word_embeddings"] = .bool(false)
    }
    return config
  }

  private mutating func setLayers(_ config: inout JSONValue) {
    guard let layerCount, let old = reference.layerCounts.values.first else { return }
    let nested = ["text_config"].first { config[$0]?.members != nil }
    let places = [nil, nested].filter { place in
      let level = place.flatMap { config[$0] } ?? config
      return Self.countKeys.contains { level[$0]?.integerValue == old }
    }
    guard let place = places.first else {
      if layerCount != old {
        notes.append("config.json has no key with the number of layers: set it to \(layerCount) by hand")
      }
      return
    }
    var level = place.flatMap { config[$0] } ?? config
    for key in Self.countKeys where level[key]?.integerValue == old { level[key] = .integer(layerCount) }
    for key in Self.listKeys where level[key]?.elements?.count == old {
      var values: [JSONValue] = []
      for slice in recipe.slices {
        guard let source = slice.sources.first, let model = models[source.model], let range = source.layers else {
          continue
        }
        let other = place.flatMap { model.config?[$0] } ?? model.config
        guard let list = other?[key]?.elements, range.upperBound <= list.count else { continue }
        values += list[range]
      }
      if values.count == layerCount { level[key] = .array(values) }
    }
    if let place { config[place] = level } else { config = level }
  }

  /// The dtype of most bytes.
  private static func mainDType(_ items: [SafetensorsLayout.Item]) -> DType? {
    var bytes: [DType: Int] = [:]
    for item in items where item.dtype.isComputable { bytes[item.dtype, default: 0] += item.byteCount }
    return bytes.max { $0.value < $1.value }?.key
  }

  private static func mainDType(of model: RecipeModel) -> DType? {
    mainDType(
      model.names.compactMap { name in
        model[name].map { SafetensorsLayout.Item(name: name, dtype: $0.dtype, shape: $0.shape) }
      })
  }

  // MARK: The tokenizer

  /// The directory whose tokenizer is copied; nil for the reference's own.
  ///
  /// A source is given only to be copied: throws `.vocabularies` where mergekit would make a new vocabulary.
  mutating func tokenizerDirectory() throws(RecipeError) -> String? {
    guard recipe.tokenizer != nil else { return nil }
    guard let directory = tokenizerPath ?? reference.base.directory else { return nil }
    guard let wanted = try vocabulary(in: directory) else {
      throw .missing(path: directory, at: "", key: "tokenizer.json")
    }
    for name in recipe.models {
      // A model without a tokenizer is taken to have the same, as mergekit takes it.
      guard let model = models[name], let other = model.base.directory, let found = try vocabulary(in: other) else {
        continue
      }
      if found != wanted {
        throw .vocabularies(
          path: recipe.path, key: "tokenizer_source", first: directory, second: model.name,
          reason: "the tokens of two models differ")
      }
    }
    guard let embedding = reference.base.family?.embedding, let rows = reference["\(embedding).weight"]?.shape.first
    else { return directory }
    guard rows >= wanted.count else {
      throw .vocabularies(
        path: recipe.path, key: "tokenizer_source", first: "\(rows) rows", second: "\(wanted.count) tokens",
        reason: "there are more tokens than rows of the embedding")
    }
    if rows > wanted.count {
      notes.append(
        "the embedding keeps its \(rows - wanted.count) rows beyond the tokenizer's tokens, which mergekit cuts off")
    }
    return directory
  }

  /// The tokens of a tokenizer.json with their numbers; nil if there is none.
  private func vocabulary(in directory: String) throws(RecipeError) -> [ExactName: Int]? {
    let json = try asRecipeError { () throws(AdapterError) in
      try asAdapterError { () throws(TensorFileError) in
        try ModelFiles.path("tokenizer.json", in: directory).map { path throws(TensorFileError) in
          try JSONValue(contentsOf: path)
        }
      }
    }
    guard let json else { return nil }
    var tokens: [ExactName: Int] = [:]
    for member in json["model"]?["vocab"]?.members ?? [] { tokens[ExactName(member.key)] = member.value.integerValue }
    for (index, element) in (json["model"]?["vocab"]?.elements ?? []).enumerated() {
      if let token = element.elements?.first?.stringValue { tokens[ExactName(token)] = index }
    }
    for token in json["added_tokens"]?.elements ?? [] {
      if let content = token["content"]?.stringValue { tokens[ExactName(content)] = token["id"]?.integerValue }
    }
    return tokens
  }

  // MARK: The record

  /// The metadata of the result's files: how it was made, and of what.
  func metadata() throws(RecipeError) -> [JSONValue.Member] {
    var inputs: [JSONValue] = []
    for name in recipe.models {
      guard let model = models[name] else { continue }
      let fingerprint = try asRecipeError { () throws(AdapterError) in try model.base.fingerprint() }
      inputs.append(
        .object(
          [.init("model", .string(FileSystem.lastComponent(name.base))), .init("fingerprint", .string(fingerprint))]
            + (name.adapter.map { [JSONValue.Member("adapter", .string(FileSystem.lastComponent($0)))] } ?? [])))
    }
    var hash = SHA256()
    hash.add(recipe.text)
    let record = JSONValue.object([
      .init("method", .string(recipe.method.rawValue)), .init("recipe_sha256", .string(hash.finish())),
      .init("models", .array(inputs)), .init("version", .string(Provenance.version)),
    ])
    return [JSONValue.Member(RecipeCard.metadataKey, .string(record.compactText))]
  }
}
