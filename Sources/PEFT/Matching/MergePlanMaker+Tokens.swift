internal import TensorFiles

extension MergePlanMaker {
  /// Rows of an embedding or a head that the adapter in work trains and stores in full.
  struct TrainedRows {
    /// The module's path.
    let path: String
    let entry: TensorEntry
    /// Their indices as the configuration has them, and under which key.
    let listed: [JSONValue]
    let key: String
  }

  /// Adds the rows that the adapter replaces. Returns the paths that the base does not have.
  ///
  /// A tied head with rows of its own gets a weight of its own, as a tied head with a LoRA does.
  mutating func addRows(_ all: [TrainedRows], _ resolver: NameResolver) throws(AdapterError) -> [String] {
    var unmatched: [String] = []
    for rows in all {
      if rows.path.hasSuffix(".base_layer") {
        throw cannotRun("two sets of trained rows on '\(rows.path.dropLast(".base_layer".count))'")
      }
      if let head = tieHead, rows.path == base.family?.embedding, adapter.baseCopies[head] != nil,
        adapter.config.savesModule(head)
      {
        throw cannotRun("trained rows of an embedding beside the saved head '\(head)' that is tied to it")
      }
      let isHead = rows.path == tieHead
      // Tied modules share one set of rows, which the file may hold once more under the second module's name.
      if isHead, try isStoredElsewhere(rows, all) {
        secondNames.insert(rows.path)
        continue
      }
      var name = try resolver.resolve("\(rows.path).weight")
      if name == nil, rows.path == tiedHead?.path {
        name = "\(rows.path).weight"
        added.append("\(rows.path).weight")
      }
      guard let name else {
        if base.asksForTie, try isStoredElsewhere(rows, all) {
          secondNames.insert(rows.path)
        } else {
          unmatched.append(rows.path)
        }
        continue
      }
      try own(name, rows.path)
      try takeBaseCopy(of: rows.path, weight: name)
      tokens[name] = try replacement(of: rows, weight: name)
    }
    return unmatched
  }

  /// True if another module has the same rows, byte for byte, with the same indices.
  private func isStoredElsewhere(_ rows: TrainedRows, _ all: [TrainedRows]) throws(AdapterError) -> Bool {
    let file = adapter.file.file
    for other in all where other.path != rows.path && other.listed == rows.listed {
      let isSame = try asAdapterError { () throws(TensorFileError) in
        try file.holdsSameBytes(rows.entry.byteRange, other.entry.byteRange)
      }
      if isSame { return true }
    }
    return false
  }

  private func cannotRun(_ what: String) -> AdapterError {
    .unsupported(path: adapter.file.path, what: what, reason: "PEFT saves such an adapter, but cannot run it.")
  }

  /// Lets a tied head change as its embedding does, where PEFT ties the two adapters.
  ///
  /// It ties trained rows wherever config.json ties the weights, and all else with `ensure_weight_tying`; whether the
  /// checkpoint stores the head too makes no difference.
  /// Source: peft/utils/other.py `set_additional_trainable_modules`; peft/tuners/trainable_tokens/model.py `inject_adapter`.
  mutating func follow(_ embedding: String, _ head: String) throws(AdapterError) {
    let isStored = base.checkpoint[head] != nil
    if headFollows, isStored {
      if let update = updates[embedding], updates[head] == nil { updates[head] = update }
      if let replacement = replacements[embedding], replacements[head] == nil { replacements[head] = replacement }
    }
    guard let rows = tokens[embedding], embedding != shrunk, tokens[head] == nil, replacements[head] == nil else {
      return
    }
    guard isStored || updates[head] != nil || changes[head] != nil else { return }
    tokens[head] = rows
    guard updates[head] != nil || changes[head] != nil else { return }
    if let update = updates[head], update.count == 1, update[0].canBeSplit { return }
    throw .unsupported(
      path: adapters[0].file.path,
      what: "a change of '\(head)' beside trained rows of the embedding that it is tied to",
      reason: "only a plain LoRA can be put on rows that are replaced as well; PEFT cannot run another.")
  }

  /// The rows of a weight that a tensor replaces.
  private func replacement(of rows: TrainedRows, weight name: String) throws(AdapterError) -> TokenReplacement {
    guard let entry = storedWeight(name), entry.dtype.isComputable, entry.shape.count == 2 else {
      throw .unmatched(base: base.path, modules: [rows.path], matched: 0, total: 1, nearest: [])
    }
    try requireWhole(
      "'\(rows.path)' with trainable tokens",
      because: "rows that are stored in full replace the base's and have no weight.",
      lost: "rows that are stored in full have taken the place of the base's, which the model no longer holds.")
    let indices = rows.listed.compactMap(\.integerValue)
    guard rows.entry.shape == [indices.count, entry.shape[1]], indices.count == rows.listed.count else {
      throw .shapeMismatch(
        base: adapter.file.path, tensor: rows.entry.name, found: rows.entry.shape,
        expected: [rows.listed.count, entry.shape[1]])
    }
    guard rows.entry.dtype.isComputable else {
      throw .adapterDType(path: adapter.file.path, tensor: rows.entry.name, dtype: rows.entry.dtype)
    }
    let rowCount = grownRows[name] ?? entry.shape[0]
    for index in indices where index < 0 || index >= rowCount {
      throw .configValue(
        path: adapter.configPath, key: rows.key, expected: "rows from 0 to \(rowCount - 1) of '\(name)'",
        found: "\(index)")
    }
    return TokenReplacement(source: StoredTensor(file: adapter.file.file, entry: rows.entry), indices: indices)
  }
}
