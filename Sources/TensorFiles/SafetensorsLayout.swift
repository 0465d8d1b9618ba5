/// The plan of a safetensors file to be written: header and places, before any data exists.
public struct SafetensorsLayout: Sendable {
  /// A tensor to be written.
  public struct Item: Sendable, Hashable {
    @ExactName public var name: String
    public let dtype: DType
    public let shape: [Int]

    public init(name: String, dtype: DType, shape: [Int]) {
      _name = ExactName(name)
      self.dtype = dtype
      self.shape = shape
    }

    /// Bytes of data; a packed dtype is rounded up.
    public var byteCount: Int { (shape.reduce(1, *) * dtype.bitCount + 7) / 8 }
  }

  /// What data begins at a multiple of.
  public enum Alignment: Int, Sendable {
    /// 8 bytes, as the safetensors library pads.
    case library = 8
    /// 64 bytes, a cache line.
    case cacheLine = 64
  }

  /// The length field, the JSON and its padding.
  public let header: [UInt8]
  /// One entry an item, in the items' order.
  public let entries: [TensorEntry]
  /// Length of the whole file.
  public let fileBytes: Int

  /// Lays items out in the given order.
  ///
  /// `metadata` is kept as given, with `format: pt` added if it has no `format`: transformers refuses a file without.
  /// - Parameter namesFormat: false for files of others than transformers, which do not name it.
  /// Throws `.tooManyTensors`, `.headerTooLargeToWrite`.
  public init(
    path: String, items: [Item], metadata: [JSONValue.Member] = [], alignment: Alignment = .cacheLine,
    namesFormat: Bool = true
  ) throws(TensorFileError) {
    guard items.count <= SafetensorsFile.tensorLimit else {
      throw .tooManyTensors(path: path, count: items.count, limit: SafetensorsFile.tensorLimit)
    }
    var metadata = metadata
    if namesFormat, !metadata.contains(where: { $0.key == "format" }) {
      metadata.append(JSONValue.Member("format", .string("pt")))
    }
    var members = metadata.isEmpty ? [] : [JSONValue.Member("__metadata__", .object(metadata))]
    var position = 0
    for item in items {
      let end = position + item.byteCount
      members.append(
        JSONValue.Member(
          item.name,
          .object([
            JSONValue.Member("dtype", .string(item.dtype.rawValue)),
            JSONValue.Member("shape", .array(item.shape.map { .integer($0) })),
            JSONValue.Member("data_offsets", .array([.integer(position), .integer(end)])),
          ])))
      position = end
    }
    var json = Array(JSONValue.object(members).compactText.utf8)
    let unpadded = 8 + json.count
    let padded = (unpadded + alignment.rawValue - 1) / alignment.rawValue * alignment.rawValue
    json += [UInt8](repeating: 0x20, count: padded - unpadded)
    guard json.count <= SafetensorsFile.headerLimit else {
      throw .headerTooLargeToWrite(path: path, headerBytes: json.count, limit: SafetensorsFile.headerLimit)
    }
    header = (0..<8).map { UInt8(truncatingIfNeeded: json.count >> ($0 * 8)) } + json
    var entries: [TensorEntry] = []
    position = header.count
    for item in items {
      entries.append(
        TensorEntry(
          name: item.name, dtype: item.dtype, shape: item.shape,
          byteRange: position..<position + item.byteCount))
      position += item.byteCount
    }
    self.entries = entries
    fileBytes = position
  }

  /// The order in which the safetensors library writes: wider dtypes first, then by name.
  public static func libraryOrder(_ items: [Item]) -> [Item] {
    let rank = Dictionary(uniqueKeysWithValues: DType.allCases.enumerated().map { ($1, $0) })
    return items.sorted { left, right in
      let (a, b) = (rank[left.dtype] ?? 0, rank[right.dtype] ?? 0)
      return a != b ? a > b : ExactName(left.name) < ExactName(right.name)
    }
  }

  /// Creates the file with its header and full length; the data is still to be written. Throws `.system`.
  public func create(at path: String, permissions: FilePermissions = .open) throws(TensorFileError) -> OpenFile {
    let file = try OpenFile.create(path, permissions: permissions)
    try begin(file)
    return file
  }

  /// Opens the file that several programs write, or creates it with its full length. Throws `.system`, `.notAFile`.
  ///
  /// - Parameter writingHeader: for one of the programs.
  package func open(
    at path: String, writingHeader: Bool, permissions: FilePermissions
  ) throws(TensorFileError) -> OpenFile {
    let file = try OpenFile.open(sharing: path, permissions: permissions)
    try file.allocate(fileBytes)
    if writingHeader { try file.write(header.span.bytes, at: 0) }
    return file
  }

  /// Creates the file in memory. Throws `.system`.
  public func createInMemory(named name: String) throws(TensorFileError) -> OpenFile {
    let file = try OpenFile.inMemory(named: name)
    try begin(file)
    return file
  }

  private func begin(_ file: OpenFile) throws(TensorFileError) {
    try file.allocate(fileBytes)
    try file.write(header.span.bytes, at: 0)
  }
}
