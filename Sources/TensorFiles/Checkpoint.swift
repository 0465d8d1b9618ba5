/// A model's tensors on disk: one safetensors file, or the shards of an index. Headers only; the data stays on the disk.
///
/// Invariant: every tensor name belongs to exactly one shard, and an index agrees with the headers both ways.
public struct Checkpoint: Sendable {
  /// A tensor and the shard that holds it.
  public struct Location: Sendable, Hashable {
    public let shard: Int
    public let entry: TensorEntry
  }

  /// The directory of the shards.
  public let directory: String
  /// The files, in the order of their names.
  public let shards: [SafetensorsFile]
  /// The index, if there is one: its file's name and content.
  public let index: ShardIndex?
  /// Shard and place in it, by name; empty for a single file, which knows its own.
  private let places: [ExactName: (shard: Int, place: Int)]

  public static let singleName = "model.safetensors"
  public static let indexName = "model.safetensors.index.json"
  /// The file that torch's models are saved as.
  public static let torchName = "pytorch_model.bin"
  /// Names under which a torch file holds a tensor a second time, and the first name. They are not among `names`.
  public let aliases: [ExactName: String]

  /// Where a tensor lies, or nil.
  public subscript(_ name: String) -> Location? { self[ExactName(name)] }

  /// As for plain text.
  public subscript(_ name: ExactName) -> Location? {
    if shards.count == 1 { return shards[0][name].map { Location(shard: 0, entry: $0) } }
    return places[name].map { Location(shard: $0.shard, entry: shards[$0.shard].entries[$0.place]) }
  }

  /// All names, in the order of their code points.
  public let names: [String]

  /// Number of tensors.
  public var tensorCount: Int { names.count }

  /// Bytes of tensor data in all shards.
  public var dataBytes: Int {
    shards.reduce(0) { $0 + $1.entries.reduce(0) { $0 + $1.byteRange.count } }
  }

  /// Opens a `.safetensors` file, an index, or a directory with either.
  ///
  /// In a directory, `model.safetensors` comes before `model.safetensors.index.json`, as in transformers; without both,
  /// a single index or a single `.safetensors` file of another name is taken.
  /// Throws: `.noCheckpoint`; `.shardAlone` for one shard of several without their index; the header cases; for an index `.indexMalformed`, `.indexPathEscapes`, `.shardMissing`,
  /// `.tensorMissingFromShard`, `.tensorNotInIndex`.
  public init(path: String) throws(TensorFileError) {
    switch FileSystem.kind(path) {
    case .file?:
      if path.hasSuffix(".index.json") {
        try self.init(index: ShardIndex(path: path))
      } else if path.hasSuffix(".safetensors") || path.hasSuffix(".bin") {
        try self.init(file: path)
      } else {
        throw .noCheckpoint(path: path, found: [FileSystem.lastComponent(path)])
      }
    case .directory?:
      let names = try FileSystem.names(in: path)
      let files = names.filter { $0.hasSuffix(".safetensors") }
      let indexes = names.filter { $0.hasSuffix(".safetensors.index.json") }
      if names.contains(Self.singleName) {
        try self.init(file: FileSystem.join(path, Self.singleName))
      } else if names.contains(Self.indexName) || indexes.count == 1 {
        let name = names.contains(Self.indexName) ? Self.indexName : indexes[0]
        try self.init(index: ShardIndex(path: FileSystem.join(path, name)))
      } else if files.count == 1 {
        try self.init(file: FileSystem.join(path, files[0]))
      } else if files.isEmpty, names.contains(Self.torchName) {
        try self.init(file: FileSystem.join(path, Self.torchName))
      } else if files.isEmpty, names.contains("\(Self.torchName).index.json") {
        try self.init(index: ShardIndex(path: FileSystem.join(path, "\(Self.torchName).index.json")))
      } else {
        throw .noCheckpoint(
          path: path, found: names.filter { $0.hasSuffix(".bin") || $0.hasSuffix(".safetensors") })
      }
    default: throw .system(path: path, operation: "open", code: 2)
    }
  }

  /// The number of shards that a shard's name tells, as in `model-00001-of-00002.safetensors`; nil for other names, and for
  /// the only shard of one.
  package static func shardCount(inName name: String) -> Int? {
    guard let range = name.firstRange(of: "-of-") else { return nil }
    let number = name[..<range.lowerBound].split(separator: "-").last ?? ""
    let total = name[range.upperBound...].prefix { $0 != "." }
    guard !number.isEmpty, number.allSatisfy(\.isNumber), let count = Int(total), count > 1 else { return nil }
    return count
  }

  private init(file path: String) throws(TensorFileError) {
    if let count = Self.shardCount(inName: FileSystem.lastComponent(path)) {
      throw .shardAlone(path: path, count: count)
    }
    let (files, aliases) = try SafetensorsFile.openAny(path: path)
    self.init(directory: FileSystem.parentDirectory(path), shards: files, index: nil, aliases: aliases)
  }

  private init(index: ShardIndex) throws(TensorFileError) {
    let directory = FileSystem.parentDirectory(index.path)
    var shards: [SafetensorsFile] = []
    var places: [ExactName: (shard: Int, place: Int)] = [:]
    var aliases: [ExactName: String] = [:]
    for (name, tensors) in index.tensorsByShard {
      let path = FileSystem.join(directory, name)
      guard FileSystem.kind(path) == .file else {
        throw .shardMissing(path: index.path, shard: name, tensorCount: tensors.count)
      }
      guard ModelFiles.isInside(directory, linked: path) else {
        throw .indexPathEscapes(path: index.path, shard: name)
      }
      let (files, second) = try SafetensorsFile.openAny(path: path)
      for tensor in tensors where second[tensor] == nil && !files.contains(where: { $0[tensor] != nil }) {
        throw .tensorMissingFromShard(path: index.path, tensor: tensor, shard: name)
      }
      for file in files {
        for (place, entry) in file.entries.enumerated() {
          let listed = index.shardOfTensor[entry.name]
          guard let listed, listed.isExactly(name) else {
            throw .tensorNotInIndex(
              path: index.path, tensor: entry.name, shard: name, listedIn: index.shardOfTensor[entry.name])
          }
          places[entry.name] = (shards.count, place)
        }
        shards.append(file)
      }
      aliases.merge(second) { first, _ in first }
    }
    self.aliases = aliases
    self.directory = directory
    self.shards = shards
    self.index = index
    self.places = places
    names = places.keys.sorted().map(\.text)
  }
}

extension Checkpoint {
  /// The same data under other names: each tensor gets the names that `names` gives it, none, one or several.
  ///
  /// For plans of new files only; the files themselves keep their names. Traps if two tensors get one name.
  package func renamed(_ names: (String) -> [String]) -> Checkpoint {
    let shards = shards.map { shard in
      SafetensorsFile(
        shard,
        entries: shard.entries.flatMap { entry in
          names(entry.name).map {
            TensorEntry(name: $0, dtype: entry.dtype, shape: entry.shape, byteRange: entry.byteRange)
          }
        })
    }
    return Checkpoint(directory: directory, shards: shards, index: index, aliases: aliases)
  }

  private init(directory: String, shards: [SafetensorsFile], index: ShardIndex?, aliases: [ExactName: String]) {
    self.aliases = aliases
    self.directory = directory
    self.shards = shards
    self.index = index
    let isSingle = shards.count == 1
    places =
      isSingle
      ? [:]
      : Dictionary(
        uniqueKeysWithValues: shards.enumerated().flatMap { number, shard in
          shard.entries.enumerated().map { (ExactName($1.name), (number, $0)) }
        })
    names = (isSingle ? shards[0].entries.map { ExactName($0.name) } : Array(places.keys)).sorted().map(\.text)
  }
}
