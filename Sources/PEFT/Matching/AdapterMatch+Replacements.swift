internal import TensorFiles

/// Tensors that an adapter stores in full.
extension AdapterMatch {
  /// Notes the tensors that take the place of the base's. Returns the names of those that the base does not have.
  mutating func addReplacements(of part: MatchedAdapter) throws(AdapterError) -> [String] {
    var unmatched: [String] = []
    for replacement in part.adapter.replacements {
      if try part.isSecondNameOfTiedEmbedding(replacement) {
        tie = .followed
      } else if let name = try part.base.resolver.resolve(replacement.name) {
        try replace(name, by: replacement, part)
      } else if part.isHead(replacement) {
        try replace(replacement.name, by: replacement, part)
      } else {
        unmatched.append(replacement.name)
      }
    }
    return unmatched
  }

  mutating func replace(
    _ name: String, by replacement: Adapter.Replacement, _ part: MatchedAdapter
  ) throws(AdapterError) {
    try part.requireWhole(
      "'\(replacement.name)'", because: "a tensor that is stored in full replaces the base's and has no weight.",
      lost: "a tensor that is stored in full has taken the base's place, which the model no longer holds.")
    // A bias that the adapter stores and adds to as well: PEFT adds to the stored one.
    let added = tensors.changes[name].flatMap { $0.isOfBias ? $0 : nil }
    if added == nil || !tensors.belongs(name, to: part) { try tensors.own(name, replacement.name, part) }
    let stored = part.stored(replacement.entry)
    if let entry = base.checkpoint[name]?.entry {
      // Whole numbers, such as a norm's count of batches, are taken over as they are.
      guard entry.dtype.isComputable || entry.dtype == stored.entry.dtype else {
        throw .baseDType(base: base.path, tensor: name, dtype: entry.dtype)
      }
      if entry.shape != stored.shape {
        try checkRows(entry, against: replacement, name, part)
        if stored.shape[0] < entry.shape[0] {
          notes.append(
            "'\(name)': the adapter has \(stored.shape[0]) rows; the base's other \(entry.shape[0] - stored.shape[0]) stay"
          )
          tensors.vocabulary[name] = .short
          tensors.changes[name] = .rows(TokenReplacement(source: stored, indices: Array(0..<stored.shape[0])))
          return
        }
        tensors.vocabulary[name] = .grown(stored.shape[0])
      }
    }
    tensors.sources[name] = stored
    tensors.changes[name] = added ?? .replacement
  }

  /// Lets an embedding or a head that is stored in full have other rows than the base's: a vocabulary that was resized
  /// before training.
  ///
  /// The output never has fewer rows than the base: if the adapter has fewer, the base's last rows stay, which are the
  /// padding of its vocabulary. Throws `.replacementShape`.
  private func checkRows(
    _ entry: TensorEntry, against replacement: Adapter.Replacement, _ name: String, _ part: MatchedAdapter
  ) throws(AdapterError) {
    let new = replacement.entry.shape
    let path = replacement.name.parts().dropLast().joined(separator: ".")
    let isVocabularySized =
      part.base.module(ofWeight: name)?.kind == .embedding || path == base.family?.embedding
      || path == base.family?.head || path == "lm_head"
    guard isVocabularySized, new.count == entry.shape.count, new.count == 1 || new.count == 2,
      new.dropFirst() == entry.shape.dropFirst()
    else {
      throw .replacementShape(base: base.path, tensor: name, found: entry.shape, replacement: new)
    }
  }
}

extension MatchedAdapter {
  /// True for a head that the base ties, of which the adapter stores a second copy of its embedding. Throws `.file`.
  fileprivate func isSecondNameOfTiedEmbedding(_ replacement: Adapter.Replacement) throws(AdapterError) -> Bool {
    guard let head = base.tiedHead, replacement.name == "\(head).weight", let embedding = base.embedding,
      let other = adapter.replacements.first(where: { $0.name == "\(embedding).weight" })
    else { return false }
    return try holdsSameBytes(replacement.entry, other.entry)
  }

  /// True for a tensor that may be added to the base: a head, which the base can lack, or the second name of a tied bias.
  /// A module inside a layer is not: the base has it under a name that is not known here.
  fileprivate func isHead(_ replacement: Adapter.Replacement) -> Bool {
    let parts = replacement.name.parts()
    guard !parts.contains(where: { Int($0) != nil }) else { return false }
    // An input embedding is no head, nor is anything that the base holds under a shorter name.
    if parts.dropLast().last.map({ ModelFamily.embeddingNames.contains(String($0)) }) ?? true { return false }
    for start in parts.indices.dropFirst() where base.checkpoint[parts[start...].joined(separator: ".")] != nil {
      return false
    }
    return replacement.isSavedModule || (config.bias != "none" && replacement.name.hasSuffix(".bias"))
  }

  /// Parts of the adapter that the base does not have.
  func unmatched(_ paths: [String]) -> AdapterError {
    if config.autoMapping["parent_library"]?.stringValue?.hasPrefix("lerobot") ?? false {
      return .foreignAdapter(path: adapter.configPath, format: .leRobot)
    }
    // Norms and the like are matched tensor by tensor.
    let total = max(adapter.moduleCount + adapter.replacements.count + adapter.tokenRows.count, paths.count)
    return .unmatched(
      base: base.path, modules: paths, matched: total - paths.count, total: total,
      nearest: base.resolver.nearest(paths[0]))
  }
}
