internal import LanguageModels
public import PEFT
internal import TensorFiles
internal import TensorMath

extension TrainableModel {
  /// Writes the adapter as PEFT saves it: configuration, weights in f32 and a model card, whole or not at all.
  ///
  /// Throws `.file`.
  public func save(
    to output: String, config: PeftConfig, replacing: Bool = false, inputs: [String] = []
  ) throws(TrainingError) {
    try writeDirectory(output, replacing: replacing, inputs: inputs) { directory throws(TensorFileError) in
      try write(to: directory, config: config)
    }
  }

  /// The adapter as it is now, in memory, as `save` would write it. Throws `.file`.
  public func adapter(config: PeftConfig) throws(TrainingError) -> StoredAdapter {
    let saved = savedTensors
    do throws(AdapterError) {
      return try StoredAdapter(parts.budget?.saved(config) ?? config, items(saved), named: "the adapter in training") {
        sink throws(AdapterError) in
        for tensor in saved.values { try sink.write(tensor.bytes.span.bytes, to: tensor.name) }
      }
    } catch { throw .model(.adapter(error)) }
  }

  private func items(_ tensors: [ExactName: CarriedTensor]) -> [AdapterSink.Item] {
    tensors.values.map { AdapterSink.Item(name: $0.name, dtype: $0.dtype, shape: $0.shape) }
  }

  /// The files of the adapter in a directory that is there.
  func write(to directory: OutputDirectory, config: PeftConfig) throws(TensorFileError) {
    let saved = savedTensors
    let config = parts.budget?.saved(config) ?? config
    let sink = try AdapterSink(at: directory.path(Adapter.weightsName), items(saved))
    for tensor in saved.values { try sink.put(tensor.bytes.span.bytes, to: tensor.name) }
    try OpenFile.create(directory.path(PeftConfig.fileName)).write(config.fileText)
    try OpenFile.create(directory.path(ModelCard.fileName)).write(ModelCard(config: config, isFresh: false).text)
  }

  /// All that PEFT saves, by name: parameters as they are now, under all of their names, and what the adapter brought along.
  var savedTensors: [ExactName: CarriedTensor] {
    var tensors = Dictionary(carried.map { ($0.name, $0) }, uniquingKeysWith: { first, _ in first })
    let isOfEncoder = { (name: String) in self.parts.encoder != nil && name.hasPrefix("prompt_encoder.") }
    let names = parameters.entries.filter { !isOfEncoder($0.name) }.map { ($0.name, $0) }
    if let encoder = parts.encoder {
      encoder.encode(in: workspace)
      let value = encoder.output.value
      tensors["prompt_embeddings"] = CarriedTensor(
        name: "prompt_embeddings", dtype: .f32, shape: [value.rows, value.columns],
        bytes: value.values.withUnsafeBytes { Array($0) })
    }
    let others = aliases.compactMap { alias in
      parameters.entries.first { $0.name == alias.parameter }.map { (alias.name, $0) }
    }
    for (name, entry) in names + others {
      let values = parameters.values(of: entry.name)
      let (shape, kept) = parts.budget?.saved(entry.name, entry.shape, values) ?? (entry.shape, values)
      tensors[name] = CarriedTensor(
        name: name, dtype: .f32, shape: shape, bytes: kept.withUnsafeBytes { Array($0) })
    }
    return tensors
  }
}

/// Makes a directory that appears whole and on the disk, or not at all.
func writeDirectory(
  _ target: String, replacing: Bool, inputs: [String] = [],
  _ write: (OutputDirectory) throws(TensorFileError) -> Void
) throws(TrainingError) {
  do throws(TensorFileError) {
    let directory = try OutputDirectory(target: target, replacing: replacing, inputs: inputs)
    do throws(TensorFileError) {
      try write(directory)
      try directory.commit(durable: true)
    } catch {
      directory.discard()
      throw error
    }
  } catch { throw .file(error) }
}
