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
    try StoredAdapter.write(
      config, items(tensors), to: output, card: ModelCard(config: config, isFresh: true).text, replacing: replacing,
      inputs: [base.directory ?? base.path]
    ) { sink throws(AdapterError) in try fill(sink, tensors) }
    return tensors.reduce(0) { $0 + ($1.value.isTrained ? $1.value.shape.reduce(1, *) : 0) }
  }

  /// The adapter in memory. Throws as `write`.
  public func made(named name: String = "a fresh adapter") throws(AdapterError) -> StoredAdapter {
    let tensors = try tensors()
    return try StoredAdapter(config, items(tensors), named: name) { sink throws(AdapterError) in try fill(sink, tensors)
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
            shape: tensor.shape, dtype: dtype == .f64 ? .f64 : .f32, values: .floats(Self.rounded(values, dtype)),
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
      let patterns = PatternCache()
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

  private func items(_ tensors: [ExactName: Stored]) -> [AdapterSink.Item] {
    tensors.map { AdapterSink.Item(name: $0.text, dtype: $1.dtype, shape: $1.shape) }
  }

  private func fill(_ sink: AdapterSink, _ tensors: [ExactName: Stored]) throws(AdapterError) {
    for (name, tensor) in tensors {
      switch tensor.values {
      case .copy(let location):
        try sink.copy(location.entry, of: base.checkpoint.shards[location.shard], to: name.text)
      case .bytes(let bytes, _): try sink.write(bytes.span.bytes, to: name.text)
      case .floats(let floats): try sink.write(floats, to: name.text)
      }
    }
  }

  /// Values in the base weight's dtype, as f32 again.
  static func rounded(_ values: [Float], _ dtype: DType) -> [Float] {
    guard let format = dtype.format, format == .bf16 || format == .f16 else { return values }
    var bytes = [UInt8](repeating: 0, count: values.count * format.byteCount)
    var span = bytes.mutableSpan
    var raw = span.mutableBytes
    encode(values.span, to: format, into: &raw)
    return Float.decoded(bytes, format)
  }
}
