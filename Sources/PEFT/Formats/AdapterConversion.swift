public import TensorFiles

/// An adapter in any of the known forms, to be written in another one.
///
/// Nothing is left out silently: what the other form cannot carry is in `obstacles`, and stops the conversion.
public struct AdapterConversion: Sendable {
  /// What is known beside the adapter.
  public struct Options: Sendable {
    /// The model, of which config.json is read.
    public var base: String?
    /// The image model, where the modules do not tell it.
    public var imageModel: ImageModel?
    /// diffusers' name of the part of a pipeline that an adapter of PEFT is for, where the modules do not tell it.
    public var component: String?
    /// The dtype to write; nil for that of each tensor.
    public var dtype: DType?

    public init() {}
  }

  /// What was read.
  public let source: AdapterDialect
  private let path: String
  private let base: BaseFacts?
  private let options: Options
  private let adapters: [CarriedAdapter]
  private let readingNotes: [String]

  /// Reads an adapter; what form it is in, its files say.
  ///
  /// Throws `.foreignAdapter` for a form that is known but not read, `.configMissing` for what is none, and what reading the
  /// form throws.
  public init(_ path: String, options: Options = Options()) throws(AdapterError) {
    self.path = path
    self.options = options
    let base = try options.base.map { (path) throws(AdapterError) in try BaseFacts(path: path) }
    self.base = base
    let (source, file) = try Self.recognise(path)
    self.source = source
    var notes: [String] = []
    switch source {
    case .peft: adapters = try Self.peftParts(file, component: options.component).map { $0.cast(to: options.dtype) }
    case .mlx: adapters = [try MLXDialect.read(file).cast(to: options.dtype)]
    case .gguf: adapters = [try GGUFDialect.read(file, base: base).cast(to: options.dtype)]
    case .kohya, .diffusers, .comfy:
      let read = try ImageFiles.read(file)
      adapters = read.adapters.map { $0.cast(to: options.dtype) }
      notes = read.notes
    }
    readingNotes = notes + adapters.flatMap(\.notes)
  }

  /// The parts of pipelines that adapters are for.
  private static let components = ["unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3"]

  private static func recognise(_ path: String) throws(AdapterError) -> (AdapterDialect, String) {
    let isFile = FileSystem.kind(path) == .file
    let hasConfig = !isFile && FileSystem.kind(FileSystem.join(path, PeftConfig.fileName)) == .file
    if !isFile, !hasConfig, components.contains(where: { isPeft(FileSystem.join(path, $0)) }) { return (.peft, path) }
    guard let format = ForeignAdapter(path: path), let dialect = format.dialect else {
      if let format = ForeignAdapter(path: path), !hasConfig { throw .foreignAdapter(path: path, format: format) }
      return (.peft, path)
    }
    guard !hasConfig || dialect == .mlx else { return (.peft, path) }
    if isFile || dialect == .mlx { return (dialect, path) }
    let ending = dialect == .gguf ? [".gguf"] : [".safetensors", ".bin", ".pt"]
    let names = try asAdapterError { () throws(TensorFileError) in try FileSystem.names(in: path) }
      .filter { name in ending.contains { name.hasSuffix($0) } }
    guard names.count == 1, let name = names.first else {
      throw .foreignContent(
        path: path,
        reason: "\(names.count) files of tensors (\(names.sorted().prefix(4).joined(separator: ", "))); name the one")
    }
    return (dialect, FileSystem.join(path, name))
  }

  private static func isPeft(_ directory: String) -> Bool {
    FileSystem.kind(FileSystem.join(directory, PeftConfig.fileName)) == .file
  }

  private static func peftParts(_ path: String, component: String?) throws(AdapterError) -> [CarriedAdapter] {
    let parts = components.filter { isPeft(FileSystem.join(path, $0)) }
    if !isPeft(path), !parts.isEmpty {
      var adapters: [CarriedAdapter] = []
      for part in parts {
        adapters.append(try CarriedAdapter(StoredAdapter(directory: FileSystem.join(path, part)), component: part))
      }
      return adapters
    }
    var adapter = try CarriedAdapter(StoredAdapter(directory: path))
    let guesses = Set(adapter.modules.map { ImageKey.component(of: $0.path) })
    adapter.component = component ?? (guesses.count == 1 ? guesses.first ?? nil : nil)
    return [adapter]
  }

  // MARK: Answers

  /// The adapters in PEFT's form, one for each part of a pipeline, in memory; of a language model one, without a part.
  ///
  /// Memory: the tensors' bytes. Throws what reading them throws.
  public func stored() throws(AdapterError) -> [(component: String?, adapter: StoredAdapter)] {
    var result: [(component: String?, adapter: StoredAdapter)] = []
    for adapter in adapters { result.append((adapter.component, try adapter.stored(named: path))) }
    return result
  }

  /// What keeps the adapter from being written so; empty if nothing does.
  public func obstacles(to target: AdapterDialect) -> [ConversionObstacle] {
    let model = options.imageModel ?? KohyaDialect.model(adapters, base: base)
    var found: [ConversionObstacle] = []
    switch target {
    case .peft: break
    case .mlx, .gguf:
      if adapters.count > 1 || (source != .peft && adapters.first?.component != nil) {
        return [
          ConversionObstacle(
            what: "an adapter of an image model", reason: "the form is for language models", cure: "--to peft")
        ]
      }
      for adapter in adapters {
        found += target == .mlx ? MLXDialect.obstacles(adapter, base: base) : GGUFDialect.obstacles(adapter, base: base)
      }
    case .kohya, .comfy:
      for adapter in adapters { found += KohyaDialect.obstacles(adapter, model: model, comfy: target == .comfy) }
    case .diffusers: for adapter in adapters { found += DiffusersDialect.obstacles(adapter) }
    }
    return found
  }

  /// What writing did.
  public struct Report: Sendable {
    /// Where the tensors are.
    public let file: String
    public let tensorCount: Int
    /// What was rounded or padded; empty if every tensor has its bits.
    public let notes: [String]
  }

  /// Writes the adapter in another form. The output appears whole or not at all.
  ///
  /// - Parameters:
  ///   - output: a directory to be made; or, for a form of one file, that file's name with the form's ending.
  ///   - replacing: whether something that is already at `output` goes.
  /// Throws `.notConvertible` with all obstacles, `.file`, and what reading the tensors throws.
  @discardableResult
  public func write(_ target: AdapterDialect, to output: String, replacing: Bool = false) throws(AdapterError) -> Report
  {
    let obstacles = obstacles(to: target)
    guard obstacles.isEmpty else { throw .notConvertible(path: path, obstacles) }
    var result: DialectOutput
    switch target {
    case .peft: result = peftOutput
    case .mlx: result = MLXDialect.output(adapters[0], base: base)
    case .gguf: result = try GGUFDialect.output(adapters[0], base: base)
    case .kohya, .comfy:
      guard let model = options.imageModel ?? KohyaDialect.model(adapters, base: base) else {
        preconditionFailure("obstacles first")
      }
      result = try KohyaDialect.output(adapters, model: model, comfy: target == .comfy, path: path)
    case .diffusers: result = DiffusersDialect.output(adapters)
    }
    try result.write(to: output, replacing: replacing, inputs: [path] + (options.base.map { [$0] } ?? []))
    let file = FileSystem.kind(output) == .file ? output : FileSystem.join(output, result.files[0].name)
    return Report(file: file, tensorCount: result.tensorCount, notes: readingNotes + result.notes)
  }

  /// One directory; of several parts of a pipeline one each.
  private var peftOutput: DialectOutput {
    var output = DialectOutput(files: [])
    for adapter in adapters {
      let directory = adapters.count > 1 ? "\(adapter.component ?? "adapter")/" : ""
      let config = adapter.peftConfig
      let tensors = adapter.peftTensors
      output.files.append((directory + Adapter.weightsName, .safetensors(tensors, metadata: [], namesFormat: true)))
      output.files.append((directory + PeftConfig.fileName, .text(config.fileText)))
      output.files.append((directory + ModelCard.fileName, .text(ModelCard(config: config, isFresh: false).text)))
    }
    return output
  }
}
