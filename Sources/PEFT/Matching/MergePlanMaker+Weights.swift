internal import TensorFiles
internal import TensorMath

/// What an adapter's weight may be, and what is more than a sum.
extension MergePlanMaker {
  /// Refuses a part of an adapter that cannot be multiplied, unless it is merged as it is.
  ///
  /// - Parameter reason: why it has no weight.
  /// - Parameter lost: why it cannot be taken out again.
  /// Throws `.unsupported`, `.irreversible`.
  func requireWhole(
    _ what: String, because reason: String, lost: String
  ) throws(AdapterError) {
    if unmerges { throw .irreversible(path: adapter.file.path, what: what, reason: lost) }
    guard adapterWeight == 1 else {
      throw .unsupported(path: adapter.file.path, what: "\(what) with weight \(adapterWeight)", reason: reason)
    }
  }

  /// Refuses a factor that is infinite or a NaN in the precision that its weight is computed in.
  ///
  /// Throws `.factorNotFinite`.
  func requireFinite(_ factor: Double, for tensor: String, of module: String) throws(AdapterError) {
    let isDouble = (base.checkpoint[tensor]?.entry ?? storedWeight(tensor))?.dtype == .f64
    guard options.allowNonFinite || (isDouble ? factor.isFinite : Float(factor).isFinite) else {
      throw .factorNotFinite(path: adapter.file.path, module: module, factor: factor)
    }
  }

  /// Names of all tensors that come out otherwise than they went in.
  var changedNames: Set<ExactName> {
    Set(updates.keys).union(biases.keys).union(changes.keys).union(biasChanges.keys).union(tokens.keys)
      .union(replacements.keys)
  }

  /// Names of tensors to which more is done than adding: what was there before is lost.
  ///
  /// Cost: reads the adapters' own copies of base weights, and the weights. Throws `.file`.
  func overwrittenNames() throws(AdapterError) -> Set<ExactName> {
    let decomposed = updates.filter { $0.value.contains { $0.magnitude != nil || $0.removal != nil } }.keys
    let ruled = changes.filter { !$0.value.rules.allSatisfy { $0.rule.isAdditive } }.keys
    let biased = biasChanges.filter { !$0.value.rule.isAdditive }.keys
    var names = Set(decomposed).union(ruled).union(biased).union(tokens.keys).union(replacements.keys)
    for (name, copy) in baseCopies where !names.contains(name) {
      guard let stored = storedWeight(name.text), let location = base.checkpoint[stored.name] else { continue }
      let file = base.checkpoint.shards[location.shard].file
      let isSame = try asAdapterError { () throws(TensorFileError) in
        try Self.holdSameValues((copy.file.file, copy.entry), (file, location.entry))
      }
      if !isSame { names.insert(name) }
    }
    return names
  }

  private static func holdSameValues(
    _ one: (file: OpenFile, entry: TensorEntry), _ other: (file: OpenFile, entry: TensorEntry)
  ) throws(TensorFileError) -> Bool {
    guard one.entry.shape == other.entry.shape, let first = one.entry.dtype.format,
      let second = other.entry.dtype.format
    else { return false }
    let (start, otherStart) = (one.entry.byteRange.lowerBound, other.entry.byteRange.lowerBound)
    for element in stride(from: 0, to: one.entry.elementCount, by: 1 << 16) {
      let end = min(element + 1 << 16, one.entry.elementCount)
      let bytes = try one.file.bytes(start + element * first.byteCount..<start + end * first.byteCount)
      let otherBytes = try other.file.bytes(
        otherStart + element * second.byteCount..<otherStart + end * second.byteCount)
      guard
        first == second
          ? bytes == otherBytes : Double.decoded(bytes, first) == Double.decoded(otherBytes, second)
      else { return false }
    }
    return true
  }
}
