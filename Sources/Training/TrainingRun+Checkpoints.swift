internal import PEFT
internal import TensorFiles
internal import TensorMath

/// Writing a checkpoint and going on from one.
extension TrainingRun {
  private static let format = 1

  /// Writes a directory with the adapter, trainer_state.json, and all that the next step depends on; whole or not at all.
  func write(_ checkpoint: TrainingCheckpoint, epoch: Double) throws(TrainingError) {
    let state = history.text(plan, trainer, epoch: epoch, saves: true)
    let generators = [("generator", trainer.model.generator.words), ("epoch_generator", trainer.epochGenerator.words)]
    var run = JSONValue.object([
      .init("format", .integer(Self.format)), .init("made_by", .string("peft-tool \(Provenance.version)")),
      .init("step", .integer(trainer.step)), .init("steps", .integer(trainer.steps)), .init("epoch", .number(epoch)),
      .init("identity", identity.json), .init("arguments", trainer.arguments.json), .init("history", history.json),
      .init("places", .object(generators.map { .init($0.0, .integer($0.1.next)) })),
    ])
    let counts = trainer.model.parameters.counts
    // Where some parameters were left out of steps.
    if !trainer.model.parts.occasional.isEmpty { run["parameter_steps"] = .array(counts.map { .integer($0) }) }
    try writeDirectory(checkpoint.path, replacing: true) { directory throws(TensorFileError) in
      try trainer.model.write(to: directory, config: config)
      try OpenFile.create(directory.path(TrainingCheckpoint.stateName)).write(state)
      guard !trainer.arguments.savesOnlyModel else { return }
      try OpenFile.create(directory.path(TrainingCheckpoint.runName)).write(run.pythonText(sortedKeys: true) + "\n")
      try writeTensors(directory.path(TrainingCheckpoint.tensorsName), generators)
    }
  }

  private func writeTensors(
    _ path: String, _ generators: [(name: String, words: (words: [UInt32], next: Int))]
  ) throws(TensorFileError) {
    let parameters = trainer.model.parameters
    var items: [SafetensorsLayout.Item] = generators.map { .init(name: $0.name, dtype: .u32, shape: [624]) }
    for (name, _) in parameters.states {
      items += parameters.entries.map { .init(name: "\(name).\($0.name)", dtype: .f32, shape: $0.shape) }
    }
    let budget = trainer.model.parts.budget?.state ?? []
    items += budget.map { .init(name: $0.name, dtype: .f32, shape: [$0.values.count]) }
    let layout = try SafetensorsLayout(path: path, items: items, alignment: .library)
    let file = try layout.create(at: path)
    var places = layout.entries.map(\.byteRange.lowerBound)[...]
    for generator in generators {
      try file.write(generator.words.words.span.bytes, at: places.removeFirst())
    }
    for (_, all) in parameters.states {
      for entry in parameters.entries {
        try file.write(parameters.part(of: all, entry).values.span.bytes, at: places.removeFirst())
      }
    }
    for (_, values) in budget { try file.write(values.span.bytes, at: places.removeFirst()) }
  }

  /// Takes over a checkpoint's state, after all of it was checked. The epoch at it.
  func restore(_ path: String) throws(TrainingError) -> Double {
    let runPath = FileSystem.join(path, TrainingCheckpoint.runName)
    guard FileSystem.kind(path) == .directory else { throw .noCheckpoint(path: path) }
    guard FileSystem.kind(runPath) == .file else {
      throw .badCheckpoint(
        path: path,
        reason: "it has no \(TrainingCheckpoint.runName); it was written with save_only_model, or by another program")
    }
    let (run, state, file): (JSONValue, JSONValue, SafetensorsFile)
    do throws(TensorFileError) {
      run = try JSONValue(contentsOf: runPath)
      state = try JSONValue(contentsOf: FileSystem.join(path, TrainingCheckpoint.stateName))
      file = try SafetensorsFile(path: FileSystem.join(path, TrainingCheckpoint.tensorsName))
    } catch { throw .file(error) }
    guard run["format"] == .integer(Self.format) else {
      throw .badCheckpoint(
        path: path,
        reason: "its format is \(run["format"]?.compactText ?? "not given"), and this program reads \(Self.format)")
    }
    if let other = identity.difference(to: run["identity"] ?? .null)
      ?? trainer.arguments.difference(to: run["arguments"] ?? .null)
    {
      throw .otherRun(path: path, what: other.name, found: other.found, expected: other.expected)
    }
    guard let step = run["step"]?.integerValue, (0...trainer.steps).contains(step),
      run["steps"] == .integer(trainer.steps),
      let epoch = run["epoch"]?.numberValue, let history = RunHistory(state: state, own: run["history"] ?? .null)
    else { throw .badCheckpoint(path: path, reason: "\(TrainingCheckpoint.runName) lacks a figure or has a wrong one") }
    let generator = try self.generator("generator", run, file, path)
    let epochGenerator = try self.generator("epoch_generator", run, file, path)
    let counts = run["parameter_steps"]?.elements?.compactMap(\.integerValue)
    guard counts.map({ $0.count == trainer.model.parameters.counts.count }) ?? trainer.model.parts.occasional.isEmpty
    else {
      throw .badCheckpoint(path: path, reason: "\(TrainingCheckpoint.runName) does not say which steps parameters took")
    }
    let budget = try budgetState(file, path)
    try load(file, path)
    if let budget, trainer.model.parts.budget?.restore(budget) == false {
      throw .badCheckpoint(
        path: path, reason: "\(TrainingCheckpoint.tensorsName) lacks what AdaLoRA's ranks meant for the loss")
    }
    trainer.step = step
    trainer.model.parameters.counts = counts ?? trainer.model.parameters.counts.map { _ in step }
    trainer.model.generator = generator
    trainer.epochGenerator = epochGenerator
    self.history = history
    return epoch
  }

  private func generator(
    _ name: String, _ run: JSONValue, _ file: SafetensorsFile, _ path: String
  ) throws(TrainingError) -> TorchGenerator {
    guard let entry = file[name], entry.dtype == .u32, entry.shape == [624],
      let next = run["places"]?[name]?.integerValue
    else { throw .badCheckpoint(path: path, reason: "its random state '\(name)' is missing") }
    let bytes: [UInt8]
    do { bytes = try file.file.bytes(entry.byteRange) } catch { throw .file(error) }
    let words = stride(from: 0, to: bytes.count, by: 4).map { place in
      (0..<4).reduce(UInt32(0)) { $0 | UInt32(bytes[place + $1]) << UInt32(8 * $1) }
    }
    guard let generator = TorchGenerator(words: words, next: next) else {
      throw .badCheckpoint(path: path, reason: "its random state '\(name)' has no place \(next)")
    }
    return generator
  }

  /// What a method keeps beside the parameters; nil if it keeps nothing.
  private func budgetState(_ file: SafetensorsFile, _ path: String) throws(TrainingError) -> [String: [Float]]? {
    guard trainer.model.parts.budget != nil else { return nil }
    var state: [String: [Float]] = [:]
    for entry in file.entries where entry.name.hasPrefix("rank_allocator.") {
      state[entry.name] = try floats(entry.name, entry.shape, file, path)
    }
    return state
  }

  private func load(_ file: SafetensorsFile, _ path: String) throws(TrainingError) {
    let parameters = trainer.model.parameters
    var loaded: [(Int, ParameterStore.Entry, [Float])] = []
    for (index, state) in parameters.states.enumerated() {
      for entry in parameters.entries {
        loaded.append((index, entry, try floats("\(state.name).\(entry.name)", entry.shape, file, path)))
      }
    }
    let states = parameters.states
    for (index, entry, values) in loaded { parameters.part(of: states[index].all, entry).copy(values) }
  }

  /// The parameters of a checkpoint, and of nothing else in it; from its adapter where that is all there is.
  func loadParameters(_ path: String) throws(TrainingError) {
    let own = FileSystem.join(path, TrainingCheckpoint.tensorsName)
    let isWhole = FileSystem.kind(own) == .file
    let file: SafetensorsFile
    do throws(TensorFileError) {
      file = try SafetensorsFile(path: isWhole ? own : FileSystem.join(path, "adapter_model.safetensors"))
    } catch { throw .file(error) }
    let parameters = trainer.model.parameters
    for entry in parameters.entries {
      let name = isWhole ? "value.\(entry.name)" : entry.name
      parameters.part(of: parameters.values, entry).copy(try floats(name, entry.shape, file, path))
    }
  }

  private func floats(
    _ name: String, _ shape: [Int], _ file: SafetensorsFile, _ path: String
  ) throws(TrainingError) -> [Float] {
    guard let entry = file[name], entry.dtype == .f32, entry.shape == shape else {
      throw .badCheckpoint(
        path: path, reason: "\(FileSystem.lastComponent(file.path)) lacks '\(name)' in f32 of shape \(shape)")
    }
    do { return Float.decoded(try file.file.bytes(entry.byteRange), .f32) } catch { throw .file(error) }
  }
}
