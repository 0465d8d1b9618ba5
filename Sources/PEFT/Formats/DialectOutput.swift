internal import TensorFiles

/// A tensor under a name.
struct NamedTensor: Sendable {
  let name: String
  let tensor: MadeTensor

  init(_ name: String, _ tensor: MadeTensor) {
    self.name = name
    self.tensor = tensor
  }
}

/// What a conversion writes, before anything is written.
struct DialectOutput: Sendable {
  /// A file of the output.
  enum Content: Sendable {
    case text(String)
    case safetensors([NamedTensor], metadata: [JSONValue.Member], namesFormat: Bool)
    case gguf([NamedTensor], metadata: [GGUFFile.Member])
  }

  /// By their names in the output's directory; the first holds the tensors.
  var files: [(name: String, content: Content)]
  /// What of the values was rounded, and other things worth a line.
  var notes: [String] = []

  /// Tensors in all files.
  var tensorCount: Int {
    files.reduce(0) { sum, file in
      switch file.content {
      case .text: sum
      case .safetensors(let tensors, _, _): sum + tensors.count
      case .gguf(let tensors, _): sum + tensors.count
      }
    }
  }

  /// Writes a directory, or, where there is one file and `path` ends as its name does, that file. The output appears whole
  /// or not at all. Throws `.file`, and what reading the tensors throws.
  func write(to path: String, replacing: Bool, inputs: [String]) throws(AdapterError) {
    let ending = files[0].name.split(separator: ".").last.map { ".\($0)" } ?? ""
    let isFile = files.count == 1 && path.hasSuffix(ending)
    if isFile, FileSystem.kind(path) == .directory || (FileSystem.exists(path) && !replacing) {
      throw .file(.outputExists(path: path))
    }
    let work = isFile ? path + ".directory" : path
    let target = try asAdapterError { () throws(TensorFileError) in
      try OutputDirectory(target: work, replacing: replacing && !isFile, inputs: isFile ? [] : inputs)
    }
    do throws(AdapterError) {
      for file in files {
        let path = target.path(file.name)
        try asAdapterError { () throws(TensorFileError) in
          try FileSystem.makeDirectories(FileSystem.parentDirectory(path))
        }
        try Self.write(file.content, to: path)
      }
      try asAdapterError { () throws(TensorFileError) in
        if isFile {
          try FileSystem.move(target.path(files[0].name), to: path, replacing: replacing)
          target.discard()
        } else {
          try target.commit(durable: false)
        }
      }
    } catch {
      target.discard()
      throw error
    }
  }

  private static func write(_ content: Content, to path: String) throws(AdapterError) {
    switch content {
    case .text(let text):
      try asAdapterError { () throws(TensorFileError) in try OpenFile.create(path).write(text) }
    case .safetensors(let tensors, let metadata, let namesFormat):
      let (layout, made) = try safetensorsLayout(tensors, metadata, namesFormat, path: path)
      let file = try asAdapterError { () throws(TensorFileError) in try layout.create(at: path) }
      for entry in layout.entries {
        guard let tensor = made[ExactName(entry.name)] else { continue }
        let bytes = try tensor.bytes()
        try asAdapterError { () throws(TensorFileError) in
          try file.write(bytes.span.bytes, at: entry.byteRange.lowerBound)
        }
      }
    case .gguf(let tensors, let metadata):
      let layout = GGUFLayout(metadata: metadata, items: tensors.compactMap(\.ggufItem))
      let file = try asAdapterError { () throws(TensorFileError) in try layout.create(at: path) }
      for (place, named) in zip(layout.tensors, tensors) {
        let bytes = try named.tensor.bytes()
        try asAdapterError { () throws(TensorFileError) in
          try file.write(bytes.span.bytes, at: place.byteRange.lowerBound)
        }
      }
    }
  }

  /// Where tensors lie in a file of the safetensors library. Throws `.tensorRepeated`, `.file`.
  static func safetensorsLayout(
    _ tensors: [NamedTensor], _ metadata: [JSONValue.Member], _ namesFormat: Bool, path: String
  ) throws(AdapterError) -> (SafetensorsLayout, [ExactName: MadeTensor]) {
    var made: [ExactName: MadeTensor] = [:]
    for named in tensors where made.updateValue(named.tensor, forKey: ExactName(named.name)) != nil {
      throw .tensorRepeated(path: path, tensor: named.name, other: named.name)
    }
    let items = tensors.map { SafetensorsLayout.Item(name: $0.name, dtype: $0.tensor.dtype, shape: $0.tensor.shape) }
    let layout = try asAdapterError { () throws(TensorFileError) in
      try SafetensorsLayout(
        path: path, items: SafetensorsLayout.libraryOrder(items), metadata: metadata, alignment: .library,
        namesFormat: namesFormat)
    }
    return (layout, made)
  }
}

extension NamedTensor {
  fileprivate var ggufItem: GGUFLayout.Item? {
    GGUFType(tensor.dtype).map { GGUFLayout.Item(name: name, type: $0, shape: tensor.shape) }
  }
}
