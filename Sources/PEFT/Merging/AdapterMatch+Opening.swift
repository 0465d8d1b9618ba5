internal import TensorFiles

extension AdapterMatch {
  /// Matches adapters with a base, opening both, and refuses what a merge refuses.
  ///
  /// Cost: one pass over the adapters' files. Throws what `MergePlan.init(base:adapters:options:)` throws, but for what is
  /// wrong with other files than the two.
  package init(
    base path: String, adapters inputs: [MergePlan.Input], options: MergeOptions = MergeOptions()
  ) throws(AdapterError) {
    var adapters: [Adapter] = []
    for input in inputs { adapters.append(try input.adapter(options)) }
    let base = try BaseModel(path: path, taskType: adapters[0].config.taskType)
    try self.init(
      base: base.stacked(as: adapters), adapters: adapters, weights: inputs.map(\.weight), options: options)
    if !options.allowNonFinite {
      for adapter in adapters { try adapter.checkFinite() }
    }
    let record = Provenance(of: base.checkpoint)
    guard !options.allowRepeated, !record.steps.isEmpty else { return }
    for (adapter, weight) in zip(adapters, weights) {
      try record.requireAbsent(adapter, digest: adapter.digest(), weight: weight, in: base)
    }
  }
}

extension BaseModel {
  /// The model with its layers stacked as the adapters have them. Throws `.unsupported` where they disagree.
  func stacked(as adapters: [Adapter]) throws(AdapterError) -> BaseModel {
    let setting = adapters[0].config.layerReplication
    for adapter in adapters where adapter.config.layerReplication != setting {
      throw .unsupported(
        path: adapter.configPath, what: "layer_replication together with other adapters",
        reason: "all adapters must have the same setting.")
    }
    guard !setting.isEmptyOrFalse else { return self }
    return try replicatingLayers(
      setting, configPath: adapters[0].configPath, taskType: adapters[0].config.taskType)
  }
}
