public import PEFT
internal import TensorFiles

extension TrainableModel {
  /// Writes the adapter as PEFT saves it: configuration, weights in f32 and a model card, whole or not at all.
  ///
  /// Throws `.file`.
  public func save(
    to output: String, config: PeftConfig, replacing: Bool = false, inputs: [String] = []
  ) throws(TrainingError) {
    do throws(TensorFileError) {
      let directory = try OutputDirectory(target: output, replacing: replacing, inputs: inputs)
      do throws(TensorFileError) {
        let path = directory.path("adapter_model.safetensors")
        let items = parameters.entries.map { SafetensorsLayout.Item(name: $0.name, dtype: .f32, shape: $0.shape) }
        let layout = try SafetensorsLayout(
          path: path, items: SafetensorsLayout.libraryOrder(items), alignment: .library)
        let file = try layout.create(at: path)
        for entry in layout.entries {
          try file.write(parameters.values(of: entry.name).span.bytes, at: entry.byteRange.lowerBound)
        }
        try File.create(directory.path(PeftConfig.fileName)).write(config.fileText)
        try File.create(directory.path(ModelCard.fileName)).write(ModelCard(config: config, isFresh: false).text)
        try directory.commit(durable: true)
      } catch {
        directory.discard()
        throw error
      }
    } catch { throw .file(error) }
  }
}
