internal import PEFT
internal import TensorFiles
internal import TensorMath

/// A parameter of a module: what the checkpoint holds, and what takes its place while an adapter is active.
public final class NetworkParameter {
  /// The name in the model, such as `model.norm.weight`.
  public let name: String
  /// As the checkpoint holds it.
  let stored: WeightMatrix
  /// What the module computes with.
  private(set) var current: WeightMatrix
  /// The values of a vector.
  private(set) var vector: [Float]
  private let isVector: Bool

  init(name: String, stored: WeightMatrix, isVector: Bool) {
    self.name = name
    self.stored = stored
    self.isVector = isVector
    current = stored
    vector = isVector ? stored.values : []
  }

  /// Lets another value take the stored one's place; nil gives the stored one back.
  func replace(with value: WeightMatrix?) {
    current = value ?? stored
    if isVector { vector = current.values }
  }

  /// The shape of what is stored.
  public var shape: [Int] { isVector ? [stored.columns] : [stored.rows, stored.columns] }
  /// Elements of what is stored.
  public var count: Int { stored.rows * stored.columns }
}

/// The parameters of a checkpoint by their names in the model, mapped and not copied.
public final class ParameterSource {
  let base: BaseModel
  private let files: [MappedFile]

  init(_ base: BaseModel) throws(ModelError) {
    self.base = base
    var files: [MappedFile] = []
    for shard in base.checkpoint.shards {
      files.append(try asModelError { () throws(TensorFileError) in try MappedFile(shard.file) })
    }
    self.files = files
  }

  /// Throws `.file` with `.shortRead` if a file was cut since it was mapped.
  func check() throws(ModelError) {
    for file in files { try asModelError { () throws(TensorFileError) in try file.check() } }
  }

  /// The parameter of a name in the model, of shape `[rows, columns]`. Throws `.parameterMissing`, `.parameterShape`, `.parameterType`, `.quantized`.
  public func matrix(_ name: String, _ rows: Int, _ columns: Int) throws(ModelError) -> NetworkParameter {
    NetworkParameter(name: name, stored: try view(name, [rows, columns]), isVector: false)
  }

  /// The parameter of a name in the model, of shape `[count]`. Throws as `matrix`.
  public func vector(_ name: String, _ count: Int) throws(ModelError) -> NetworkParameter {
    NetworkParameter(name: name, stored: try view(name, [count]), isVector: true)
  }

  /// The reason why parameters of a quantized checkpoint are not what the architecture has; nil if it is not quantized.
  private var quantized: ModelError? { base.quantization.map { .quantized(path: base.path, method: $0) } }

  private func view(_ name: String, _ shape: [Int]) throws(ModelError) -> WeightMatrix {
    guard let file = base.storedName(name) ?? base.tiedName(name), let location = base.checkpoint[file] else {
      throw quantized ?? .parameterMissing(path: base.path, name: name)
    }
    let entry = location.entry
    guard entry.shape == shape else {
      throw quantized ?? .parameterShape(path: base.path, name: name, expected: shape, found: entry.shape)
    }
    let (rows, columns) = (shape.count == 1 ? 1 : shape[0], shape.last ?? 0)
    guard let format = entry.dtype.format else {
      throw quantized ?? .parameterType(path: base.path, name: name, found: entry.dtype.rawValue)
    }
    let map = files[location.shard]
    guard entry.byteRange.upperBound <= map.byteCount else {
      throw .file(
        .shortRead(
          path: map.path, byteOffset: entry.byteRange.lowerBound, expectedBytes: entry.byteRange.count,
          foundBytes: max(0, map.byteCount - entry.byteRange.lowerBound)))
    }
    let pointer = map.start + entry.byteRange.lowerBound
    if format == .f64 {
      let doubles = (0..<rows * columns).map { pointer.loadUnaligned(fromByteOffset: 8 * $0, as: Double.self) }
      return WeightMatrix(doubles.map { Float($0) }, rows: rows, columns: columns)
    }
    return WeightMatrix(pointer: pointer, rows: rows, columns: columns, format: format, owner: map)
  }
}

extension WeightMatrix {
  /// A tensor that a merge computed, in its own dtype.
  init(_ tensor: ComputedTensor) throws(ModelError) {
    guard let format = tensor.dtype.format, tensor.shape.count <= 2 else {
      throw .parameterType(path: "", name: tensor.name, found: tensor.dtype.rawValue)
    }
    let (rows, columns) = (tensor.shape.count == 2 ? tensor.shape[0] : 1, tensor.shape.last ?? 1)
    if format == .f64 {
      self.init(
        tensor.bytes.withUnsafeBytes { bytes in
          (0..<rows * columns).map { Float(bytes.loadUnaligned(fromByteOffset: 8 * $0, as: Double.self)) }
        }, rows: rows, columns: columns)
      return
    }
    self.init(bytes: tensor.bytes, rows: rows, columns: columns, format: format)
  }
}
