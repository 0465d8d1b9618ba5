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
    var modules = LayerFolding<LoRAScaling.Values?>()
    var tensors = LayerFolding<LoRAScaling.Values?>()
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
    self.modules = modules.groups.map(Group.init)
    self.tensors = tensors.groups.map(Group.init)
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
    let path = name.parts().dropLast().joined(separator: ".")
    let isSaved = (config.modulesToSave ?? []).contains { path.endsExactly($0) }
    if isSaved { return .savedModules }
    return name.hasSuffix(".weight") ? .baseCopies : .adapter
  }
}

extension AdapterSummary.Group {
  fileprivate init(_ group: LayerFolding<LoRAScaling.Values?>.Group) {
    self.init(
      name: group.name, count: group.count, shapes: group.shapes, dtype: group.dtype, scaling: group.extra)
  }
}
