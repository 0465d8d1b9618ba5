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

  private func output(_ file: SafetensorsFile, _ entry: TensorEntry) -> MatchedTensor {
    var shape = entry.shape
    if let rows = grownRows[entry.name] { shape[0] = rows }
    let item = SafetensorsLayout.Item(name: entry.name, dtype: entry.dtype, shape: shape)
    let base = StoredTensor(file: file.file, entry: entry)
    if let changed = changed(item, base) { return changed }
    let replaced = replacements[entry.name].map { StoredTensor(file: $0.file.file, entry: $0.replacement.entry) }
    let source = replaced ?? base
    if let change = biasChanges[entry.name] {
      return MatchedTensor(item: item, source: source, change: .biasRule(change))
    }
    if let addends = biases[entry.name] { return MatchedTensor(item: item, source: source, change: .biases(addends)) }
    return MatchedTensor(
      item: item, source: source, change: replaced != nil && entry.dtype.isComputable ? .replacement : .unchanged)
  }

  /// How a weight of the base, or the adapter's own copy of it, is changed; nil if it is not.
  private func changed(_ item: SafetensorsLayout.Item, _ base: StoredTensor) -> MatchedTensor? {
    let source = baseCopies[item.name].map { StoredTensor(file: $0.file.file, entry: $0.entry) } ?? base
    let change: TensorChange
    if let update = updates[item.name] {
      if let rows = tokens[item.name] { change = .sumOnRows(update[0], rows) } else { change = .sums(update) }
    } else if let rules = changes[item.name] {
      change = .rules(rules)
    } else if let rows = tokens[item.name] {
      change = .rows(rows)
    } else {
      return nil
    }
    return MatchedTensor(item: item, source: source, change: change)
  }

  private func addition(_ name: String) -> MatchedTensor? {
    if let replacement = replacements[name] {
      let stored = replacement.replacement.entry
      return MatchedTensor(
        item: SafetensorsLayout.Item(name: name, dtype: baseDType ?? stored.dtype, shape: stored.shape),
        source: StoredTensor(file: replacement.file.file, entry: stored), change: .replacement)
    }
    guard let entry = storedWeight(name) ?? keptHead.flatMap({ base.checkpoint[$0]?.entry }),
      let location = base.checkpoint[entry.name]
    else { return nil }
    var shape = entry.shape
    if let rows = grownRows[name] { shape[0] = rows }
    let item = SafetensorsLayout.Item(name: name, dtype: entry.dtype, shape: shape)
    let source = StoredTensor(file: base.checkpoint.shards[location.shard].file, entry: entry)
    return changed(item, source) ?? MatchedTensor(item: item, source: source, change: .unchanged)
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
