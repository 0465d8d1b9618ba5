internal import TensorFiles

extension AdapterMatch {
  /// Gives a tied head a weight of its own where only one side of the tie changes.
  ///
  /// PEFT does the same for saved modules; for a LoRA on one side it changes both, although its model ran with one.
  mutating func settleTie(in matched: MatchedBase) throws(AdapterError) {
    // A model that is still tied was changed on both sides, and is changed back on both.
    if matched.holdsAdapters, matched.absentHead != nil { return }
    try refuseUnknownTies()
    guard let head = matched.tiedHead, let family = base.family, let embedding = family.embedding,
      let embeddingName = try matched.resolver.resolve("\(embedding).weight")
    else { return }
    let headName = try matched.resolver.resolve("\(head).weight") ?? "\(head).weight"
    let changesHead = tensors.changes[headName] != nil
    var changesEmbedding = false
    // With rows of its own on the head, PEFT ties the embedding's rows to no other module.
    var changesEmbeddingAlone = false
    switch tensors.changes[embeddingName] {
    case nil: break
    case .rows?: if case .rows? = tensors.changes[headName] { changesEmbeddingAlone = true }
    case _?:
      if case .followed = tie { break }
      (changesEmbedding, changesEmbeddingAlone) = (true, true)
    }
    try follow(embeddingName, headName, matched)
    guard changesHead || changesEmbedding else { return }
    var kept: String?
    if !changesHead && base.checkpoint[headName] == nil {
      tensors.added.append(headName)
      kept = embeddingName
    }
    if changesEmbeddingAlone, embedding == "shared" || embedding == "model.shared" {
      throw .unsupported(
        path: adapters[0].file.path, what: "a change of '\(embedding)' alone",
        reason:
          "encoder and decoder keep the old embedding while the adapter is apart, which this model's files cannot say.")
    }
    // A head that the checkpoint stores apart is not tied, whatever config.json asks for.
    guard base.isTied else { return }
    tie = .parted(keeping: kept, inConfig: !family.tiesMore)
    notes.append(
      family.tiesMore
        ? "the head has a weight of its own; transformers before 5 would tie it to the embedding again"
        : "the head and the input embedding are no longer tied")
  }

  /// Refuses to change an embedding or a head of a tied model whose type is not known: the other side would follow, or be
  /// lost.
  private func refuseUnknownTies() throws(AdapterError) {
    guard base.isTied, base.family == nil else { return }
    let names = tensors.changes.filter { !$0.value.isOfBias || tensors.sources[$0.key] != nil }.keys
    for name in names.sorted().map(\.text) {
      let module = name.parts().dropLast().last.map(String.init) ?? ""
      guard ModelFamily.embeddingNames.contains(module) || module == "lm_head" else { continue }
      throw .unsupported(
        path: base.path, what: "a change of '\(name)'",
        reason: "the model ties its head, and for its type '\(base.modelType ?? "unknown")' it is not known to what.")
    }
  }

  /// Lets a tied head change as its embedding does, where PEFT ties the two adapters.
  ///
  /// It ties trained rows wherever config.json ties the weights, and all else with `ensure_weight_tying`; whether the
  /// checkpoint stores the head too makes no difference.
  /// Source: peft/utils/other.py `set_additional_trainable_modules`; peft/tuners/trainable_tokens/model.py `inject_adapter`.
  private mutating func follow(
    _ embedding: String, _ head: String, _ matched: MatchedBase
  ) throws(AdapterError) {
    let isStored = base.checkpoint[head] != nil
    if isStored, case .followed = tie {
      switch (tensors.changes[embedding], tensors.changes[head]) {
      case (.sums(let updates)?, nil): tensors.changes[head] = .sums(updates)
      case (.sums(let updates)?, .rows(let rows)?): tensors.changes[head] = .sumOnRows(updates[0], rows)
      case (.replacement?, nil):
        tensors.changes[head] = .replacement
        tensors.sources[head] = tensors.sources[embedding]
      default: break
      }
    }
    guard case .rows(let rows)? = tensors.changes[embedding], tensors.vocabulary[embedding] != .short else { return }
    /// The file may say that a head has other rows than the embedding that it is tied to.
    func requireRows() throws(AdapterError) {
      let shape = (tensors.sources[head]?.entry ?? matched.stored(head))?.shape ?? []
      guard let last = rows.indices.max(), last >= shape.first ?? 0 else { return }
      throw .replacementShape(base: base.path, tensor: head, found: shape, replacement: [last + 1] + shape.dropFirst())
    }
    switch tensors.changes[head] {
    case nil:
      guard isStored else { return }
      try requireRows()
      tensors.changes[head] = .rows(rows)
    case .sums(let updates)? where updates.count == 1 && updates[0].canBeSplit:
      try requireRows()
      tensors.changes[head] = .sumOnRows(updates[0], rows)
    case .sums?, .rules?:
      throw .unsupported(
        path: adapters[0].file.path,
        what: "a change of '\(head)' beside trained rows of the embedding that it is tied to",
        reason: "only a plain LoRA can be put on rows that are replaced as well; PEFT cannot run another.")
    default: break
    }
  }
}
