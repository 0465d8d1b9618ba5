internal import TensorFiles

extension MergePlan {
  /// Resolves every adapter tensor against the base and lays the output out. Reads headers only; writes nothing.
  ///
  /// Throws: what `Adapter.init` and `BaseModel.init` throw; `.unmatched`, `.ambiguous`, `.collision`, `.shapeMismatch`,
  /// `.rankMismatch`, `.baseDType`, `.missingFromAdapter`, `.moduleNotTargeted`, `.replacementShape`, `.shardSize`.
  public init(base basePath: String, adapter adapterPath: String, options: MergeOptions = MergeOptions())
    throws(AdapterError)
  {
    let adapter = try Adapter(directory: adapterPath, ignoredConfigKeys: options.ignoredConfigKeys)
    let base = try BaseModel(path: basePath, taskType: adapter.config.taskType)
    var maker = MergePlanMaker(base: base, adapter: adapter, options: options)
    try maker.match()
    try maker.checkAgainstConfig()
    let shards = try maker.shards()
    let editedConfig = maker.editedConfig()
    self.init(
      base: base, adapter: adapter, options: options, shards: shards, editedConfig: editedConfig,
      sideFiles: try asAdapterError { () throws(TensorFileError) in
        try SideFiles(base: base.directory, adapter: adapter.directory)
      },
      mergedCount: adapter.modules.count,
      replacedCount: maker.replacements.keys.filter { base.checkpoint[$0] != nil }.count + maker.biases.count
        + maker.tokens.count,
      addedCount: maker.added.count, notes: maker.notes)
  }
}
