/// The plan of a GGUF file to be written, version 3: header and places, before any data exists.
public struct GGUFLayout: Sendable {
  /// A tensor to be written.
  public struct Item: Sendable, Hashable {
    @ExactName public var name: String
    public let type: GGUFType
    /// Extents, row-major.
    public let shape: [Int]

    /// Traps if rows are no whole blocks of the type.
    public init(name: String, type: GGUFType, shape: [Int]) {
      precondition((shape.last ?? 1) % type.blockElements == 0, "rows of '\(name)' are no whole blocks")
      _name = ExactName(name)
      self.type = type
      self.shape = shape
    }

    /// Bytes of data.
    public var byteCount: Int { shape.reduce(1, *) / type.blockElements * type.blockBytes }
  }

  /// Everything before the data, padded.
  public let header: [UInt8]
  /// One an item, in the items' order.
  public let tensors: [GGUFFile.Tensor]
  /// Length of the whole file; the last tensor's data is padded too, as llama.cpp writes it.
  public let fileBytes: Int

  /// Lays items out in the given order, at multiples of `GGUFFile.defaultAlignment`.
  public init(metadata: [GGUFFile.Member], items: [Item]) {
    var bytes = GGUFFile.magic
    bytes.appendLittleEndian(UInt32(3))
    bytes.appendLittleEndian(UInt64(items.count))
    bytes.appendLittleEndian(UInt64(metadata.count))
    for member in metadata {
      bytes.appendText(member.key)
      bytes.appendLittleEndian(member.value.kind.rawValue)
      member.value.append(to: &bytes)
    }
    var offset = 0
    var offsets: [Int] = []
    for item in items {
      bytes.appendText(item.name)
      bytes.appendLittleEndian(UInt32(item.shape.count))
      for extent in item.shape.reversed() { bytes.appendLittleEndian(UInt64(extent)) }
      bytes.appendLittleEndian(item.type.number)
      bytes.appendLittleEndian(UInt64(offset))
      offsets.append(offset)
      offset = GGUFFile.rounded(offset + item.byteCount, GGUFFile.defaultAlignment)
    }
    let start = GGUFFile.rounded(bytes.count, GGUFFile.defaultAlignment)
    bytes += [UInt8](repeating: 0, count: start - bytes.count)
    header = bytes
    tensors = zip(items, offsets).map { item, offset in
      GGUFFile.Tensor(
        name: item.name, type: item.type, shape: item.shape,
        byteRange: start + offset..<start + offset + item.byteCount)
    }
    fileBytes = start + offset
  }

  /// Creates the file with its header and full length; the data is still to be written. Throws `.system`.
  public func create(at path: String) throws(TensorFileError) -> OpenFile {
    let file = try OpenFile.create(path)
    try file.allocate(fileBytes)
    try file.write(header.span.bytes, at: 0)
    return file
  }
}
