internal import LanguageModels
internal import PEFT
internal import TensorFiles
internal import TensorMath

/// A tensor that an adapter holds and that is not trained: saved as it was read.
struct CarriedTensor {
  let name: String
  let dtype: DType
  let shape: [Int]
  let bytes: [UInt8]
}

/// Reads an adapter's tensors, each once, and what is made of them.
final class AdapterReader {
  let model: CausalLanguageModel
  let frozen: FrozenModel
  let config: PeftConfig
  /// What a fresh adapter was drawn with.
  let seed: UInt64
  let linears: [ExactName: FrozenLinear]
  let norms: [ExactName: FrozenNorm]
  private(set) var parameters: [ParameterStore.Initial] = []
  private(set) var carried: [CarriedTensor] = []
  /// Names under which PEFT saves a parameter once more.
  private(set) var aliases: [(name: String, parameter: String)] = []
  private var makers: [(ParameterStore, inout TrainedParts) -> Void] = []
  private var projections: [ExactName: [Float]] = [:]
  private let file: SafetensorsFile
  private var left: Set<ExactName>
  private var claimed: Set<ExactName> = []

  init(_ adapter: StoredAdapter, _ model: CausalLanguageModel, seed: UInt64) throws(ModelError) {
    self.model = model
    frozen = try model.frozen()
    config = adapter.config
    self.seed = seed
    file = adapter.weights
    left = Set(exactly: file.entries.map(\.name))
    linears = Dictionary(
      (frozen.layers.flatMap(\.linears) + [frozen.head]).map { ($0.path, $0) }, uniquingKeysWith: { first, _ in first })
    norms = Dictionary(
      (frozen.layers.flatMap(\.norms) + (frozen.finalNorm.map { [$0] } ?? [])).map { ($0.path, $0) },
      uniquingKeysWith: { first, _ in first })
  }

  /// The beginning of the names of a module's tensors.
  static func stem(_ path: String) -> String { "base_model.model.\(path)" }

  /// True for a tensor that nobody has taken yet.
  func holds(_ name: String) -> Bool { left.contains(name) }

  /// The extents of a tensor; empty if there is none.
  func shape(_ name: String) -> [Int] { file[name]?.shape ?? [] }

  /// Takes a tensor as a parameter to train; nil stands for any extent. Its name.
  ///
  /// Throws `.adapter` with `.tensorMissing`, `.methodShape`.
  @discardableResult
  func train(_ name: String, _ shape: [Int?], isOfLayerNorm: Bool = false) throws(ModelError) -> String {
    let (entry, bytes, format) = try take(name, shape)
    parameters.append(
      ParameterStore.Initial(
        name: name, shape: entry.shape, values: Float.decoded(bytes, format), isOfLayerNorm: isOfLayerNorm))
    return name
  }

  /// Takes a tensor that is not trained, and saves it again. Throws as `train`.
  @discardableResult
  func carry(_ name: String, _ shape: [Int?]) throws(ModelError) -> [Float] {
    let (entry, bytes, format) = try take(name, shape)
    carried.append(CarriedTensor(name: name, dtype: entry.dtype, shape: entry.shape, bytes: bytes))
    return Float.decoded(bytes, format)
  }

  /// Takes a tensor that is made anew from parameters whenever the adapter is saved; its values. Throws as `train`.
  func replaced(_ name: String, _ shape: [Int?]) throws(ModelError) -> [Float] {
    let (_, bytes, format) = try take(name, shape)
    return Float.decoded(bytes, format)
  }

  /// Adds a parameter that no adapter stores.
  func add(_ parameter: ParameterStore.Initial) { parameters.append(parameter) }

  /// A tensor that all modules share, carried once. Throws as `train`.
  func projection(_ name: String, _ shape: [Int?]) throws(ModelError) -> [Float] {
    if let values = projections[name], shape.compactMap({ $0 }).reduce(1, *) == values.count { return values }
    let values = try carry(name, shape)
    projections[name] = values
    return values
  }

  /// Takes a tensor that PEFT saves as another name of a parameter. Throws as `train`.
  func alias(_ name: String, of parameter: String, _ shape: [Int?]) throws(ModelError) {
    _ = try take(name, shape)
    guard parameters.contains(where: { $0.name.isExactly(parameter) }) else {
      throw .adapter(.tensorMissing(path: file.path, module: "a module", tensor: parameter))
    }
    aliases.append((name, parameter))
  }

  /// Says that an adapter acts on a module. Throws `.unsupported` where one does already.
  func claim(_ path: String) throws(ModelError) {
    guard claimed.insert(path).inserted else {
      throw .unsupported(what: "training '\(path)' twice over", reason: "only one adapter of a module is trained here.")
    }
  }

  /// Called once the parameters have their places.
  func make(_ body: @escaping (ParameterStore, inout TrainedParts) -> Void) { makers.append(body) }

  /// The parts with their parameters. Throws `.unsupported` for a tensor that nobody took.
  func parts(_ store: ParameterStore) throws(ModelError) -> TrainedParts {
    if let name = left.min() {
      throw .unsupported(what: "training '\(name)'", reason: "this tensor of the adapter is not trained here.")
    }
    var parts = TrainedParts()
    for make in makers { make(store, &parts) }
    return parts
  }

  /// A number of the method's settings. Throws `.adapter` with `.configValue`.
  func number(_ key: String) throws(ModelError) -> Double {
    switch config.settings[key] {
    case .number(let value)?: return value
    case .integer(let value)?: return Double(value)
    default:
      throw .adapter(
        .configValue(
          path: PeftConfig.fileName, key: key, expected: "a number",
          found: config.settings[key]?.compactText ?? "absent"))
    }
  }

  /// A whole number of the method's settings, within a range. Throws as `number`.
  func integer(_ key: String, _ range: ClosedRange<Int> = 0...1_000_000_000) throws(ModelError) -> Int {
    let value = try number(key)
    guard let whole = Int(exactly: value), range.contains(whole) else {
      throw .adapter(
        .configValue(
          path: PeftConfig.fileName, key: key,
          expected: "a whole number from \(range.lowerBound) to \(range.upperBound)",
          found: config.settings[key]?.compactText ?? "absent"))
    }
    return whole
  }

  /// True if a setting is true.
  func flag(_ key: String) -> Bool { config.settings[key]?.boolValue ?? false }

  private func take(
    _ name: String, _ shape: [Int?]
  ) throws(ModelError) -> (entry: TensorEntry, bytes: [UInt8], format: FloatFormat) {
    guard let entry = file[name] else {
      throw .adapter(.tensorMissing(path: file.path, module: "a module", tensor: name))
    }
    guard entry.shape.count == shape.count, zip(entry.shape, shape).allSatisfy({ $1 == nil ? $0 > 0 : $0 == $1 }),
      let format = entry.dtype.format
    else {
      throw .adapter(.methodShape(path: file.path, tensor: name, found: entry.shape, expected: [shape.map { $0 ?? 0 }]))
    }
    left.remove(ExactName(name))
    do { return (entry, try file.file.bytes(entry.byteRange), format) } catch { throw .file(error) }
  }
}
