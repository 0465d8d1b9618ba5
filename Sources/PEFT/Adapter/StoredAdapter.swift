public import TensorFiles

/// An adapter of any method as a value: its configuration and its tensors, whether it can be merged or not.
///
/// The tensors are read when they are asked for, from a file or from memory; where they lie makes no difference.
public struct StoredAdapter: Sendable {
  public let config: PeftConfig
  public let weights: SafetensorsFile
  /// Where it was read from; nil for one that was made here.
  public let directory: String?
  /// What messages call it: the directory, or the name that it was made with.
  public let name: String

  /// What messages call the configuration.
  public var configPath: String {
    directory.map { FileSystem.join($0, PeftConfig.fileName) } ?? "the configuration of \(name)"
  }

  /// Opens an adapter's directory; the weights may be adapter_model.safetensors or adapter_model.bin.
  ///
  /// Throws `.configMissing` and the other configuration cases, `.weightsMissing`, `.noTensors`, `.file`.
  public init(directory: String) throws(AdapterError) {
    config = try PeftConfig.load(directory: directory)
    weights = try Adapter.openWeights(directory)
    self.directory = directory
    name = directory
  }

  /// An adapter of tensors that are at hand, in another file or in memory.
  ///
  /// - Parameter name: what messages call it.
  public init(_ config: PeftConfig, weights: SafetensorsFile, named name: String) {
    self.config = config
    self.weights = weights
    self.name = name
    directory = nil
  }

  /// Makes an adapter in memory.
  ///
  /// - Parameters:
  ///   - items: its tensors, named as PEFT names them in a file.
  ///   - name: what messages call it.
  ///   - fill: writes the values of all tensors.
  /// Memory: the tensors' bytes. Throws `.tensorRepeated`, `.file`, and what `fill` throws.
  public init(
    _ config: PeftConfig, _ items: [AdapterSink.Item], named name: String,
    fill: (AdapterSink) throws(AdapterError) -> Void
  ) throws(AdapterError) {
    try Self.checkNames(items, name)
    let sink = try asAdapterError { () throws(TensorFileError) in try AdapterSink(inMemory: name, items) }
    try fill(sink)
    self.init(config, weights: sink.tensors, named: name)
  }

  /// Writes an adapter's directory as PEFT saves it, tensor by tensor: adapter_config.json, adapter_model.safetensors and a model
  /// card. `output` appears whole or not at all.
  ///
  /// - Parameters:
  ///   - items: its tensors, named as PEFT names them in a file.
  ///   - card: README.md; nil for the one that belongs to a trained adapter.
  ///   - metadata: of the file of tensors, beside `format`.
  ///   - replacing: whether something that is already at `output` goes.
  ///   - inputs: what is read meanwhile, and must not be written into.
  ///   - sources: files that the values come from; what is written is as private as they and their directories are.
  ///   - fill: writes the values of all tensors.
  /// Throws `.tensorRepeated`, `.file`, and what `fill` throws.
  public static func write(
    _ config: PeftConfig, _ items: [AdapterSink.Item], to output: String, card: String? = nil,
    metadata: [JSONValue.Member] = [], replacing: Bool = false, inputs: [String] = [], sources: [String] = [],
    fill: (AdapterSink) throws(AdapterError) -> Void
  ) throws(AdapterError) {
    let made = try AdapterOutput(
      items, at: output, metadata: metadata, replacing: replacing, inputs: inputs, sources: sources)
    do throws(AdapterError) {
      try fill(made.sink)
      try made.commit(config, card: card)
    } catch {
      made.discard()
      throw error
    }
  }

  /// Throws `.tensorRepeated`.
  static func checkNames(_ items: [AdapterSink.Item], _ path: String) throws(AdapterError) {
    var names: Set<ExactName> = []
    for item in items where !names.insert(ExactName(item.name)).inserted {
      throw .tensorRepeated(path: path, tensor: item.name, other: item.name)
    }
  }

  /// Writes the adapter as PEFT 0.21.2 saves it: adapter_config.json and adapter_model.safetensors to the byte, and a model card.
  ///
  /// Names lose what wrappers of a model had put before them, so that PEFT finds them again; BONE becomes MISS, which is what
  /// PEFT 0.21.2 calls it. `output` appears whole or not at all.
  /// - Parameter replacing: whether something that is already at `output` goes.
  /// Source: peft/peft_model.py `PeftModel.save_pretrained`.
  /// Throws `.tensorRepeated` if two names become one, `.file`.
  public func save(to output: String, replacing: Bool = false) throws(AdapterError) {
    let (sources, items) = try savedTensors()
    try Self.write(
      savedConfig, items, to: output, card: try storedCard(), replacing: replacing,
      inputs: directory.map { [$0] } ?? [],
      sources: storedFiles
    ) { sink throws(AdapterError) in try copy(sources, to: sink) }
  }

  /// The file of its tensors, if it was read from one.
  var storedFiles: [String] { directory == nil ? [] : [weights.path] }

  /// The adapter as `save` writes it, in memory. Throws as `save`.
  public func copied() throws(AdapterError) -> StoredAdapter {
    let (sources, items) = try savedTensors()
    return try StoredAdapter(savedConfig, items, named: name) { sink throws(AdapterError) in try copy(sources, to: sink)
    }
  }

  /// The tensors by the names that they are saved under.
  private func savedTensors() throws(AdapterError) -> (sources: [ExactName: TensorEntry], items: [AdapterSink.Item]) {
    var sources: [ExactName: TensorEntry] = [:]
    for entry in weights.entries {
      if let other = sources.updateValue(entry, forKey: savedName(entry.name)) {
        throw .tensorRepeated(path: weights.path, tensor: entry.name, other: other.name)
      }
    }
    let items = sources.map { AdapterSink.Item(name: $0.key.text, dtype: $0.value.dtype, shape: $0.value.shape) }
    return (sources, items)
  }

  private func copy(_ sources: [ExactName: TensorEntry], to sink: AdapterSink) throws(AdapterError) {
    for entry in sink.entries {
      guard let source = sources[entry.name] else { continue }
      try sink.copy(source, of: weights, to: entry.name)
    }
  }

  private func storedCard() throws(AdapterError) -> String? {
    guard let directory else { return nil }
    return try asAdapterError { () throws(TensorFileError) in
      guard let card = try ModelFiles.path(ModelCard.fileName, in: directory) else { return nil }
      return try FileSystem.text(card)
    }
  }

  /// The method under its present name, and the present one; nil for all that keep theirs.
  private var renamed: (old: AdapterMethod, new: AdapterMethod)? {
    guard let old = AdapterMethod.named(config.peftType), let type = old.successor, let new = AdapterMethod.named(type)
    else { return nil }
    return (old, new)
  }

  private func savedName(_ name: String) -> String {
    let plain = AdapterName.withoutForeignParts(name).name
    guard let renamed, let old = renamed.old.prefixes.first, let new = renamed.new.prefixes.first else { return plain }
    return plain.replacing(".\(old)", with: ".\(new)")
  }

  private var savedConfig: PeftConfig {
    guard let new = renamed?.new else { return config }
    var saved = config
    saved.peftType = new.type
    for member in new.defaultSettings
    where !PeftConfig.sharedKeys.contains(member.key) && saved.settings[member.key] == nil {
      saved.settings[member.key] = member.value
    }
    return saved
  }
}
