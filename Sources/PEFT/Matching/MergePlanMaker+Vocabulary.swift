internal import TensorFiles

extension MergePlanMaker {
  /// Lets an embedding or a head that is stored in full have other rows than the base's: a vocabulary that was resized
  /// before training.
  ///
  /// The output never has fewer rows than the base: if the adapter has fewer, the base's last rows stay, which are the
  /// padding of its vocabulary.
  mutating func resize(
    _ entry: TensorEntry, by replacement: Adapter.Replacement, _ name: String
  ) throws(AdapterError) {
    let new = replacement.entry.shape
    guard isVocabularySized(name, replacement.name), new.count == entry.shape.count, new.count <= 2,
      new.dropFirst() == entry.shape.dropFirst(), let rows = new.first, let oldRows = entry.shape.first
    else {
      throw .replacementShape(base: base.path, tensor: name, found: entry.shape, replacement: new)
    }
    if rows > oldRows {
      grownRows[name] = rows
    } else {
      notes.append("'\(name)': the adapter has \(rows) rows; the base's other \(oldRows - rows) stay")
      shrunk = name
      tokens[name] = TokenReplacement(
        source: StoredTensor(file: adapter.file.file, entry: replacement.entry), indices: Array(0..<rows))
    }
  }

  /// Lets rows be replaced in the adapter's own copy of an embedding, which may have more rows than the base's.
  mutating func takeBaseCopy(of path: String, weight name: String) throws(AdapterError) {
    guard !unmerges, let copy = adapter.baseCopies[path], let entry = storedWeight(name) else { return }
    guard copy.shape.count == 2, entry.shape.count == 2, copy.shape[1] == entry.shape[1],
      copy.shape[0] >= entry.shape[0]
    else {
      throw .replacementShape(base: base.path, tensor: name, found: entry.shape, replacement: copy.shape)
    }
    baseCopies[name] = (adapter.file, copy)
    if copy.shape[0] > entry.shape[0] { grownRows[name] = copy.shape[0] }
  }

  /// True for the parameters of an input embedding or of a language head.
  private func isVocabularySized(_ fileName: String, _ modelName: String) -> Bool {
    let path = modelName.parts().dropLast().joined(separator: ".")
    return baseModules[fileName]?.kind == .embedding || path == base.family?.embedding || path == base.family?.head
      || path == "lm_head"
  }

  /// Checks that embedding and head have grown together, and says so.
  mutating func checkGrowth(_ resolver: NameResolver) throws(AdapterError) {
    for (name, updates) in updates {
      guard let entry = storedWeight(name.text), let rows = updates.map({ $0.firstRow + $0.rows }).max(),
        baseCopies[name] != nil, rows > entry.shape[0]
      else { continue }
      grownRows[name] = rows
    }
    guard let grown = grownRows.values.max() else { return }
    if let shrunk {
      throw .unsupported(
        path: adapters[0].file.path, what: "a vocabulary of \(grown) rows",
        reason: "'\(shrunk)' has more rows than the adapter has for it.")
    }
    for name in base.checkpoint.names where grownRows[name] == nil && name.hasSuffix("bias") {
      guard let shape = base.checkpoint[name]?.entry.shape, let rows = shape.last, rows > 1,
        grownRows.keys.contains(where: { base.checkpoint[$0]?.entry.shape.first == rows })
      else { continue }
      throw .unsupported(
        path: adapters[0].file.path, what: "a vocabulary of \(grown) rows",
        reason: "the base's '\(name)' \(shape) would have to grow too, and the adapter does not hold it.")
    }
    if keptHead != nil, !headFollows {
      throw .unsupported(
        path: adapters[0].file.path, what: "a larger vocabulary in the embedding of a tied model, but not in its head",
        reason: "the head's new rows were random and are stored nowhere. Train with ensure_weight_tying, or save both.")
    }
    if let family = base.family, let head = family.head, let embedding = family.embedding,
      BaseModel.hasLanguageHead(taskType: adapters[0].config.taskType, config: base.config)
    {
      for path in [embedding, head] {
        guard let name = try resolver.resolve("\(path).weight"), let entry = base.checkpoint[name]?.entry else {
          continue
        }
        let rows = grownRows[name] ?? entry.shape[0]
        if rows < grown {
          throw .replacementShape(
            base: base.path, tensor: name, found: entry.shape, replacement: [grown, entry.shape.last ?? 0])
        }
      }
    }
    notes.append("the vocabulary has grown to \(grown) rows; config.json says so")
  }
}
