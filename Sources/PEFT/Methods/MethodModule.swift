internal import TensorFiles

/// The matrix that a module's weight is seen as.
struct WeightShape: Sendable, Hashable {
  /// Output features.
  let output: Int
  /// Inputs, kernels counted: all that one output reads.
  let input: Int
  /// The kernel's extents; empty for linear layers.
  let kernel: [Int]
  let isEmbedding: Bool
  /// True if the weight is stored `[in, out]`.
  let isTransposed: Bool

  /// Input channels, kernels not counted.
  var channels: Int { input / max(1, kernel.reduce(1, *)) }
}

/// Random values that all modules of an adapter share: drawn for the first module, and kept for the others.
final class SharedDraws {
  /// Projections, for the rank that all modules have.
  var projections: (rank: Int, a: Projection, b: Projection)?
  /// Places of shared values, and the scale of each value.
  var places: (all: [Int64], useScales: [Float])?
}

/// The tensors that a method stores for one module, and what they act on: what a rule is made of.
struct MethodModule {
  let config: PeftConfig
  let configPath: String
  let file: File
  /// The path in the model.
  let path: String
  /// Tensors by what follows the module's path: `ia3_l`, `oft_R.weight`.
  let tensors: [ExactName: TensorEntry]
  /// Tensors of the whole adapter, by what follows `base_model.`: `vera_A`.
  let shared: [ExactName: TensorEntry]
  let shape: WeightShape
  /// Modules of the adapter.
  let moduleCount: Int
  /// All modules of the adapter with their shapes, in the order in which the model registers them; nil where that order
  /// is not known.
  let siblings: [Sibling]?
  /// Greatest output and input of all modules.
  let largest: (output: Int, input: Int)
  /// The configuration's patterns, for all modules together.
  let patterns: PatternCache
  /// What is drawn once for all modules.
  let draws: SharedDraws

  /// Another module of the same adapter.
  struct Sibling: Sendable {
    let path: String
    let output: Int
    let input: Int
  }

  /// A tensor that must be there, of one of the given shapes.
  func tensor(_ role: String, _ shapes: [Int]...) throws(AdapterError) -> StoredTensor {
    guard let entry = tensors[role] else {
      throw .tensorMissing(path: file.path, module: path, tensor: role)
    }
    return try checked(entry, shapes)
  }

  /// A tensor of the whole adapter.
  func sharedTensor(_ role: String, _ shapes: [Int]...) throws(AdapterError) -> StoredTensor {
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
  func tensor(
    _ role: String, _ form: String, where fits: ([Int]) -> Bool
  ) throws(AdapterError) -> StoredTensor {
    let tensor = try tensor(role)
    guard fits(tensor.shape) else {
      throw .methodShape(path: file.path, tensor: tensor.entry.name, found: tensor.shape, expected: [], form: form)
    }
    return tensor
  }

  /// Indices that the rule uses as positions; each must lie in the range.
  func indices(_ tensor: StoredTensor, in range: Range<Int>) throws(AdapterError) -> [Int] {
    let found = try asAdapterError { () throws(TensorFileError) in try tensor.integers(in: range) }
    guard let found else {
      throw .methodIndex(path: file.path, tensor: tensor.entry.name, limit: range.upperBound)
    }
    return found
  }

  // MARK: Settings

  /// A setting of the configuration.
  func setting(_ key: String) -> JSONValue { config.settings[key] ?? .null }

  /// A setting that must be a number.
  func number(_ key: String) throws(AdapterError) -> Double {
    guard let value = PythonNumber(json: setting(key)) else {
      throw .configValue(path: configPath, key: key, expected: "a number", found: setting(key).compactText)
    }
    return value.doubleValue
  }

  /// A setting that must be a whole number within a range.
  func integer(_ key: String, _ range: ClosedRange<Int>) throws(AdapterError) -> Int {
    guard let value = setting(key).integerValue, range.contains(value) else {
      throw .configValue(
        path: configPath, key: key, expected: "a whole number from \(range.lowerBound) to \(range.upperBound)",
        found: setting(key).compactText)
    }
    return value
  }

  func flag(_ key: String) -> Bool { setting(key) == .bool(true) }

  /// A number, or the value of the first of a map's patterns that matches the module.
  ///
  /// Source: peft/utils/other.py `get_pattern_key`.
  func number(_ key: String, pattern map: String) throws(AdapterError) -> Double {
    for member in setting(map).members ?? [] {
      let pattern = try patterns.pattern("(.*\\.)?(\(member.key))$")
      guard try pattern.matchesStart(path) else { continue }
      guard let value = PythonNumber(json: member.value) else {
        throw .configValue(path: configPath, key: map, expected: "numbers", found: member.value.compactText)
      }
      return value.doubleValue
    }
    return try number(key)
  }

  /// The refusal of a convolution with groups, if that is why a size is a multiple of what the weight needs.
  func groupedConvolution(found: Int?, expected: Int) -> AdapterError? {
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
  func refuse(_ reason: String) -> AdapterError {
    .unsupported(path: file.path, what: "\(config.peftType.rawValue) on '\(path)'", reason: reason)
  }
}
