internal import LanguageModels
internal import PEFT
internal import TensorFiles
internal import TensorMath

/// How a method's tensors are read to be trained.
struct TrainedMethod: Sendable {
  let type: String
  /// Reads what belongs to a module. Called for all modules, in their order.
  var module: @Sendable (AdapterReader, _ path: String) throws(ModelError) -> Void = { _, _ throws(ModelError) in }
  /// Reads what belongs to no module, before the modules.
  var whole: @Sendable (AdapterReader) throws(ModelError) -> Void = { _ throws(ModelError) in }

  /// All methods that are trained.
  static let all: [TrainedMethod] = [
    .lora, .adaLoRA, .ia3, .lnTuning, .trainableTokens, .promptTuning, .promptEncoder, .prefixTuning, .loHa, .loKr,
    .veRA, .oft, .boft,
  ]

  /// Throws `.unsupported` with the names of those that are.
  static func of(_ config: PeftConfig) throws(ModelError) -> TrainedMethod {
    if let method = all.first(where: { $0.type.isExactly(config.peftType.rawValue) }) { return method }
    throw .unsupported(
      what: "training \(config.peftType.rawValue)",
      reason: "only \(all.map(\.type).joined(separator: ", ")) are trained here.")
  }

  /// Reads an adapter whole: the method's tensors, and modules, biases and tokens' rows that are trained beside it.
  func read(_ reader: AdapterReader) throws(ModelError) {
    guard !(reader.config.ensureWeightTying && reader.model.base.isTied && !reader.config.savedModuleNames.isEmpty)
    else {
      throw .unsupported(
        what: "training with ensure_weight_tying and modules_to_save", reason: "copies of a tied pair stay apart here.")
    }
    try whole(reader)
    for (path, _) in reader.model.root.namedModules() {
      try module(reader, path)
      try Self.tokens(reader, path)
      try Self.saved(reader, path)
    }
  }

  /// A module that is trained as a whole, or its bias alone.
  private static func saved(_ reader: AdapterReader, _ path: String) throws(ModelError) {
    let stem = AdapterReader.stem(path)
    let weight = "\(stem).weight"
    let isSaved = reader.holds(weight) && reader.config.savesModule(path)
    if isSaved, reader.norms[path] == nil { try reader.claim(path) }
    if isSaved, path == reader.frozen.embeddingPath {
      let table = reader.frozen.embedding
      try reader.train(weight, [table.rows, table.columns])
      reader.make { $1.embedding = FullEmbeddingTraining(weight: $0.parameter(weight)) }
    } else if isSaved, let layer = reader.linears[path] {
      try reader.train(weight, [layer.weight.rows, layer.weight.columns])
      reader.make { $1.linears[path] = FullTraining(weight: $0.parameter(weight)) }
    } else if isSaved, reader.norms[path] != nil {
      try norm(reader, path, stem)
    }
    for bias in ["\(stem).base_layer.bias", "\(stem).bias"] where reader.holds(bias) {
      guard reader.norms[path] != nil || reader.linears[path].map({ !$0.bias.isEmpty }) ?? false else { continue }
      try reader.train(bias, [reader.linears[path]?.outFeatures])
      reader.make { $1.biases[path] = $0.parameter(bias) }
    }
  }

  /// A norm's weight and bias, if it has one, under names that begin with `stem`.
  static func norm(_ reader: AdapterReader, _ path: String, _ stem: String) throws(ModelError) {
    guard let norm = reader.norms[path] else { return }
    let (width, hasBias, isLayerNorm) =
      switch norm.rule {
      case .rootMeanSquare(let weight, _, _): (weight.count, false, false)
      case .centred(let weight, let bias, _): (weight.count, !bias.isEmpty, true)
      }
    try reader.train("\(stem).weight", [width], isOfLayerNorm: isLayerNorm)
    if hasBias { try reader.train("\(stem).bias", [width]) }
    reader.make { store, parts in
      parts.normWeights[path] = store.parameter("\(stem).weight")
      if hasBias { parts.biases[path] = store.parameter("\(stem).bias") }
    }
  }

  /// Rows of tokens of the embedding, or of a head that has a table of its own.
  private static func tokens(_ reader: AdapterReader, _ path: String) throws(ModelError) {
    let stem = AdapterReader.stem(path)
    let names = ["\(stem).token_adapter.trainable_tokens_delta", "\(stem).trainable_tokens_delta"]
    guard let name = names.first(where: reader.holds) else { return }
    let (isEmbedding, isHead) = (path == reader.frozen.embeddingPath, path == reader.frozen.head.path)
    guard isEmbedding || isHead else { return }
    let width = reader.frozen.embedding.columns
    let setting =
      reader.config.settings["token_indices"] ?? reader.config.settings["trainable_token_indices"]
      ?? reader.config.trainableTokenIndices
    let listed =
      setting.elements ?? setting.members?.first { path.isExactly($0.key) || path.endsExactly(".\($0.key)") }?.value
      .elements ?? []
    let tokens = listed.compactMap(\.integerValue)
    let vocabulary = reader.frozen.embedding.rows
    let isTied = reader.model.base.isTied
    if isHead, isTied {
      try reader.alias(
        name, of: name.replacing(stem, with: AdapterReader.stem(reader.frozen.embeddingPath)), [nil, width])
      return
    }
    try reader.train(name, [tokens.count, width])
    try reader.claim(path)
    if isEmbedding, isTied { try reader.claim(reader.frozen.head.path) }
    guard tokens.allSatisfy({ $0 >= 0 && $0 < vocabulary }) else {
      throw .unsupported(
        what: "training '\(name)'", reason: "its tokens lie outside the model's vocabulary of \(vocabulary).")
    }
    let head = reader.frozen.head.path
    reader.make { store, parts in
      let rows = store.parameter(name)
      if isEmbedding { parts.embedding = TokenRowsTraining(rows: rows, tokens: tokens) }
      if isHead || isTied { parts.linears[head] = TokenRowsHeadTraining(rows: rows, tokens: tokens) }
    }
  }

  static let trainableTokens = TrainedMethod(type: "TRAINABLE_TOKENS")

  static let lnTuning = TrainedMethod(
    type: "LN_TUNING",
    module: { reader, path throws(ModelError) in
      let stem = "\(AdapterReader.stem(path)).ln_tuning_layers"
      if reader.holds("\(stem).weight") { try norm(reader, path, stem) }
    })
}

extension AdapterReader {
  /// Takes the copy of a targeted table's weight that PEFT stores, which must be the base's.
  ///
  /// Throws `.unsupported` for another one.
  func carryBase(_ path: String, _ weight: WeightMatrix) throws(ModelError) {
    let name = "\(Self.stem(path)).base_layer.weight"
    guard holds(name) else { return }
    guard try carry(name, [weight.rows, weight.columns]) == weight.values else {
      throw .unsupported(what: "training '\(name)'", reason: "it differs from the base's weight, which is not trained.")
    }
  }
}
