internal import TensorFiles
internal import TensorMath

extension AdapterInitializer {
  /// Writes adapter_config.json, adapter_model.safetensors and README.md to `output`, whole or not at all, and returns how many
  /// values a training of the adapter would change, copies of the base's modules not counted.
  ///
  /// Precision: values are drawn in f32, rounded to the base weight's dtype and stored in f32; in f64 on an f64 base.
  /// Throws `.file`, and for methods other than LoRA `.configValue`, `.notMade`, `.freshTensorTooLarge` for what a module does
  /// not take.
  @discardableResult
  public func write(to output: String, replacing: Bool = false) throws(AdapterError) -> Int {
    let tensors = try tensors()
    return try asAdapterError { () throws(TensorFileError) in
      let directory = try OutputDirectory(
        target: output, replacing: replacing, inputs: [base.directory ?? base.path])
      do throws(TensorFileError) {
        try write(tensors, directory.path(Adapter.weightsName))
        try File.create(directory.path(PeftConfig.fileName)).write(config.fileText)
        try File.create(directory.path(ModelCard.fileName)).write(ModelCard(config: config, isFresh: true).text)
        try directory.commit(durable: false)
      } catch {
        directory.discard()
        throw error
      }
      return tensors.reduce(0) { $0 + ($1.value.isTrained ? $1.value.shape.reduce(1, *) : 0) }
    }
  }

  /// A tensor as it is stored.
  private struct Stored {
    let shape: [Int]
    let dtype: DType
    let values: FreshTensor.Values
    let isTrained: Bool
  }

  /// All tensors by the names that they are stored under.
  private func tensors() throws(AdapterError) -> [ExactName: Stored] {
    var tensors: [ExactName: Stored] = [:]
    func add(_ drawn: [FreshTensor], prefix: String, dtype: DType, method: AdapterMethod?) {
      for tensor in drawn {
        let name = (tensor.isShared ? "base_model." : prefix) + tensor.name
        let isBuffer = tensor.name.parts().contains { method?.buffers.contains(String($0)) ?? false }
        switch tensor.values {
        case .floats(let values):
          tensors[ExactName(name)] = Stored(
            shape: tensor.shape, dtype: dtype == .f64 ? .f64 : .f32, values: .floats(rounded(values, dtype)),
            isTrained: !isBuffer)
        case .bytes(_, let dtype):
          tensors[ExactName(name)] = Stored(
            shape: tensor.shape, dtype: dtype, values: tensor.values, isTrained: !isBuffer)
        case .copy(let location):
          tensors[ExactName(name)] = Stored(
            shape: tensor.shape, dtype: location.entry.dtype, values: tensor.values, isTrained: !isBuffer)
        }
      }
    }
    let method = AdapterMethod.named(config.peftType)
    let weights = modules.reduce(0.0) { $0 + Double($1.module.shape.reduce(1, *)) }
    var source = FreshSource(seed: seed, weights: Int(min(weights, 1e15)), configPath: configPath)
    switch method?.start {
    case nil:
      for target in modules {
        var drawn = try drawn(target, &source.generator)
        if config.useDoRA {
          let magnitude = try asAdapterError { () throws(TensorFileError) -> FreshTensor in
            try self.magnitude(target, base)
          }
          drawn.append(magnitude)
        }
        add(drawn, prefix: "\(Adapter.prefix)\(target.path).", dtype: target.dtype, method: nil)
      }
    case .modules(_, let start)?:
      let siblings = modules.map(\.module)
      let patterns = PatternBudget()
      for (index, target) in modules.enumerated() {
        let module = FreshModule(
          config: config, configPath: configPath, base: base, module: target.module, siblings: siblings, index: index,
          patterns: patterns)
        add(
          try start(module, &source), prefix: "\(Adapter.prefix)\(target.path).", dtype: target.dtype, method: method)
      }
    case .prompt(let start)?:
      let prompt = FreshPrompt(config: config, configPath: configPath, base: base, text: promptTokens)
      add(try start(prompt, &source), prefix: "", dtype: .f32, method: method)
    case .none(let reason)?:
      throw .notMade(path: configPath, what: "peft_type \(config.peftType.rawValue)", reason: reason)
    }
    for (name, location) in saved {
      tensors[ExactName(name)] = Stored(
        shape: location.entry.shape, dtype: location.entry.dtype, values: .copy(location), isTrained: false)
    }
    return tensors
  }

  private func write(_ tensors: [ExactName: Stored], _ path: String) throws(TensorFileError) {
    let items = tensors.map { SafetensorsLayout.Item(name: $0.text, dtype: $1.dtype, shape: $1.shape) }
    let layout = try SafetensorsLayout(path: path, items: SafetensorsLayout.libraryOrder(items), alignment: .library)
    let file = try layout.create(at: path)
    for entry in layout.entries {
      switch tensors[entry.name]?.values {
      case .copy(let location)?:
        let shard = base.checkpoint.shards[location.shard].file
        try file.copy(location.entry.byteRange, from: shard, to: entry.byteRange.lowerBound)
      case .bytes(let bytes, _)?: try file.write(bytes.span.bytes, at: entry.byteRange.lowerBound)
      case .floats(let floats)? where entry.dtype == .f64:
        let doubles = floats.map { Double($0) }
        try file.write(doubles.span.bytes, at: entry.byteRange.lowerBound)
      case .floats(let floats)?: try file.write(floats.span.bytes, at: entry.byteRange.lowerBound)
      case nil: break
      }
    }
  }

  /// Values in the base weight's dtype, as f32 again.
  private func rounded(_ values: [Float], _ dtype: DType) -> [Float] {
    guard let format = dtype.format, format == .bf16 || format == .f16 else { return values }
    var bytes = [UInt8](repeating: 0, count: values.count * format.byteCount)
    var span = bytes.mutableSpan
    var raw = span.mutableBytes
    encode(values.span, to: format, into: &raw)
    return Float.decoded(bytes, format)
  }
}
