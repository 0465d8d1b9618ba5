internal import TensorFiles

/// The names of tensors in an adapter's file.
enum AdapterName {
  /// Parts that wrappers of the whole model leave in names: `torch.compile`, `DataParallel` and its kin, FSDP.
  static let foreignParts: Set<String> = ["_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"]

  /// The name without what wrappers added, and the parts that were left out.
  ///
  /// `module` counts as foreign only at the beginning of the name or of the model's own part: models have modules of that
  /// name too. Any adapter name after `lora_A` and the like, as in a raw state dict, is left out as well.
  static func withoutForeignParts(_ name: String) -> (name: String, foreign: Set<String>) {
    // Most names hold none of them anywhere, and are not taken apart.
    guard name.holds(defaultAdapter) || foreignParts.contains(where: { name.holds($0) }) else { return (name, []) }
    let found = name.parts(keepingEmpty: true)
    guard found.contains(where: { $0.isExactly(defaultAdapter) || foreignParts.containsExactly($0) }) else {
      return (name, [])
    }
    var parts = found.map(String.init)
    var foreign: Set<String> = []
    while let first = parts.first, foreignParts.contains(first) { foreign.insert(parts.removeFirst()) }
    if parts.starts(with: ["base_model", "model"]) {
      while parts.count > 2, foreignParts.contains(parts[2]) { foreign.insert(parts.remove(at: 2)) }
    }
    parts.removeAll { part in
      guard part != "module", foreignParts.contains(part) else { return false }
      foreign.insert(part)
      return true
    }
    // SHADOW's names keep it: PEFT 0.21.2 saves and reads them so.
    if parts.count > 2, let index = parts.firstIndex(where: isMethodPart), index > 0,
      !parts[index].hasPrefix("shadow_"), let name = parts[index...].firstIndex(of: defaultAdapter)
    {
      foreign.insert(parts.remove(at: name))
    }
    return (parts.joined(separator: "."), foreign)
  }

  /// The name that PEFT gives an adapter which gets none.
  private static let defaultAdapter = "default"

  /// True for what methods begin the last parts of names with, such as `lora_A` and `hada_w1_a`.
  private static func isMethodPart(_ part: String) -> Bool {
    part.hasPrefix("lora_") || AdapterMethod.allPrefixes.contains { part.hasPrefix($0) }
  }

  /// The name of a tensor in the model: without what wrappers added, and without `base_model.model.`; nil if that is not
  /// there.
  static func inModel(_ name: String) -> String? {
    let plain = withoutForeignParts(name).name
    return plain.hasPrefix(Adapter.prefix) ? String(plain.dropFirst(Adapter.prefix.count)) : nil
  }

  /// The module of a LoRA's tensor, and what the tensor is to it; nil if the name is no LoRA's.
  static func lora(_ name: String) -> (path: String, role: LoRARole)? { inModel(name).flatMap(LoRARole.split) }

  /// All LoRA tensors of a file by module and role.
  static func loraModules(in file: SafetensorsFile) -> [ExactName: [LoRARole: TensorEntry]] {
    var modules: [ExactName: [LoRARole: TensorEntry]] = [:]
    for entry in file.entries {
      if let (path, role) = lora(entry.name) { modules[path, default: [:]][role] = entry }
    }
    return modules
  }

  /// The name without the infixes that PEFT's wrappers add: `base_layer`, `modules_to_save`, `modules_to_save.default`.
  static func withoutWrappers(_ name: String) -> String {
    var parts = name.parts().map(String.init)
    if let index = parts.firstIndex(of: "modules_to_save") {
      parts.remove(at: index)
      if index < parts.count - 1, parts[index] == "default" { parts.remove(at: index) }
    }
    parts.removeAll { $0 == "base_layer" }
    return parts.joined(separator: ".")
  }
}
