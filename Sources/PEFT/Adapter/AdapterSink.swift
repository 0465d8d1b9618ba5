public import TensorFiles
internal import TensorMath

/// The tensors of an adapter that is being made: their places are fixed, their values are written one after another, in any
/// order and from any task.
public struct AdapterSink: Sendable {
  /// A tensor of the adapter: its name as PEFT's files have it, such as
  /// `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`.
  public typealias Item = SafetensorsLayout.Item

  private let layout: SafetensorsLayout
  private let places: [ExactName: TensorEntry]
  private let file: OpenFile

  /// Tensors in a file that does not exist yet, in the order in which PEFT's library writes them. Throws `.system`,
  /// `.headerTooLargeToWrite`.
  package init(
    at path: String, _ items: [Item], metadata: [JSONValue.Member] = [], permissions: FilePermissions = .open
  ) throws(TensorFileError) {
    layout = try Self.layout(path, items, metadata)
    places = Dictionary(layout.entries.map { ($0.name, $0) }, uniquingKeysWith: { first, _ in first })
    file = try layout.create(at: path, permissions: permissions)
  }

  /// Tensors in memory. Throws `.system`, `.headerTooLargeToWrite`.
  package init(inMemory name: String, _ items: [Item], metadata: [JSONValue.Member] = []) throws(TensorFileError) {
    layout = try Self.layout(name, items, metadata)
    places = Dictionary(layout.entries.map { ($0.name, $0) }, uniquingKeysWith: { first, _ in first })
    file = try layout.createInMemory(named: name)
  }

  private static func layout(
    _ path: String, _ items: [Item], _ metadata: [JSONValue.Member]
  ) throws(TensorFileError) -> SafetensorsLayout {
    try SafetensorsLayout(
      path: path, items: SafetensorsLayout.libraryOrder(items), metadata: metadata, alignment: .library)
  }

  /// What was written, to be read.
  package var tensors: SafetensorsFile { SafetensorsFile(file, layout: layout) }

  /// Places of the tensors, in the order of their bytes.
  package var entries: [TensorEntry] { layout.entries }

  /// Writes bytes of a tensor, in its dtype. Traps if the adapter has no such tensor, or the bytes go past its end.
  ///
  /// Throws `.file`.
  public func write(_ bytes: RawSpan, to name: String, at byteOffset: Int = 0) throws(AdapterError) {
    do { try put(bytes, to: name, at: byteOffset) } catch { throw .file(error) }
  }

  /// As `write`. Throws `.system`.
  package func put(_ bytes: RawSpan, to name: String, at byteOffset: Int = 0) throws(TensorFileError) {
    let range = place(name).byteRange
    precondition(byteOffset >= 0 && byteOffset + bytes.byteCount <= range.count, "bytes past the end of '\(name)'")
    try file.write(bytes, at: range.lowerBound + byteOffset)
  }

  /// Writes values of a tensor, rounded once to its dtype (to nearest, ties to even).
  ///
  /// - Parameter start: the element that the first value is.
  /// Traps as `write(_:to:at:)`, and for a dtype that is no floating-point number. Throws `.file`.
  public func write(_ values: [Float], to name: String, from start: Int = 0) throws(AdapterError) {
    guard let format = place(name).dtype.format else {
      preconditionFailure("'\(name)' holds no floating-point numbers")
    }
    var bytes = [UInt8](repeating: 0, count: values.count * format.byteCount)
    var span = bytes.mutableSpan
    var raw = span.mutableBytes
    encode(values.span, to: format, into: &raw)
    try write(bytes.span.bytes, to: name, at: start * format.byteCount)
  }

  /// Copies a tensor of another file whose dtype and shape are the same. Throws `.file`.
  public func copy(_ entry: TensorEntry, of source: SafetensorsFile, to name: String) throws(AdapterError) {
    let place = place(name)
    precondition(place.byteRange.count == entry.byteRange.count, "'\(name)' has another size than '\(entry.name)'")
    do { try file.copy(entry.byteRange, from: source.file, to: place.byteRange.lowerBound) } catch {
      throw .file(error)
    }
  }

  /// Copies bytes of another file into a tensor. Traps as `write(_:to:at:)`. Throws `.system`, `.shortRead`.
  package func copy(
    _ range: Range<Int>, of source: SafetensorsFile, to name: String, at byteOffset: Int
  ) throws(TensorFileError) {
    let place = place(name).byteRange
    precondition(byteOffset >= 0 && byteOffset + range.count <= place.count, "bytes past the end of '\(name)'")
    try file.copy(range, from: source.file, to: place.lowerBound + byteOffset)
  }

  private func place(_ name: String) -> TensorEntry {
    guard let place = places[ExactName(name)] else { preconditionFailure("the adapter has no tensor '\(name)'") }
    return place
  }
}
