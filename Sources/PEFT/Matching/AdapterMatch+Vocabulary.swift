internal import TensorFiles

extension AdapterMatch {
  /// The rows of embedding and head where the vocabulary has grown.
  var vocabularySize: Int? {
    tensors.vocabulary.values.compactMap { if case .grown(let rows) = $0 { rows } else { nil } }.max()
  }

  /// Checks that embedding and head have grown together, and says so.
  mutating func checkVocabulary(in matched: MatchedBase) throws(AdapterError) {
    for name in tensors.sources.keys {
      guard let entry = matched.stored(name.text),
        let rows = tensors.changes[name]?.updates.map({ $0.firstRow + $0.rows }).max(), rows > entry.shape[0]
      else { continue }
      tensors.vocabulary[name] = .grown(rows)
    }
    guard let grown = vocabularySize else { return }
    func refusal(_ reason: String, of what: String? = nil) -> AdapterError {
      .unsupported(path: adapters[0].file.path, what: what ?? "a vocabulary of \(grown) rows", reason: reason)
    }
    if let short = tensors.vocabulary.filter({ $0.value == .short }).keys.max() {
      throw refusal("'\(short.text)' has more rows than the adapter has for it.")
    }
    let sizes = Set(
      tensors.vocabulary.keys.compactMap { base.checkpoint[$0.text]?.entry.shape.first })
    for name in base.checkpoint.names where tensors.vocabulary[name] == nil && name.hasSuffix("bias") {
      guard let shape = base.checkpoint[name]?.entry.shape, let rows = shape.last, rows > 1, sizes.contains(rows)
      else { continue }
      throw refusal("the base's '\(name)' \(shape) would have to grow too, and the adapter does not hold it.")
    }
    if case .parted(keeping: .some, inConfig: _) = tie {
      throw refusal(
        "the head's new rows were random and are stored nowhere. Train with ensure_weight_tying, or save both.",
        of: "a larger vocabulary in the embedding of a tied model, but not in its head")
    }
    if let family = base.family, let head = family.head, let embedding = family.embedding,
      BaseModel.hasLanguageHead(taskType: adapters[0].config.taskType, config: base.config)
    {
      for path in [embedding, head] {
        guard let name = try matched.resolver.resolve("\(path).weight"), let entry = base.checkpoint[name]?.entry else {
          continue
        }
        if case .grown(grown)? = tensors.vocabulary[name] { continue }
        if entry.shape[0] < grown {
          throw .replacementShape(
            base: base.path, tensor: name, found: entry.shape, replacement: [grown, entry.shape.last ?? 0])
        }
      }
    }
    notes.append("the vocabulary has grown to \(grown) rows; config.json says so")
  }
}
