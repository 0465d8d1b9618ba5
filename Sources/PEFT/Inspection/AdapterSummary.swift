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
    let pairs = AdapterName.loraModules(in: file)
    for entry in file.entries {
      bytes[Self.byteClass(entry.name, config), default: 0] += entry.byteRange.count
      bytesByDType[entry.dtype, default: 0] += entry.byteRange.count
      let lora = AdapterName.lora(entry.name)
      if let scaling, let (path, role) = lora, role.isFirstFactor {
        let other = pairs[path]?[role.partner]
        modules.add(
          path, shapes: [entry.shape] + (other.map { [$0.shape] } ?? []), entry.dtype,
          try scaling.values(ofModule: path, rows: entry.shape.first ?? 0))
      } else if scaling == nil
        || lora.map({ !$0.role.isSecondFactor || pairs[$0.path]?[$0.role.partner] == nil }) ?? true
      {
        tensors.add(
          AdapterName.inModel(entry.name) ?? AdapterName.withoutForeignParts(entry.name).name, shapes: [entry.shape],
          entry.dtype, nil)
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

  private static func byteClass(_ name: String, _ config: PeftConfig) -> ByteClass {
    if name.holds(".base_layer.weight") { return .baseCopies }
    if name.holds(LoRARole.mark) || config.peftType != .lora { return .adapter }
    let path = name.parts().dropLast().joined(separator: ".")
    if config.savedTails.contains(endOf: path) { return .savedModules }
    return name.hasSuffix(".weight") ? .baseCopies : .adapter
  }
}

extension AdapterSummary.Group {
  fileprivate init(_ group: LayerFolding<LoRAScaling.Values?>.Group) {
    self.init(
      name: group.name, count: group.count, shapes: group.shapes, dtype: group.dtype, scaling: group.extra)
  }
}
