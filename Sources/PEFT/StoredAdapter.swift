public import TensorFiles

/// An adapter of any method as its two files hold it, whether it can be merged or not: to be looked at and saved again.
public struct StoredAdapter: Sendable {
  public let config: PeftConfig
  public let weights: SafetensorsFile
  private let directory: String

  /// Opens an adapter's directory; the weights may be adapter_model.safetensors or adapter_model.bin.
  ///
  /// Throws `.configMissing` and the other configuration cases, `.weightsMissing`, `.noTensors`, `.file`.
  public init(directory: String) throws(AdapterError) {
    config = try PeftConfig.load(directory: directory)
    weights = try Adapter.openWeights(directory)
    self.directory = directory
  }

  /// Writes the adapter as PEFT 0.21.2 saves it: adapter_config.json and adapter_model.safetensors to the byte, and a model card.
  ///
  /// Names lose what wrappers of a model had put before them, so that PEFT finds them again; BONE becomes MISS, which is what
  /// PEFT 0.21.2 calls it. `output` appears whole or not at all.
  /// - Parameter replacing: whether something that is already at `output` goes.
  /// Source: peft/peft_model.py `PeftModel.save_pretrained`.
  /// Throws `.tensorRepeated` if two names become one, `.file`.
  public func save(to output: String, replacing: Bool = false) throws(AdapterError) {
    var sources: [ExactName: TensorEntry] = [:]
    for entry in weights.entries {
      if let other = sources.updateValue(entry, forKey: savedName(entry.name)) {
        throw .tensorRepeated(path: weights.path, tensor: entry.name, other: other.name)
      }
    }
    let items = sources.map { SafetensorsLayout.Item(name: $0.key.text, dtype: $0.value.dtype, shape: $0.value.shape) }
    let config = savedConfig
    try asAdapterError { () throws(TensorFileError) in
      let target = try OutputDirectory(target: output, replacing: replacing, inputs: [directory])
      do throws(TensorFileError) {
        let path = target.path(Adapter.weightsName)
        let layout = try SafetensorsLayout(
          path: path, items: SafetensorsLayout.libraryOrder(items), alignment: .library)
        let file = try layout.create(at: path)
        for placed in layout.entries {
          guard let source = sources[placed.name] else { continue }
          try file.copy(source.byteRange, from: weights.file, to: placed.byteRange.lowerBound)
        }
        try File.create(target.path(PeftConfig.fileName)).write(config.fileText)
        if let card = try ModelFiles.path(ModelCard.fileName, in: directory) {
          try FileSystem.copy(card, to: target.path(ModelCard.fileName))
        } else {
          try File.create(target.path(ModelCard.fileName)).write(ModelCard(config: config, isFresh: false).text)
        }
        try target.commit(durable: false)
      } catch {
        target.discard()
        throw error
      }
    }
  }

  private func savedName(_ name: String) -> String {
    let plain = AdapterName.withoutForeignParts(name).name
    return config.peftType == AdapterMethod.bone.type ? plain.replacing(".bone_", with: ".miss_") : plain
  }

  private var savedConfig: PeftConfig {
    guard config.peftType == AdapterMethod.bone.type else { return config }
    var renamed = config
    renamed.peftType = AdapterMethod.miss.type
    for member in AdapterMethod.miss.defaultSettings
    where !PeftConfig.sharedKeys.contains(member.key) && renamed.settings[member.key] == nil {
      renamed.settings[member.key] = member.value
    }
    return renamed
  }
}
