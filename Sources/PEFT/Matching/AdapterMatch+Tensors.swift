internal import TensorFiles

extension AdapterMatch {
  /// The tensors that come out otherwise than the base has them: in its order, then those that it does not have.
  var changedTensors: [MatchedTensor] {
    var found: [MatchedTensor] = []
    for file in base.checkpoint.shards {
      for entry in file.entries where tensors.changes[entry.name] != nil {
        let tensor = tensor(entry, in: file)
        if !tensor.change.isUnchanged { found.append(tensor) }
      }
    }
    return found + additions
  }

  /// How a tensor of the base comes out.
  func tensor(_ entry: TensorEntry, in file: SafetensorsFile) -> MatchedTensor {
    guard var change = tensors.changes[entry.name] else { return MatchedTensor(unchanged: entry, in: file) }
    if case .replacement = change, !entry.dtype.isComputable { change = .unchanged }
    let stored = StoredTensor(file: file.file, entry: entry)
    return MatchedTensor(
      item: item(entry.name, entry), source: tensors.sources[entry.name] ?? stored, change: change)
  }

  private func item(_ name: String, _ entry: TensorEntry) -> SafetensorsLayout.Item {
    var shape = entry.shape
    if case .grown(let rows)? = tensors.vocabulary[name] { shape[0] = rows }
    return SafetensorsLayout.Item(name: name, dtype: entry.dtype, shape: shape)
  }

  /// Tensors that the base does not have.
  var additions: [MatchedTensor] {
    tensors.added.compactMap { name in
      if case .replacement? = tensors.changes[name], let source = tensors.sources[name] {
        return MatchedTensor(
          item: SafetensorsLayout.Item(name: name, dtype: mainDType ?? source.entry.dtype, shape: source.shape),
          source: source, change: .replacement)
      }
      var stored = base.origin(of: name)
      if case .parted(let kept?, _) = tie, stored == nil { stored = base.tensor(kept) }
      guard let stored else { return nil }
      return MatchedTensor(
        item: item(name, stored.entry), source: tensors.sources[name] ?? stored,
        change: tensors.changes[name] ?? .unchanged)
    }
  }

  /// The dtype of most of the base's bytes: PEFT creates a module that the checkpoint lacks in the model's dtype.
  private var mainDType: DType? {
    var bytes: [DType: Int] = [:]
    for shard in base.checkpoint.shards {
      for entry in shard.entries where entry.dtype.isComputable {
        bytes[entry.dtype, default: 0] += entry.byteRange.count
      }
    }
    return bytes.max { ($0.value, $0.key.rawValue) < ($1.value, $1.key.rawValue) }?.key
  }

  // MARK: Account

  /// Modules of which the match holds the change.
  var matchedCount: Int { Set(tensors.changes.values.flatMap(\.owners)).union(otherModules).count }

  /// Tensors of the base that adapters replace or change beside the weights of modules: saved modules, biases, rows.
  var replacedCount: Int {
    tensors.changes.count { name, change in
      switch change {
      case .replacement: base.checkpoint[name.text] != nil
      case .biasRule, .biases, .rows, .sumOnRows: true
      case .unchanged, .sums, .rules: false
      }
    }
  }

  /// Names of tensors to which more is done than adding: what was there before is lost.
  ///
  /// Cost: reads the adapters' own copies of base weights, and the weights. Throws `.file`.
  func overwrittenNames() throws(AdapterError) -> Set<ExactName> {
    var names: Set<ExactName> = []
    for (name, change) in tensors.changes {
      if let source = tensors.sources[name], change.isAdditive, !change.isOfBias {
        guard let stored = base.origin(of: name.text) else { continue }
        let isSame = try asAdapterError { () throws(TensorFileError) in try source.holdsSameValues(as: stored) }
        if !isSame { names.insert(name) }
      } else if !change.isAdditive || tensors.sources[name] != nil {
        names.insert(name)
      }
    }
    return names
  }
}
