public import TensorFiles
public import TensorMath

/// A module that gets a fresh adapter of a method: what its first values are made of.
public struct FreshModule: MethodSettings {
  public let config: PeftConfig
  public let configPath: String
  let base: BaseModel
  public let module: BaseModel.Module
  /// All modules that get the adapter, in the order in which the model registers them.
  public let siblings: [BaseModel.Module]
  /// This module's place among them.
  public let index: Int
  public let patterns: PatternCache

  public var path: String { module.path }
  /// The dtype of the weight.
  var dtype: DType { base.checkpoint[module.weightName]?.entry.dtype ?? .f32 }
  /// Output features.
  public var output: Int { module.outFeatures }
  /// Input features; of a convolution its channels.
  public var input: Int { module.inFeatures }
  /// A kernel's extents; empty for other layers.
  public var kernel: [Int] { module.kind == .convolution ? Array(module.shape.dropFirst(2)) : [] }
  /// All that one output reads, kernels counted.
  public var fullInput: Int { kernel.reduce(input, *) }
  /// Greatest output and input of all modules.
  public var largest: (output: Int, input: Int) {
    (siblings.map(\.outFeatures).max() ?? 0, siblings.map(\.inFeatures).max() ?? 0)
  }
  /// Whether the layer has a bias.
  public var hasBias: Bool { base.checkpoint[String(module.weightName.dropLast("weight".count) + "bias")] != nil }

  /// The rank: a whole number that a weight can have.
  public func rank(_ key: String = "r", pattern map: String? = nil) throws(AdapterError) -> Int {
    guard let map else { return try integer(key, 1...LoRAScaling.greatestRank) }
    let found = try number(key, pattern: map)
    guard let rank = Int(exactly: found), (1...LoRAScaling.greatestRank).contains(rank) else {
      throw .configValue(
        path: configPath, key: key, expected: "a whole number from 1 to \(LoRAScaling.greatestRank)",
        found: "\(found)")
    }
    return rank
  }

  /// Whether values start so that nothing changes: PEFT only asks whether the setting is true.
  public func startsNeutral(_ key: String = "init_weights") -> Bool {
    switch setting(key) {
    case .bool(false), .null, .string(""): false
    default: true
    }
  }

  /// The weight as a matrix `[out, in]`, kernels counted as inputs. Throws `.file`.
  public func weight() throws(AdapterError) -> Matrix<Double> { try base.matrix(of: module) }

  /// Says that a setting is not what the module can take.
  public func refuse(_ key: String, expected: String) -> AdapterError {
    .configValue(path: configPath, key: key, expected: "\(expected) for '\(path)'", found: setting(key).compactText)
  }

  /// Says why a fresh adapter with this is not made.
  public func unmade(_ what: String, _ reason: String) -> AdapterError {
    .notMade(path: configPath, what: "\(what) on '\(path)'", reason: reason)
  }
}

extension BaseModel {
  /// A module's weight as a matrix `[out, in]`, kernels counted as inputs; an embedding's as it is stored. Throws `.file`.
  func matrix(of module: Module) throws(AdapterError) -> Matrix<Double> {
    try asAdapterError { () throws(TensorFileError) in
      guard let location = checkpoint[module.weightName], let format = location.entry.dtype.format else {
        return Matrix(rows: 0, columns: 0)
      }
      let bytes = try checkpoint.shards[location.shard].file.bytes(location.entry.byteRange)
      let (rows, columns) = (module.shape[0], module.shape.dropFirst().reduce(1, *))
      let matrix = Matrix(rows: rows, columns: columns, values: Double.decoded(bytes, format))
      return module.kind == .transposedLinear ? matrix.transposed : matrix
    }
  }
}

/// A tensor of a fresh adapter.
public struct FreshTensor: Sendable {
  /// What is written.
  public enum Values: Sendable {
    /// Rounded to the base weight's dtype, as PEFT moves what it has drawn there, and stored in f32.
    case floats([Float])
    /// As they are.
    case bytes([UInt8], DType)
    /// What the base holds.
    case copy(Checkpoint.Location)
  }

  /// What follows the module's path.
  public let name: String
  public let shape: [Int]
  public let values: Values
  /// True for a tensor of the whole adapter: the name follows `base_model.`.
  public var isShared = false

  /// The same, for the whole adapter.
  public var shared: FreshTensor {
    var tensor = self
    tensor.isShared = true
    return tensor
  }

  /// The values drawn; empty for others.
  public var floats: [Float] { if case .floats(let values) = values { values } else { [] } }

  /// Whole numbers of four or eight bytes.
  public init(_ name: String, _ shape: [Int], wholes: [Int], _ dtype: DType) {
    var bytes: [UInt8] = []
    for value in wholes {
      for byte in 0..<dtype.bitCount / 8 { bytes.append(UInt8(truncatingIfNeeded: value >> (8 * byte))) }
    }
    self.init(name: name, shape: shape, values: .bytes(bytes, dtype))
  }

  public init(_ name: String, _ shape: [Int], _ values: [Float]) {
    self.init(name: name, shape: shape, values: .floats(values))
  }

  /// Values that are stored in a dtype of fewer bits.
  init(_ name: String, _ shape: [Int], _ values: [Float], stored dtype: DType) {
    guard let format = dtype.format else { preconditionFailure("no dtype of numbers") }
    var bytes = [UInt8](repeating: 0, count: values.count * format.byteCount)
    var span = bytes.mutableSpan
    var raw = span.mutableBytes
    encode(values.span, to: format, into: &raw)
    self.init(name: name, shape: shape, values: .bytes(bytes, dtype))
  }

  public init(name: String, shape: [Int], values: Values) {
    self.name = name
    self.shape = shape
    self.values = values
  }
}

/// Where fresh values come from: torch's stream, and how many values an adapter may have.
public struct FreshSource {
  var generator: TorchGenerator
  /// Values that may still be made. More come of a damaged configuration only.
  private var left: Int
  private let configPath: String
  /// Tensors that modules share, under the names of those that they were drawn for.
  var made: [ExactName: FreshTensor] = [:]

  /// - Parameter weights: elements of the weights that get the adapter, four times of which it may have, and at least a gigabyte's.
  init(seed: UInt64, weights: Int, configPath: String) {
    generator = TorchGenerator(seed: seed)
    left = max(1 << 28, weights.multipliedReportingOverflow(by: 4).partialValue)
    self.configPath = configPath
  }

  /// How many values a shape has. Throws `.tooManyValues` where the adapter has no use for so many.
  public mutating func count(_ name: String, _ shape: [Int]) throws(AdapterError) -> Int {
    var count = 1
    for extent in shape {
      let (product, overflow) = count.multipliedReportingOverflow(by: extent)
      guard !overflow, product <= left, extent >= 0 else {
        throw .freshTensorTooLarge(path: configPath, tensor: name, shape: shape)
      }
      count = product
    }
    left -= count
    return count
  }

  /// `kaiming_uniform_(a: √5)`: uniform within ±1/√fanIn.
  public mutating func uniform(_ name: String, _ shape: [Int], fanIn: Int) throws(AdapterError) -> FreshTensor {
    let count = try count(name, shape)
    return FreshTensor(name, shape, generator.kaimingUniform(count: count, fanIn: fanIn))
  }

  /// Uniform within ±bound.
  public mutating func uniform(_ name: String, _ shape: [Int], within bound: Double) throws(AdapterError) -> FreshTensor
  {
    let count = try count(name, shape)
    return FreshTensor(name, shape, generator.uniform(count: count, low: Float(-bound), high: Float(bound)))
  }

  /// Normal values; those of `torch.randn` unless said otherwise.
  public mutating func normal(
    _ name: String, _ shape: [Int], mean: Double = 0, deviation: Double = 1
  ) throws(AdapterError) -> FreshTensor {
    let count = try count(name, shape)
    return FreshTensor(name, shape, generator.normal(count: count, mean: mean, deviation: deviation))
  }

  /// Normal values of a tensor of that dtype: below f32 they are rounded, and drawn in another order.
  mutating func normal(
    _ name: String, _ shape: [Int], deviation: Double = 1, like dtype: DType
  ) throws(AdapterError) -> FreshTensor {
    guard let format = dtype.format, format == .bf16 || format == .f16 else {
      return try normal(name, shape, deviation: deviation)
    }
    let count = try count(name, shape)
    let values = generator.narrowNormal(count: count, mean: 0, deviation: deviation)
    return FreshTensor(name, shape, AdapterInitializer.rounded(values, dtype))
  }

  /// One value everywhere; draws nothing.
  public mutating func filled(_ name: String, _ shape: [Int], _ value: Float = 0) throws(AdapterError) -> FreshTensor {
    FreshTensor(name, shape, [Float](repeating: value, count: try count(name, shape)))
  }
}
