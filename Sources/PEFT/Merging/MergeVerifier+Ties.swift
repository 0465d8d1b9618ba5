internal import TensorFiles

extension MergeVerifier {
  /// Two tensors of the base that a tied model holds once, and what PEFT's merge leaves of them.
  struct SharedTensor {
    /// The plan's names of the tensor that the model holds, and of the other.
    let held: String
    let absent: String
    /// What the held one should be: the change of either, or the sum of both.
    let source: StoredTensor
    let change: TensorChange
    /// True if the merge changes one of them, or both.
    let isChanged: Bool
  }

  /// Tensors that the model holds once where the merge keeps two. Only with `Rounding.peft`.
  ///
  /// PEFT merges in place, so that a change of one side of a tied pair reaches the other; transformers saves the pair once.
  /// The adapter changes one side alone while it runs, which is what the merge writes; where both sides have a LoRA, each its own.
  /// Other changes of both sides stay what the merge makes them, unless the adapter stores one tensor for the two.
  func sharedTensors() -> [SharedTensor] {
    guard rounding == .peft, let head = plan.base.family?.head, let embedding = plan.base.family?.embedding else {
      return []
    }
    var outputs: [ExactName: MatchedTensor] = [:]
    for output in plan.shards.flatMap(\.outputs) { outputs[output.item.name] = output }
    func output(_ name: String) -> MatchedTensor? {
      outputs[plan.base.storedName(name) ?? name] ?? outputs[name]
    }
    var pairs: [(MatchedTensor?, MatchedTensor?)] = []
    if plan.base.isTied { pairs.append((output("\(embedding).weight"), output("\(head).weight"))) }
    // A head below the model's own (RoBERTa's `lm_head.decoder`) shares its bias with the module around it.
    if let dot = head.lastIndex(of: ".") { pairs.append((output("\(head[..<dot]).bias"), output("\(head).bias"))) }
    return pairs.compactMap { first, second in
      guard let first, let second else { return nil }
      return shared(first, second)
    }
  }

  private func shared(_ first: MatchedTensor, _ second: MatchedTensor) -> SharedTensor? {
    let (hasFirst, hasSecond) = (nameInModel(first.item.name) != nil, nameInModel(second.item.name) != nil)
    guard hasFirst != hasSecond, first.item.shape == second.item.shape, first.item.dtype == second.item.dtype else {
      return nil
    }
    let (held, absent) = hasFirst ? (first, second) : (second, first)
    var shared = isMerged(absent) ? absent : held
    switch (held.change, absent.change) {
    case (.unchanged, .unchanged), (.replacement, .replacement): guard holdSameBytes(held, absent) else { return nil }
    case (.unchanged, _), (_, .unchanged): break
    case (.sums(let own), .sums(let other)):
      guard let sum = sum(own, other), holdSameBytes(held, absent) else { return nil }
      shared = MatchedTensor(item: held.item, source: held.source, change: .sums([sum]))
    default: return nil
    }
    return SharedTensor(
      held: held.item.name, absent: absent.item.name, source: shared.source, change: shared.change,
      isChanged: isMerged(held) || isMerged(absent))
  }

  /// The sum of two updates of a whole weight; nil where there is more than that.
  private func sum(_ first: [LoRAUpdate], _ second: [LoRAUpdate]) -> LoRAUpdate? {
    guard first.count == 1, second.count == 1, first[0].isPlain, second[0].isPlain, first[0].rows == second[0].rows,
      first[0].columns == second[0].columns
    else { return nil }
    var sum = first[0]
    sum.terms += second[0].terms
    return sum
  }

  private func holdSameBytes(_ first: MatchedTensor, _ second: MatchedTensor) -> Bool {
    let (one, other) = (first.source, second.source)
    return (try? one.file.holdsSameBytes(one.entry.byteRange, other.entry.byteRange, of: other.file)) ?? false
  }

  /// The plan's files as a tied model has them: what it holds once stands there once, with the change of either side.
  func comparedShards() -> [MergePlan.Shard] {
    let shared = sharedTensors()
    guard !shared.isEmpty else { return plan.shards }
    return plan.shards.map { shard in
      let outputs = shard.outputs.compactMap { output -> MatchedTensor? in
        if shared.contains(where: { $0.absent.isExactly(output.item.name) }) { return nil }
        guard let pair = shared.first(where: { $0.held.isExactly(output.item.name) }) else { return output }
        return MatchedTensor(item: output.item, source: pair.source, change: pair.change)
      }
      return MergePlan.Shard(name: shard.name, outputs: outputs, metadata: shard.metadata)
    }
  }
}
