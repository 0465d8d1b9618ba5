internal import TensorFiles

/// An adapter that is being matched with a base, and what may be done with it there.
struct MatchedAdapter {
  let adapter: Adapter
  /// What its ΔW is multiplied by.
  let weight: Double
  /// Its place among those that are matched.
  let index: Int
  let base: MatchedBase
  let options: MergeOptions
  /// True if `ensure_weight_tying` had an effect: PEFT then stores both sides of the tie.
  let tiesOnPurpose: Bool
  private let paths: Set<ExactName>

  init(_ adapter: Adapter, weight: Double, index: Int, of base: MatchedBase, _ options: MergeOptions) {
    (self.adapter, self.weight, self.index, self.base, self.options) = (adapter, weight, index, base, options)
    paths = Set(exactly: adapter.modules.map(\.path))
    guard adapter.config.ensureWeightTying, let head = base.tiedHead, let embedding = base.embedding else {
      tiesOnPurpose = false
      return
    }
    let all = paths.union(Set(exactly: adapter.replacements.map { String($0.name.dropLast(".weight".count)) }))
    tiesOnPurpose = all.contains(head) && all.contains(embedding)
  }

  var config: PeftConfig { adapter.config }
  var file: SafetensorsFile { adapter.file }

  /// A tensor of the adapter with its file.
  func stored(_ entry: TensorEntry) -> StoredTensor { StoredTensor(file: file.file, entry: entry) }

  func owner(_ path: String) -> ModuleOwner { ModuleOwner(adapter: index, path: path) }

  /// True for a LoRA on an attention's output projection that the LoRA on the attention brings along already.
  func isHiddenByAttention(_ module: Adapter.Module) -> Bool {
    guard module.path.hasSuffix(".out_proj"), config.attention(ofOutput: module.path) == nil else { return false }
    let inner = module.path.dropLast(".out_proj".count) + ".base_layer.out_proj"
    return paths.contains(String(inner)) && config.attention(ofOutput: String(inner)) != nil
  }

  /// Refuses a part of an adapter that cannot be multiplied, unless it is merged as it is.
  ///
  /// - Parameter reason: why it has no weight.
  /// - Parameter lost: why it cannot be taken out again.
  /// Throws `.unsupported`, `.irreversible`.
  func requireWhole(_ what: String, because reason: String, lost: String) throws(AdapterError) {
    if base.holdsAdapters { throw .irreversible(path: file.path, what: what, reason: lost) }
    guard weight == 1 else {
      throw .unsupported(path: file.path, what: "\(what) with weight \(weight)", reason: reason)
    }
  }

  /// Refuses a factor that is infinite or a NaN in the precision that its weight is computed in.
  ///
  /// Throws `.factorNotFinite`.
  func requireFinite(_ factor: Double, for tensor: String, of module: String) throws(AdapterError) {
    let isDouble = base.stored(tensor)?.dtype == .f64
    guard options.allowNonFinite || (isDouble ? factor.isFinite : Float(factor).isFinite) else {
      throw .factorNotFinite(path: file.path, module: module, factor: factor)
    }
  }

  /// Refuses a tensor of the base in which nothing can be computed. Throws `.baseDType`.
  func requireComputable(_ entry: TensorEntry) throws(AdapterError) {
    guard entry.dtype.isComputable else {
      throw .baseDType(base: base.path, tensor: entry.name, dtype: entry.dtype)
    }
  }
}
