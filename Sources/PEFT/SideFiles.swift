internal import TensorFiles

/// The files of a model that are not tensors: configuration, tokenizer, templates, licence, notes.
struct SideFiles: Sendable {
  /// A file to be copied: from where, and its path within the output.
  struct Item: Sendable {
    let source: String
    let name: String
  }

  let items: [Item]
  let byteCount: Int

  /// Everything of the base but weights and hidden files; tokenizer files of the adapters win over the base's, the last first.
  ///
  /// Throws `.system`.
  init(base: String?, adapters: [String]) throws(TensorFileError) {
    var files: [ExactName: String] = [:]
    if let base { try Self.collect(base, "", &files) }
    for adapter in adapters { try Self.takeTokenizer(of: adapter, &files) }
    items = files.map { Item(source: $0.value, name: $0.key.text) }.sorted { ExactName($0.name) < ExactName($1.name) }
    var bytes = 0
    for item in items {
      let file = try File.open(reading: item.source)
      bytes += try file.byteCount()
    }
    byteCount = bytes
  }

  private static func takeTokenizer(
    of adapter: String, _ files: inout [ExactName: String]
  ) throws(TensorFileError) {
    let adapterNames = try FileSystem.names(in: adapter)
    let tokenizerFiles = adapterNames.filter { Self.tokenizerNames.contains($0) }
    // A whole tokenizer takes the place of the base's whole tokenizer: parts of two would contradict each other.
    if tokenizerFiles.contains("tokenizer_config.json"),
      tokenizerFiles.contains(where: { Self.vocabularyNames.contains($0) })
    {
      for name in Self.tokenizerNames { files[name] = nil }
    }
    for name in tokenizerFiles { files[name] = FileSystem.join(adapter, name) }
    if FileSystem.kind(FileSystem.join(adapter, Self.templateDirectory)) == .directory {
      try Self.collect(FileSystem.join(adapter, Self.templateDirectory), "\(Self.templateDirectory)/", &files)
    }
  }

  private static let templateDirectory = "additional_chat_templates"

  private static let vocabularyNames: Set<String> = [
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model",
  ]

  private static let tokenizerNames = vocabularyNames.union([
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt", "chat_template.jinja",
    "chat_template.json", "bpe.codes", "source.spm", "target.spm",
  ])

  private static let weightEndings = [
    ".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth", ".ckpt", ".h5", ".msgpack",
    ".onnx", ".gguf", ".ot", ".npz", ".tflite",
  ]

  private static func collect(
    _ directory: String, _ prefix: String, _ files: inout [ExactName: String]
  ) throws(TensorFileError) {
    for name in try FileSystem.names(in: directory) where !name.hasPrefix(".") {
      let path = FileSystem.join(directory, name)
      switch FileSystem.kind(path) {
      // A directory can hold a base and an adapter; the merged model is no adapter.
      case .file? where name == PeftConfig.fileName: continue
      case .directory?: try collect(path, "\(prefix)\(name)/", &files)
      case .file? where !weightEndings.contains(where: { name.hasSuffix($0) }): files[prefix + name] = path
      default: continue
      }
    }
  }
}
