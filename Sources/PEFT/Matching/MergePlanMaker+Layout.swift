internal import TensorFiles

extension MergePlanMaker {
  /// The output's files: the base's own, or filled anew up to the greatest size.
  func shards(provenance: Provenance) throws(AdapterError) -> [MergePlan.Shard] {
    var shards = MergePlan.shards(of: base.checkpoint, provenance: provenance) { output($0, $1) }
    let last = shards.removeLast()
    shards.append(
      MergePlan.Shard(name: last.name, outputs: last.outputs + added.compactMap(addition), metadata: last.metadata))
    return try MergePlan.resharded(shards, limit: options.maxShardBytes)
  }

  private func output(_ file: SafetensorsFile, _ entry: TensorEntry) -> MergePlan.Output {
    var shape = entry.shape
    if let rows = grownRows[entry.name] { shape[0] = rows }
    let item = SafetensorsLayout.Item(name: entry.name, dtype: entry.dtype, shape: shape)
    if let source = changedSource(entry.name, file, entry) { return MergePlan.Output(item: item, source: source) }
    let stored = replacements[entry.name].map { ($0.file, $0.replacement.entry) } ?? (file, entry)
    if let change = biasChanges[entry.name] {
      return MergePlan.Output(item: item, source: .changeBias(stored.0, stored.1, change))
    }
    if let bias = biases[entry.name] {
      return MergePlan.Output(item: item, source: .addBias(stored.0, stored.1, bias))
    }
    if let replacement = replacements[entry.name] {
      guard entry.dtype.isComputable else {
        return MergePlan.Output(item: item, source: .copy(replacement.file, replacement.replacement.entry))
      }
      return MergePlan.Output(item: item, source: .replace(replacement.file, replacement.replacement.entry))
    }
    return MergePlan.Output(item: item, source: .copy(file, entry))
  }

  /// How a weight of the base, or the adapter's own copy of it, is changed; nil if it is not.
  private func changedSource(_ name: String, _ file: SafetensorsFile, _ entry: TensorEntry) -> MergePlan.Source? {
    let (file, entry) = baseCopies[name] ?? (file, entry)
    if let update = updates[name] {
      if let rows = tokens[name] { return .mergeRows(file, entry, update[0], rows) }
      return .merge(file, entry, update)
    }
    if let change = changes[name] { return .change(file, entry, change) }
    return tokens[name].map { .replaceRows(file, entry, $0) }
  }

  private func addition(_ name: String) -> MergePlan.Output? {
    if let replacement = replacements[name] {
      let stored = replacement.replacement.entry
      let dtype = baseDType ?? stored.dtype
      return MergePlan.Output(
        item: SafetensorsLayout.Item(name: name, dtype: dtype, shape: stored.shape),
        source: .replace(replacement.file, replacement.replacement.entry))
    }
    guard let entry = storedWeight(name) ?? keptHead.flatMap({ base.checkpoint[$0]?.entry }),
      let location = base.checkpoint[entry.name]
    else { return nil }
    var shape = entry.shape
    if let rows = grownRows[name] { shape[0] = rows }
    let shard = base.checkpoint.shards[location.shard]
    return MergePlan.Output(
      item: SafetensorsLayout.Item(name: name, dtype: entry.dtype, shape: shape),
      source: changedSource(name, shard, entry) ?? .copy(shard, entry))
  }

  /// The dtype of most of the base's bytes: PEFT creates a module that the checkpoint lacks in the model's dtype.
  private var baseDType: DType? {
    var bytes: [DType: Int] = [:]
    for shard in base.checkpoint.shards {
      for entry in shard.entries where entry.dtype.isComputable {
        bytes[entry.dtype, default: 0] += entry.byteRange.count
      }
    }
    return bytes.max { ($0.value, $0.key.rawValue) < ($1.value, $1.key.rawValue) }?.key
  }

  /// config.json as the output needs it: the head untied, the vocabulary's new size, other layers. Nil if the base's own
  /// serves.
  func editedConfig(original: JSONValue?) -> JSONValue? {
    guard var config = base.config, config.members != nil else { return nil }
    if unties { Self.set("tie_word_embeddings", .bool(false), in: &config) }
    if let rows = grownRows.values.max() { Self.set("vocab_size", .integer(rows), in: &config) }
    return config == original ? nil : config
  }

  /// Sets a key at the top level, and in `text_config` where it stands there.
  private static func set(_ key: String, _ value: JSONValue, in config: inout JSONValue) {
    if var text = config["text_config"], text[key] != nil {
      text[key] = value
      config["text_config"] = text
      if config[key] == nil && key != "tie_word_embeddings" { return }
    }
    config[key] = value
  }
}
