internal import LanguageModels
internal import PEFT
internal import TensorFiles
internal import TensorMath

extension TrainedMethod {
  /// LoRA and DoRA on linear layers, LoRA on the embedding.
  static let lora = TrainedMethod(
    type: "LORA",
    module: { reader, path throws(ModelError) in
      let stem = AdapterReader.stem(path)
      if reader.holds("\(stem).lora_A.weight"), let layer = reader.linears[path] {
        try linear(reader, path, stem, layer)
      }
      if reader.holds("\(stem).lora_embedding_A"), path == reader.frozen.embeddingPath {
        try embedding(reader, path, stem)
      }
    },
    whole: { reader throws(ModelError) in
      let config = reader.config
      let variants: [(String, Bool)] = [
        ("layer_replication", !config.layerReplication.isEmptyOrFalse),
        ("alora_invocation_tokens", config.aloraInvocationTokens != .null), ("use_qalora", config.useQALoRA),
        ("kasa_config", config.kasaConfig != .null), ("velora_config", config.veloraConfig != .null),
        ("monteclora_config", config.montecloraConfig != .null), ("arrow_config", config.arrowConfig != .null),
        ("use_bdlora", !config.useBDLoRA.isEmptyOrFalse),
        ("target_parameters", !(config.targetParameters ?? []).isEmpty),
      ]
      if let (name, _) = variants.first(where: \.1) {
        throw .unsupported(what: "training with \(name)", reason: "this variant of LoRA is not trained here.")
      }
      guard !["pissa", "olora"].contains(config.initLoRAWeights.stringValue?.lowercased() ?? "") else {
        throw .unsupported(
          what: "training with init_lora_weights \(config.initLoRAWeights.compactText)",
          reason: "it changes the base's weights; convert the adapter to a plain one first.")
      }
    })

  private static func scale(_ reader: AdapterReader, _ path: String) throws(ModelError) -> Float {
    let values = try withAdapterErrors({ () throws(AdapterError) in
      try LoRAScaling(reader.config, path: PeftConfig.fileName).values(for: path)
    })
    return Float(values.scale)
  }

  private static func linear(
    _ reader: AdapterReader, _ path: String, _ stem: String, _ layer: FrozenLinear
  ) throws(ModelError) {
    try reader.claim(path)
    let scale = try scale(reader, path)
    let dropout = reader.config.dropout?.doubleValue ?? 0
    let (a, b) = ("\(stem).lora_A.weight", "\(stem).lora_B.weight")
    let rank = reader.shape(a).first ?? 0
    try reader.train(a, [nil, layer.inFeatures])
    let frozenB = try second(reader, b, [layer.outFeatures, rank])
    try reader.carryBase(path, layer.weight)
    let magnitude = "\(stem).lora_magnitude_vector"
    if reader.config.useDoRA {
      guard !reader.config.loraBias else {
        throw .unsupported(what: "training with use_dora and lora_bias", reason: "PEFT does not add such a bias.")
      }
      try reader.train(magnitude, [layer.outFeatures])
      reader.make { store, parts in
        parts.linears[path] = DoRATraining(
          a: store.parameter(a), b: store.parameter(b), magnitude: store.parameter(magnitude), scale: scale,
          dropout: dropout)
      }
      return
    }
    let bias = "\(stem).lora_B.bias"
    let hasBias = reader.config.loraBias
    if hasBias { try reader.train(bias, [layer.outFeatures]) }
    reader.make { store, parts in
      parts.linears[path] = LoRATraining(
        a: store.parameter(a), b: frozenB.map { store.frozen($0, rows: layer.outFeatures) } ?? store.parameter(b),
        bias: hasBias ? store.parameter(bias) : nil, scale: scale,
        dropout: dropout)
    }
  }

  /// Has B trained; the values of one that stays as it is: MiCA's.
  ///
  /// Source: peft/tuners/lora/variants.py `MiCALinearVariant`, `MiCAEmbeddingVariant`.
  private static func second(
    _ reader: AdapterReader, _ name: String, _ shape: [Int]
  ) throws(ModelError) -> [Float]? {
    guard reader.config.initLoRAWeights.stringValue?.lowercased() == "mica" else {
      try reader.train(name, shape)
      return nil
    }
    return try reader.carry(name, shape)
  }

  private static func embedding(_ reader: AdapterReader, _ path: String, _ stem: String) throws(ModelError) {
    try reader.claim(path)
    let table = reader.frozen.embedding
    let (a, b) = ("\(stem).lora_embedding_A", "\(stem).lora_embedding_B")
    let rank = reader.shape(a).first ?? 0
    try reader.train(a, [nil, table.rows])
    let frozenB = try second(reader, b, [table.columns, rank])
    try reader.carryBase(path, table)
    let magnitude = "\(stem).lora_magnitude_vector"
    let hasMagnitude = reader.config.useDoRA
    if hasMagnitude { try reader.train(magnitude, [table.columns]) }
    let scale = try scale(reader, path)
    reader.make { store, parts in
      let factors = EmbeddingLoRATraining(
        a: store.parameter(a), b: frozenB.map { store.frozen($0, rows: table.columns) } ?? store.parameter(b),
        scale: scale)
      parts.embedding =
        hasMagnitude
        ? EmbeddingDoRATraining(factors, magnitude: store.parameter(magnitude), table: table) : factors
    }
  }
}
