public import TensorFiles

/// What can be said of an adapter from its configuration and its header, for any method.
public struct AdapterSummary: Sendable {
  /// Modules or tensors that differ only in a layer's number.
  public struct Group: Sendable {
    /// The path with `{…}` for the number: `model.layers.{0-21}.self_attn.q_proj`.
    public let name: String
    public let count: Int
    public let shapes: [[Int]]
    public let dtype: DType
    /// For LoRA modules; nil for tensors.
    public let scaling: LoRAScaling.Values?
  }

  /// What the bytes are for.
  public enum ByteClass: String, Sendable, CaseIterable {
    case adapter
    case savedModules = "modules_to_save"
    case baseCopies = "base copies"
  }

  public let directory: String
  public let config: PeftConfig
  public let weightsPath: String
  /// LoRA modules, layers folded. Empty for other methods.
  public let modules: [Group]
  /// All other tensors, layers folded.
  public let tensors: [Group]
  public let tensorCount: Int
  public let parameterCount: Int
  public let bytes: [ByteClass: Int]
  /// Bytes by dtype.
  public let bytesByDType: [DType: Int]

  /// Reads the configuration and the header. Nothing is refused that can be read.
  ///
  /// Throws `.configMissing` and the other configuration cases, `.weightsMissing`, `.noTensors`, `.file`.
  public init(directory: String) throws(AdapterError) {
    let config = try PeftConfig.load(directory: directory)
    let file = try Adapter.openWeights(directory)
    let scaling =
      config.peftType == .lora
      ? try LoRAScaling(config, path: FileSystem.join(directory, PeftConfig.fileName)) : nil
    var modules = Folding()
    var tensors = Folding()
    var bytes: [ByteClass: Int] = [:]
    var bytesByDType: [DType: Int] = [:]
    for entry in file.entries {
      bytes[Self.byteClass(entry.name, config), default: 0] += entry.byteRange.count
      bytesByDType[entry.dtype, default: 0] += entry.byteRange.count
      let name = Self.withoutPrefix(entry.name)
      let suffix = ".lora_A.weight"
      if let scaling, name.hasSuffix(suffix) {
        let path = String(name.dropLast(suffix.count))
        let other = file[entry.name.dropLast(suffix.count) + ".lora_B.weight"]
        modules.add(
          path, shapes: [entry.shape] + (other.map { [$0.shape] } ?? []), entry.dtype, try scaling.values(for: path))
      } else if scaling == nil || !name.hasSuffix(".lora_B.weight") {
        tensors.add(name, shapes: [entry.shape], entry.dtype, nil)
      }
    }
    self.directory = directory
    self.config = config
    weightsPath = file.path
    self.modules = modules.groups
    self.tensors = tensors.groups
    tensorCount = file.entries.count
    parameterCount = file.entries.reduce(0) { $0 + $1.elementCount }
    self.bytes = bytes
    self.bytesByDType = bytesByDType
  }

  private static func withoutPrefix(_ name: String) -> String {
    name.hasPrefix(Adapter.prefix) ? String(name.dropFirst(Adapter.prefix.count)) : name
  }

  private static func byteClass(_ name: String, _ config: PeftConfig) -> ByteClass {
    if name.contains(".base_layer.weight") { return .baseCopies }
    if name.contains(".lora_") || config.peftType != .lora { return .adapter }
    let path = name.split(separator: ".").dropLast().joined(separator: ".")
    let isSaved = (config.modulesToSave ?? []).contains { path.hasSuffix($0) }
    if isSaved { return .savedModules }
    return name.hasSuffix(".weight") ? .baseCopies : .adapter
  }
}

/// Groups names that differ only in their first number.
private struct Folding {
  private struct Key: Hashable {
    let before: String
    let after: String
    let shapes: [[Int]]
    let dtype: DType
    let scaling: LoRAScaling.Values?
  }

  private var layers: [Key: [Int]] = [:]
  private var order: [Key] = []

  mutating func add(_ path: String, shapes: [[Int]], _ dtype: DType, _ scaling: LoRAScaling.Values?) {
    let parts = path.split(separator: ".", omittingEmptySubsequences: false)
    let index = parts.firstIndex { Int($0) != nil }
    let before = index.map { parts[..<$0].joined(separator: ".") } ?? path
    let after = index.map { parts[($0 + 1)...].joined(separator: ".") } ?? ""
    let key = Key(before: before, after: after, shapes: shapes, dtype: dtype, scaling: scaling)
    if layers[key] == nil {
      layers[key] = []
      order.append(key)
    }
    if let index, let layer = Int(parts[index]) { layers[key]?.append(layer) }
  }

  var groups: [AdapterSummary.Group] {
    order.map { key in
      let numbers = layers[key] ?? []
      var name = key.before
      if !numbers.isEmpty {
        let range = Self.ranges(numbers.sorted())
        name = [key.before, numbers.count == 1 ? range : "{\(range)}", key.after].filter { !$0.isEmpty }
          .joined(separator: ".")
      }
      return AdapterSummary.Group(
        name: name, count: max(1, numbers.count), shapes: key.shapes, dtype: key.dtype, scaling: key.scaling)
    }.sorted { naturallyPrecedes($0.name, $1.name) }
  }

  /// "0-3,7" for 0, 1, 2, 3, 7.
  private static func ranges(_ numbers: [Int]) -> String {
    var parts: [(first: Int, last: Int)] = []
    for number in numbers {
      if let last = parts.last, last.last + 1 == number {
        parts[parts.count - 1].last = number
      } else {
        parts.append((number, number))
      }
    }
    return parts.map { $0.first == $0.last ? "\($0.first)" : "\($0.first)-\($0.last)" }.joined(separator: ",")
  }
}
