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
  /// What is in the directories and cannot be copied, one sentence each.
  let notes: [String]

  /// Everything of the base but weights and hidden files; tokenizer files of the adapters win over the base's, the last first.
  ///
  /// Only files that stand in the model count, see `ModelFiles`. A link to a directory of the model is not followed: what it
  /// leads to is copied from where it stands. Throws `.linkOutside`, `.nameNotUTF8`, `.system`.
  init(base: String?, adapters: [String]) throws(TensorFileError) {
    var found = Found()
    if let base { try found.collect(base, "", root: base) }
    for adapter in adapters { try found.takeTokenizer(of: adapter) }
    items = found.files.values.sorted { ExactName($0.name) < ExactName($1.name) }
    notes = found.notes
    var bytes = 0
    for item in items {
      let file = try OpenFile.open(reading: item.source)
      bytes += try file.byteCount()
    }
    byteCount = bytes
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

  /// What was found so far.
  private struct Found {
    /// By the bytes of their names: two that look alike are two.
    var files: [[UInt8]: Item] = [:]
    var notes: [String] = []

    mutating func collect(_ directory: String, _ prefix: String, root: String) throws(TensorFileError) {
      for name in try FileSystem.names(in: directory) where name.utf8.first != UInt8(ascii: ".") {
        // A directory can hold a base and an adapter; the merged model is no adapter.
        if name == PeftConfig.fileName { continue }
        let path = FileSystem.join(directory, name)
        if SideFiles.weightEndings.contains(where: { name.hasSuffix($0) }), FileSystem.kind(path) != .directory {
          continue
        }
        if try take(path, prefix + name, root: root) == .directory {
          try collect(path, "\(prefix)\(name)/", root: root)
        }
      }
    }

    mutating func takeTokenizer(of adapter: String) throws(TensorFileError) {
      let names = try FileSystem.names(in: adapter).filter { SideFiles.tokenizerNames.contains($0) }
      // A whole tokenizer takes the place of the base's whole tokenizer: parts of two would contradict each other.
      if names.contains("tokenizer_config.json"), names.contains(where: { SideFiles.vocabularyNames.contains($0) }) {
        for name in SideFiles.tokenizerNames { files[Array(name.utf8)] = nil }
      }
      for name in names { _ = try take(FileSystem.join(adapter, name), name, root: adapter) }
      let templates = FileSystem.join(adapter, SideFiles.templateDirectory)
      if try ModelFiles.entry(templates, root: adapter) == .directory {
        try collect(templates, "\(SideFiles.templateDirectory)/", root: adapter)
      }
    }

    /// Takes what stands at `path`, if it is a file.
    private mutating func take(_ path: String, _ name: String, root: String) throws(TensorFileError) -> ModelFiles.Entry
    {
      let entry = try ModelFiles.entry(path, root: root)
      switch entry {
      case .file: files[Array(name.utf8)] = Item(source: path, name: name)
      case .brokenLink: notes.append("\(path) is a link that leads nowhere; it is left out")
      case .special: notes.append("\(path) is a pipe, a socket or a device; it is left out")
      case .directory, .linkedDirectory, .nothing: break
      }
      return entry
    }
  }
}
