internal import TensorFiles

/// The matrix that a module's weight is seen as.
public struct WeightShape: Sendable, Hashable {
  /// Output features.
  public let output: Int
  /// Inputs, kernels counted: all that one output reads.
  public let input: Int
  /// The kernel's extents; empty for linear layers.
  public let kernel: [Int]
  public let isEmbedding: Bool
  /// True if the weight is stored `[in, out]`.
  public let isTransposed: Bool

  /// Input channels, kernels not counted.
  public var channels: Int { input / max(1, kernel.reduce(1, *)) }
}

/// Random values that all modules of an adapter share: drawn for the first module, and kept for the others.
final class SharedDraws {
  /// Projections, for the rank that all modules have.
  var projections: (rank: Int, a: Projection, b: Projection)?
  /// Places of shared values.
  var places: SharedPlaces?
}

/// The tensors that a method stores for one module, and what they act on: what a rule is made of.
public struct MethodModule: MethodSettings {
  public let config: PeftConfig
  public let configPath: String
  let file: OpenFile
  /// The path in the model.
  public let path: String
  /// Tensors by what follows the module's path: `ia3_l`, `oft_R.weight`.
  let tensors: [ExactName: TensorEntry]
  /// Tensors of the whole adapter, by what follows `base_model.`: `vera_A`.
  let shared: [ExactName: TensorEntry]
  public let shape: WeightShape
  /// Modules of the adapter.
  public let moduleCount: Int
  /// All modules of the adapter with their shapes, in the order in which the model registers them; nil where that order
  /// is not known.
  public let siblings: [Sibling]?
  /// Greatest output and input of all modules.
  public let largest: (output: Int, input: Int)
  /// The configuration's patterns, for all modules together.
  public let patterns: PatternCache
  /// What is drawn once for all modules.
  let draws: SharedDraws

  /// Another module of the same adapter.
  public struct Sibling: Sendable {
    public let path: String
    public let output: Int
    public let input: Int
  }

  /// A tensor that must be there, of one of the given shapes.
  public func tensor(_ role: String, _ shapes: [Int]...) throws(AdapterError) -> StoredTensor {
    guard let entry = tensors[role] else {
      throw .tensorMissing(path: file.path, module: path, tensor: role)
    }
    return try checked(entry, shapes)
  }

  /// A tensor of the whole adapter.
  public func sharedTensor(_ role: String, _ shapes: [Int]...) throws(AdapterError) -> StoredTensor {
    guard let entry = shared[role] else {
      throw .tensorMissing(path: file.path, module: "base_model", tensor: role)
    }
    return try checked(entry, shapes)
  }

  private func checked(_ entry: TensorEntry, _ shapes: [[Int]]) throws(AdapterError) -> StoredTensor {
    guard shapes.isEmpty || shapes.contains(entry.shape) else {
      throw .methodShape(path: file.path, tensor: entry.name, found: entry.shape, expected: shapes)
    }
    guard entry.dtype.isComputable || entry.name.contains("indices") || entry.name.contains("s_size") else {
      throw .adapterDType(path: file.path, tensor: entry.name, dtype: entry.dtype)
    }
    return StoredTensor(file: file, entry: entry)
  }

  /// A tensor with any number of rows or the like: the check sees the shape. Throws `.methodShape` if it is false.
  public func tensor(
    _ role: String, _ form: String, where fits: ([Int]) -> Bool
  ) throws(AdapterError) -> StoredTensor {
    let tensor = try tensor(role)
    guard fits(tensor.shape) else {
      throw .methodShape(path: file.path, tensor: tensor.entry.name, found: tensor.shape, expected: [], form: form)
    }
    return tensor
  }

  /// Indices that the rule uses as positions; each must lie in the range.
  public func indices(_ tensor: StoredTensor, in range: Range<Int>) throws(AdapterError) -> [Int] {
    let found = try asAdapterError { () throws(TensorFileError) in try tensor.integers(in: range) }
    guard let found else {
      throw .methodIndex(path: file.path, tensor: tensor.entry.name, limit: range.upperBound)
    }
    return found
  }

  /// The refusal of a convolution with groups, if that is why a size is a multiple of what the weight needs.
  public func groupedConvolution(found: Int?, expected: Int) -> AdapterError? {
    guard let found, !shape.kernel.isEmpty, expected > 0, found > expected, found.isMultiple(of: expected) else {
      return nil
    }
    return refuse("it is a convolution with groups, which PEFT cannot merge either.")
  }

  /// Elements that a rule may make of what few stored bytes say: a gigabyte of them.
  static let madeLimit = 1 << 28

  /// Refuses shapes of factors that are made, not stored, and are too large together.
  func requireRoom(for shapes: [Int]..., what: String) throws(AdapterError) {
    var left = Self.madeLimit
    for shape in shapes {
      guard let count = checkedProduct(shape), count <= left else {
        throw refuse("\(what) would take over \(Self.madeLimit / (1 << 18)) MB.")
      }
      left -= count
    }
  }

  /// Says why this adapter cannot be merged.
  public func refuse(_ reason: String) -> AdapterError {
    .unsupported(path: file.path, what: "\(config.peftType.rawValue) on '\(path)'", reason: reason)
  }
}
