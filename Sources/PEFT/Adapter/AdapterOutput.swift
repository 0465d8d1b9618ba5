internal import TensorFiles

/// An adapter's directory while it is written, which appears whole or not at all.
struct AdapterOutput: Sendable {
  /// Takes the values of all tensors.
  let sink: AdapterSink
  private let target: OutputDirectory

  /// Begins with the places of the tensors. Other parameters as of `StoredAdapter.write`.
  ///
  /// - Parameter sources: files that the values come from; what is written is as private as they and their directories are.
  /// Throws `.tensorRepeated`, `.file`.
  init(
    _ items: [AdapterSink.Item], at output: String, metadata: [JSONValue.Member] = [], replacing: Bool,
    inputs: [String], sources: [String] = []
  ) throws(AdapterError) {
    try StoredAdapter.checkNames(items, output)
    target = try asAdapterError { () throws(TensorFileError) in
      try OutputDirectory(
        target: output, replacing: replacing, inputs: inputs, like: sources.map(FileSystem.parentDirectory))
    }
    do throws(TensorFileError) {
      sink = try AdapterSink(
        at: target.path(Adapter.weightsName), items, metadata: metadata, permissions: FilePermissions(of: sources))
    } catch {
      target.discard()
      throw .file(error)
    }
  }

  /// Writes what else belongs to an adapter, and gives the directory its name.
  ///
  /// - Parameter card: README.md; nil for the one that belongs to a trained adapter.
  /// Throws `.file`.
  func commit(_ config: PeftConfig, card: String? = nil) throws(AdapterError) {
    try asAdapterError { () throws(TensorFileError) in
      try OpenFile.create(target.path(PeftConfig.fileName)).write(config.fileText)
      try OpenFile.create(target.path(ModelCard.fileName)).write(
        card ?? ModelCard(config: config, isFresh: false).text)
      try target.commit(durable: false)
    }
  }

  /// Removes what was written.
  func discard() { target.discard() }
}
