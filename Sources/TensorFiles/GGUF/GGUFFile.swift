/// A GGUF file whose header has been read and checked. The data stays on the disk.
///
/// Invariant: tensors begin at multiples of the alignment, lie within the file and share no byte.
/// Source: gguf/gguf_reader.py `GGUFReader`; ggml/src/gguf.cpp `gguf_init_from_file_ptr`.
public struct GGUFFile: Sendable {
  /// A tensor of the file.
  public struct Tensor: Sendable, Hashable {
    @ExactName public var name: String
    public let type: GGUFType
    /// Extents, row-major: the reverse of the file's.
    public let shape: [Int]
    /// The bytes in the file.
    public let byteRange: Range<Int>
  }

  /// A key of the metadata and its value.
  public struct Member: Sendable, Equatable {
    @ExactName public var key: String
    public let value: GGUFValue

    public init(_ key: String, _ value: GGUFValue) {
      _key = ExactName(key)
      self.value = value
    }
  }

  /// What a file begins with.
  public static let magic: [UInt8] = Array("GGUF".utf8)
  /// Headers above this are no model's: the largest vocabularies take a tenth of it.
  public static let headerLimit = 100_000_000
  /// Values that a file's metadata may have in all.
  static let valueLimit = 4_000_000
  /// What data is aligned to, where the file does not say.
  public static let defaultAlignment = 32

  public let file: OpenFile
  /// In the order of the file.
  public let metadata: [Member]
  /// In the order of the file.
  public let tensors: [Tensor]
  /// What tensors begin at multiples of.
  public let alignment: Int

  public var path: String { file.path }

  /// The value of a key; nil if the file does not have it.
  public subscript(_ key: String) -> GGUFValue? { metadata.first { $0.key.isExactly(key) }?.value }

  /// True if a file begins as GGUF does.
  public static func isOne(_ path: String) -> Bool {
    guard FileSystem.kind(path) == .file, let file = try? OpenFile.open(reading: path) else { return false }
    return (try? file.bytes(0..<4)) == magic
  }

  /// Opens a file and checks its header in full.
  ///
  /// Throws `.ggufMalformed` with the place of the damage, `.ggufTensor`, `.system`, `.notAFile`.
  /// Cost: reads the header only; memory in proportion to what of it is in the file.
  public init(path: String) throws(TensorFileError) {
    var cursor = try GGUFCursor(path: path)
    guard try cursor.bytes(4, "the magic number") == Self.magic[...] else {
      throw .ggufMalformed(path: path, byteOffset: 0, reason: "the file does not begin with 'GGUF'")
    }
    let version: UInt32 = try cursor.integer("the version")
    guard version == 2 || version == 3 else {
      throw cursor.malformed(
        version & 0xFFFF == 0 ? "the file is big-endian" : "version \(version); 2 and 3 are read", at: 4)
    }
    // Least sizes: a name's length, dimensions, type and offset; a key's length, a type and a byte.
    let tensorCount = try cursor.count("the number of tensors", leastBytes: 24)
    let memberCount = try cursor.count("the number of keys", leastBytes: 13)
    let metadata = try Self.metadata(memberCount, &cursor)
    alignment = try Self.alignment(metadata, cursor)
    let parsed = try Self.entries(tensorCount, &cursor)
    let dataOffset = Self.rounded(cursor.position, alignment)
    tensors = try Self.placed(parsed, dataOffset: dataOffset, alignment: alignment, cursor)
    self.metadata = metadata
    file = cursor.file
  }

  private static func metadata(_ count: Int, _ cursor: inout GGUFCursor) throws(TensorFileError) -> [Member] {
    var members: [Member] = []
    var keys: Set<ExactName> = []
    for _ in 0..<count {
      let start = cursor.position
      let key = try cursor.text("a key")
      guard keys.insert(ExactName(key)).inserted else {
        throw cursor.malformed("the key '\(key)' stands twice", at: start)
      }
      let kind = try cursor.kind()
      members.append(Member(key, try cursor.value(kind, depth: 0)))
    }
    return members
  }

  private static func alignment(_ metadata: [Member], _ cursor: GGUFCursor) throws(TensorFileError) -> Int {
    guard let member = metadata.first(where: { $0.key == "general.alignment" }) else { return defaultAlignment }
    guard case .u32(let value) = member.value, value > 0, value & (value - 1) == 0, value <= 1 << 24 else {
      throw cursor.malformed("general.alignment is no power of two up to 2^24 in 32 bits", at: cursor.position)
    }
    return Int(value)
  }

  private struct Parsed {
    let name: String
    let type: GGUFType
    let shape: [Int]
    let byteCount: Int
    let offset: UInt64
  }

  private static func entries(_ count: Int, _ cursor: inout GGUFCursor) throws(TensorFileError) -> [Parsed] {
    var parsed: [Parsed] = []
    var names: Set<ExactName> = []
    for _ in 0..<count {
      let start = cursor.position
      let name = try cursor.text("a tensor's name")
      guard names.insert(ExactName(name)).inserted else {
        throw cursor.malformed("the tensor '\(name)' stands twice", at: start)
      }
      let dimensions: UInt32 = try cursor.integer("the number of dimensions")
      guard dimensions <= 4 else {
        throw .ggufTensor(path: cursor.path, tensor: name, reason: "\(dimensions) dimensions; at most 4 are allowed")
      }
      var extents: [Int] = []
      for _ in 0..<dimensions {
        let extent: UInt64 = try cursor.integer("an extent")
        guard let extent = Int(exactly: extent) else {
          throw .ggufTensor(path: cursor.path, tensor: name, reason: "an extent of \(extent)")
        }
        extents.append(extent)
      }
      let number: UInt32 = try cursor.integer("a tensor's type")
      let offset: UInt64 = try cursor.integer("a tensor's offset")
      guard let type = GGUFType(number: number) else {
        throw .ggufTensor(path: cursor.path, tensor: name, reason: "type \(number), which is not known")
      }
      guard (extents.first ?? 1) % type.blockElements == 0 else {
        throw .ggufTensor(
          path: cursor.path, tensor: name,
          reason: "rows of \(extents.first ?? 1) elements, which are no whole blocks of \(type.name)")
      }
      let shape = Array(extents.reversed())
      guard let elements = TensorEntry.elementCount(shape) else {
        throw .ggufTensor(
          path: cursor.path, tensor: name, reason: "shape \(shape) has more elements than can be counted")
      }
      let (byteCount, overflow) = (elements / type.blockElements).multipliedReportingOverflow(by: type.blockBytes)
      guard !overflow else {
        throw .ggufTensor(path: cursor.path, tensor: name, reason: "shape \(shape) has more bytes than can be counted")
      }
      parsed.append(Parsed(name: name, type: type, shape: shape, byteCount: byteCount, offset: offset))
    }
    return parsed
  }

  private static func placed(
    _ parsed: [Parsed], dataOffset: Int, alignment: Int, _ cursor: GGUFCursor
  ) throws(TensorFileError) -> [Tensor] {
    var tensors: [Tensor] = []
    for entry in parsed {
      guard entry.offset % UInt64(alignment) == 0 else {
        throw .ggufTensor(
          path: cursor.path, tensor: entry.name,
          reason: "its offset \(entry.offset) is no multiple of the alignment \(alignment)")
      }
      let room = cursor.fileBytes - dataOffset
      guard entry.byteCount == 0 || (room >= entry.byteCount && entry.offset <= UInt64(room - entry.byteCount)) else {
        throw .ggufTensor(
          path: cursor.path, tensor: entry.name,
          reason: "\(entry.byteCount) bytes from data byte \(entry.offset) on, but the file has \(max(0, room))")
      }
      let start = entry.byteCount == 0 ? dataOffset : dataOffset + Int(entry.offset)
      tensors.append(
        Tensor(name: entry.name, type: entry.type, shape: entry.shape, byteRange: start..<start + entry.byteCount))
    }
    let filled = tensors.filter { !$0.byteRange.isEmpty }.sorted { $0.byteRange.lowerBound < $1.byteRange.lowerBound }
    for (first, second) in zip(filled, filled.dropFirst())
    where second.byteRange.lowerBound < first.byteRange.upperBound {
      throw .ggufTensor(path: cursor.path, tensor: second.name, reason: "it shares bytes with '\(first.name)'")
    }
    return tensors
  }

  /// The next multiple of the alignment.
  static func rounded(_ position: Int, _ alignment: Int) -> Int { (position + alignment - 1) / alignment * alignment }
}
