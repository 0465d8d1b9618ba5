public import TensorFiles

/// An adapter on disk: its configuration and its tensors, sorted into their parts. Headers only.
///
/// Invariant: every tensor of the file is in exactly one of `modules`, `replacements`, `tokenRows` and `baseCopies`, but for second names
/// of saved modules' biases.
public struct Adapter: Sendable {
  /// The LoRA of one module.
  public struct Module: Sendable, Hashable {
    /// The path in the model, without `base_model.model.`.
    @ExactName public var path: String
    /// lora_A `[r, in]`; of a convolution `[r, in, kernel…]`; of an embedding `[r, vocabulary]`.
    public let a: TensorEntry
    /// lora_B `[out, r]`; of a convolution `[out, r, 1…]`; of an embedding `[dimension, r]`.
    public let b: TensorEntry
    /// True if the tensors are `lora_embedding_A` and `lora_embedding_B`.
    public let isEmbedding: Bool
    /// DoRA's magnitudes, one an output feature.
    public let magnitude: TensorEntry?
    /// The bias of lora_B, one an output feature.
    public let bias: TensorEntry?
    /// KaSA's singular values, one a rank.
    public let diagonal: TensorEntry?
  }

  /// Rows of an embedding that the adapter replaces.
  public struct TokenRows: Sendable, Hashable {
    /// The embedding's path in the model.
    @ExactName public var path: String
    /// One row a token, in the order of `trainable_token_indices`.
    public let entry: TensorEntry
  }

  /// A tensor stored in full, which takes the place of the base's: from `modules_to_save`, or a bias.
  public struct Replacement: Sendable, Hashable {
    /// The name in the model, such as `score.weight`.
    @ExactName public var name: String
    public let entry: TensorEntry
    /// True if `modules_to_save` names the module; such a tensor is written even where the base lacks it.
    public let isSavedModule: Bool

    /// The name in an adapter's file, after the prefix: a bias of a module with factors is that of the layer within.
    func storedName(beside modules: Set<ExactName>) -> String {
      let ending = ".bias"
      guard !isSavedModule, name.hasSuffix(ending) else { return name }
      let path = String(name.dropLast(ending.count))
      return modules.contains(ExactName(path)) ? "\(path).base_layer\(ending)" : name
    }
  }

  /// Where it was read from, as given; for an adapter that was made here, what messages call it.
  public let directory: String
  /// True if it was made here and is in no directory.
  public let isInMemory: Bool
  public let config: PeftConfig
  /// Where the configuration was read from.
  public let configPath: String
  public let file: SafetensorsFile
  /// LoRA modules in the natural order of their paths.
  public let modules: [Module]
  public let replacements: [Replacement]
  public let tokenRows: [TokenRows]
  /// Copies of base weights that PEFT stores beside the LoRA or the trained rows of an embedding or head, by the module's path.
  public let baseCopies: [ExactName: TensorEntry]
  /// What wrappers of a model had put before the names of tensors, such as `_orig_mod.`; left out of all paths here.
  public let foreignPrefixes: [String]

  /// Modules of another method than LoRA, in the natural order of their paths.
  let methodParts: [MethodPart]
  /// Tensors of another method that belong to no module, by what follows `base_model.`.
  let sharedTensors: [ExactName: TensorEntry]

  /// Modules that the adapter changes, of whatever method.
  public var moduleCount: Int { modules.count + methodParts.count }

  public static let weightsName = "adapter_model.safetensors"
  /// What early releases of PEFT wrote, and what `safe_serialization=False` writes.
  public static let torchName = "adapter_model.bin"
  static let prefix = "base_model.model."

  /// Opens an adapter's directory.
  ///
  /// Throws `.configMissing` and the other configuration cases, `.foreignAdapter`, `.weightsMissing`, `.noTensors`, `.file`,
  /// and what `init(_:ignoredConfigKeys:)` throws.
  /// - Parameter ignoredConfigKeys: unknown keys of the configuration that are known to be harmless.
  public init(directory: String, ignoredConfigKeys: Set<String> = []) throws(AdapterError) {
    let config = try PeftConfig.load(directory: directory)
    try Self.check(config, FileSystem.join(directory, PeftConfig.fileName), ignoredConfigKeys)
    try self.init(StoredAdapter(directory: directory), ignoredConfigKeys: ignoredConfigKeys)
  }

  /// Sorts an adapter's tensors into their parts, to be merged.
  ///
  /// Throws `.unknownConfigKey`, `.unsupported` for a method or a variant of LoRA that is not merged, `.tensorUnexpected`,
  /// `.unpaired`, `.tensorRepeated`, `.adapterDType`.
  /// - Parameter ignoredConfigKeys: unknown keys of the configuration that are known to be harmless.
  public init(_ stored: StoredAdapter, ignoredConfigKeys: Set<String> = []) throws(AdapterError) {
    try self.init(stored, ignoredConfigKeys: ignoredConfigKeys, allowsInvocation: false)
  }

  /// - Parameter allowsInvocation: true to take aLoRA, for what only changes factors.
  init(
    _ stored: StoredAdapter, ignoredConfigKeys: Set<String>, allowsInvocation: Bool
  ) throws(AdapterError) {
    (config, configPath, file) = (stored.config, stored.configPath, stored.weights)
    (directory, isInMemory) = (stored.name, stored.directory == nil)
    try Self.check(config, configPath, ignoredConfigKeys, allowsInvocation: allowsInvocation)
    if let method = AdapterMethod.named(config.peftType) {
      let parts = try MethodParts(file, config, method)
      modules = []
      replacements = parts.replacements
      tokenRows = []
      baseCopies = parts.baseCopies
      foreignPrefixes = parts.foreignPrefixes.sorted()
      methodParts = parts.modules
      sharedTensors = parts.shared
      return
    }
    try LoRAVariants.refuse(file)
    let parts = try AdapterParts(file, config)
    methodParts = []
    sharedTensors = [:]
    modules = parts.modules
    replacements = parts.replacements
    tokenRows = parts.tokenRows
    baseCopies = parts.baseCopies
    foreignPrefixes = parts.foreignPrefixes.sorted()
  }

  /// What the configuration alone tells against a merge. Throws `.unknownConfigKey`, `.unsupported`.
  private static func check(
    _ config: PeftConfig, _ path: String, _ ignored: Set<String>, allowsInvocation: Bool = false
  ) throws(AdapterError) {
    try config.checkUnknownKeys(path: path, ignored: ignored)
    guard let method = AdapterMethod.named(config.peftType) else {
      return try LoRAVariants.refuse(config, path: path, allowsInvocation: allowsInvocation)
    }
    if case .none(let reason) = method.merging {
      throw .unsupported(path: path, what: "peft_type \(config.peftType.rawValue)", reason: reason)
    }
  }

  /// Opens the file of weights in an adapter's directory.
  ///
  /// Throws `.weightsMissing`, `.noTensors`, `.foreignAdapter`, `.file`.
  public static func openWeights(_ directory: String) throws(AdapterError) -> SafetensorsFile {
    let path = FileSystem.join(directory, weightsName)
    let torchPath = FileSystem.join(directory, torchName)
    let file: SafetensorsFile
    if FileSystem.kind(path) == .file {
      file = try asAdapterError { () throws(TensorFileError) in try SafetensorsFile(path: path) }
    } else if FileSystem.kind(torchPath) == .file {
      file = try asAdapterError { () throws(TensorFileError) in try SafetensorsFile.openTorch(path: torchPath) }
    } else {
      let names = try asAdapterError { () throws(TensorFileError) in try FileSystem.names(in: directory) }
      throw .weightsMissing(
        directory: directory, found: names.filter { $0.hasSuffix(".bin") || $0.hasSuffix(".safetensors") })
    }
    guard !file.entries.isEmpty else { throw .noTensors(path: file.path) }
    if let format = ForeignAdapter(tensors: file.entries.map(\.name)) {
      throw .foreignAdapter(path: file.path, format: format)
    }
    return file
  }
}

/// The tensors of a file sorted into parts by their names.
private struct AdapterParts {
  var modules: [Adapter.Module] = []
  var replacements: [Adapter.Replacement] = []
  var tokenRows: [Adapter.TokenRows] = []
  var baseCopies: [ExactName: TensorEntry] = [:]
  var foreignPrefixes: Set<String> = []

  private var roles: [ExactName: [LoRARole: TensorEntry]] = [:]
  private var replacementNames: [ExactName: String] = [:]
  private let file: SafetensorsFile
  private let config: PeftConfig

  init(_ file: SafetensorsFile, _ config: PeftConfig) throws(AdapterError) {
    self.file = file
    self.config = config
    for entry in file.entries {
      let (name, foreign) = AdapterName.withoutForeignParts(entry.name)
      foreignPrefixes.formUnion(foreign)
      guard name.hasPrefix(Adapter.prefix) else { throw .tensorUnexpected(path: file.path, tensor: entry.name) }
      // A saved norm counts the batches that it has seen.
      guard entry.dtype.isComputable || (name.hasSuffix(".num_batches_tracked") && !name.holds(LoRARole.mark)) else {
        throw .adapterDType(path: file.path, tensor: entry.name, dtype: entry.dtype)
      }
      if LoRAVariants.isUnusedAtMerge(name, config) { continue }
      try sort(entry, String(name.dropFirst(Adapter.prefix.count)))
    }
    for (path, tensors) in roles { modules.append(try module(path.text, tensors)) }
    modules.sort { naturallyPrecedes($0.path, $1.path) }
    replacements.sort { naturallyPrecedes($0.name, $1.name) }
    let withRows = Set(exactly: tokenRows.map(\.path))
    for path in baseCopies.keys where roles[path] == nil && !withRows.contains(path) && !config.savesModule(path.text) {
      throw .tensorUnexpected(path: file.path, tensor: "\(Adapter.prefix)\(path).base_layer.weight")
    }
  }

  private mutating func sort(
    _ entry: TensorEntry, _ name: String
  ) throws(AdapterError) {
    if let (path, role) = LoRARole.split(name) {
      if let other = roles[path, default: [:]].updateValue(entry, forKey: role) {
        throw .tensorRepeated(path: file.path, tensor: entry.name, other: other.name)
      }
      return
    }
    if let path = Self.stem(name, ".token_adapter.trainable_tokens_delta") {
      tokenRows.append(Adapter.TokenRows(path: path, entry: entry))
    } else if name.contains(LoRARole.mark) {
      throw .tensorUnexpected(path: file.path, tensor: entry.name)
    } else if let path = Self.stem(name, ".token_adapter.base_layer.weight") ?? Self.stem(name, ".base_layer.weight") {
      baseCopies[path] = entry
    } else {
      let plain = AdapterName.withoutWrappers(name)
      // With bias "all", PEFT writes a saved module's bias a second time under its wrapper's name.
      if name.contains(".original_module.") || (!name.isExactly(plain) && file[Adapter.prefix + plain] != nil) {
        return
      }
      if let other = replacementNames.updateValue(entry.name, forKey: plain) {
        throw .tensorRepeated(path: file.path, tensor: entry.name, other: other)
      }
      let module = plain.parts().dropLast().joined(separator: ".")
      replacements.append(
        Adapter.Replacement(name: plain, entry: entry, isSavedModule: config.savesModule(module)))
    }
  }

  private func module(_ path: String, _ tensors: [LoRARole: TensorEntry]) throws(AdapterError) -> Adapter.Module {
    let isEmbedding = tensors[.embeddingA] != nil || tensors[.embeddingB] != nil
    let (a, b) = isEmbedding ? (tensors[.embeddingA], tensors[.embeddingB]) : (tensors[.a], tensors[.b])
    guard let a else {
      throw .unpaired(path: file.path, module: path, present: b == nil ? "its other tensors" : "lora_B")
    }
    guard let b else { throw .unpaired(path: file.path, module: path, present: "lora_A") }
    if isEmbedding, let plain = tensors[.a] ?? tensors[.b] {
      throw .tensorRepeated(path: file.path, tensor: plain.name, other: a.name)
    }
    return Adapter.Module(
      path: path, a: a, b: b, isEmbedding: isEmbedding, magnitude: tensors[.magnitude], bias: tensors[.bias],
      diagonal: tensors[.diagonal])
  }

  private static func stem(_ name: String, _ suffix: String) -> String? {
    name.hasSuffix(suffix) ? String(name.dropLast(suffix.count)) : nil
  }
}
