/// A safetensors file whose header has been read and checked. The data stays on the disk.
///
/// Invariant: the entries, in the order of their bytes, cover the data exactly, without gap or overlap.
/// Source: safetensors `tensor.rs`, `SafeTensors::read_metadata` and `Metadata::validate`; stricter in two points: a key
/// that stands twice is refused, and so are whitespace-free prefixes such as a byte-order mark.
public struct SafetensorsFile: Sendable {
  /// The format's limit on the header's length.
  public static let headerLimit = 100_000_000

  /// Tensors that a model may have, in all its files together: a third more than the largest mixtures of experts have. Each takes
  /// a kilobyte of memory or two until a merge is written.
  public static let tensorLimit = 200_000

  public let file: OpenFile
  /// `__metadata__` in the order of the file; empty if absent.
  public let metadata: [JSONValue.Member]
  /// All tensors in the order of their bytes.
  public let entries: [TensorEntry]
  /// Places in `entries` by name.
  private let positions: [ExactName: Int]
  /// Where the data begins in the file.
  public let dataOffset: Int
  /// Keys inside entries that the format does not know ("tensor.key"). Allowed, but worth a word.
  public let unknownEntryKeys: [String]

  public var path: String { file.path }

  /// The entry of that name, if the file has it.
  public subscript(_ name: String) -> TensorEntry? { self[ExactName(name)] }

  /// As for plain text.
  public subscript(_ name: ExactName) -> TensorEntry? { positions[name].map { entries[$0] } }

  /// Opens a file and checks its header in full.
  ///
  /// Throws: one case of `TensorFileError` for each kind of damage (see there), `.system` when the file cannot be read.
  /// Cost: reads the header only; memory in proportion to it, and only after its length was checked against the file's.
  public init(path: String) throws(TensorFileError) {
    let file = try OpenFile.open(reading: path)
    let fileBytes = try file.byteCount()
    guard fileBytes >= 8 else { throw .fileTooShort(path: path, byteCount: fileBytes) }
    let lengthBytes = try file.bytes(0..<8)
    let claimed = lengthBytes.reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
    guard claimed <= UInt64(Self.headerLimit) else {
      throw .headerTooLarge(path: path, headerBytes: claimed, limit: Self.headerLimit)
    }
    let headerBytes = Int(claimed)
    guard headerBytes <= fileBytes - 8 else {
      throw .headerPastEnd(path: path, headerBytes: headerBytes, fileBytes: fileBytes)
    }
    let header = try file.bytes(8..<8 + headerBytes)
    let parser = HeaderParser(path: path, dataBytes: fileBytes - 8 - headerBytes, dataOffset: 8 + headerBytes)
    let parsed = try parser.parse(header)
    self.file = file
    metadata = parsed.metadata
    entries = parsed.entries
    unknownEntryKeys = parsed.unknownKeys
    dataOffset = 8 + headerBytes
    positions = Dictionary(uniqueKeysWithValues: parsed.entries.enumerated().map { (ExactName($1.name), $0) })
  }

  /// A file that was laid out and written here: nothing of it is read again.
  public init(_ file: OpenFile, layout: SafetensorsLayout) {
    self.init(unchecked: file, entries: layout.entries)
  }

  /// A view of another file in which tensors have other names, or stand several times or not at all.
  init(_ file: SafetensorsFile, entries: [TensorEntry]) {
    self.file = file.file
    metadata = file.metadata
    self.entries = entries
    unknownEntryKeys = file.unknownEntryKeys
    dataOffset = file.dataOffset
    positions = Dictionary(uniqueKeysWithValues: entries.enumerated().map { (ExactName($1.name), $0) })
  }

  /// A file of which only the entries are known; for torch's files, whose entries may share bytes.
  init(unchecked file: OpenFile, entries: [TensorEntry]) {
    self.file = file
    metadata = []
    self.entries = entries
    unknownEntryKeys = []
    dataOffset = 0
    positions = Dictionary(entries.enumerated().map { ($1.name, $0) }, uniquingKeysWith: { first, _ in first })
  }
}
