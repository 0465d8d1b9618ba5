internal import TensorFiles

extension Adapter {
  /// The tensors of one module of another method than LoRA.
  struct MethodPart: Sendable {
    /// The path in the model.
    let path: String
    /// Tensors by their roles, such as `ia3_l`.
    let tensors: [ExactName: TensorEntry]
  }
}

/// The tensors of another method's file sorted into parts by their names.
struct MethodParts {
  var modules: [Adapter.MethodPart] = []
  /// Tensors of the whole adapter, by what follows `base_model.`, or by their whole names.
  var shared: [ExactName: TensorEntry] = [:]
  var replacements: [Adapter.Replacement] = []
  var baseCopies: [ExactName: TensorEntry] = [:]
  var foreignPrefixes: Set<String> = []

  /// Throws `.tensorUnexpected` for a name that is neither the method's nor a saved module's, `.tensorRepeated`.
  init(_ file: SafetensorsFile, _ config: PeftConfig, _ method: AdapterMethod) throws(AdapterError) {
    var byPath: [ExactName: [ExactName: TensorEntry]] = [:]
    var names: [ExactName: String] = [:]
    for entry in file.entries {
      let (name, foreign) = AdapterName.withoutForeignParts(entry.name)
      foreignPrefixes.formUnion(foreign)
      guard name.hasPrefix(Adapter.prefix) else {
        let rest = name.hasPrefix("base_model.") ? String(name.dropFirst("base_model.".count)) : name
        // Prompts leave the model unwrapped, so a head beside them has no `model.` before it.
        if case .none = method.merging, !method.prefixes.contains(where: { rest.hasPrefix($0) }) {
          let plain = AdapterName.withoutWrappers(rest)
          let module = plain.split(separator: ".").dropLast().joined(separator: ".")
          guard config.savesModule(module) else { throw .tensorUnexpected(path: file.path, tensor: entry.name) }
          replacements.append(Adapter.Replacement(name: plain, entry: entry, isSavedModule: true))
          continue
        }
        guard method.prefixes.contains(where: { rest.hasPrefix($0) }) else {
          throw .tensorUnexpected(path: file.path, tensor: entry.name)
        }
        shared[rest] = entry
        continue
      }
      let inner = String(name.dropFirst(Adapter.prefix.count))
      if let (path, role) = method.split(inner) {
        if let other = byPath[path, default: [:]].updateValue(entry, forKey: role) {
          throw .tensorRepeated(path: file.path, tensor: entry.name, other: other.name)
        }
      } else if inner.hasSuffix(".base_layer.weight") {
        baseCopies[String(inner.dropLast(".base_layer.weight".count))] = entry
      } else {
        let plain = AdapterName.withoutWrappers(inner)
        if inner.contains(".original_module.") || (!inner.isExactly(plain) && file[Adapter.prefix + plain] != nil) {
          continue
        }
        if let other = names.updateValue(entry.name, forKey: plain) {
          throw .tensorRepeated(path: file.path, tensor: entry.name, other: other)
        }
        let module = plain.parts().dropLast().joined(separator: ".")
        guard config.savesModule(module) || plain.hasSuffix(".bias") || plain.hasSuffix(".weight") else {
          throw .tensorUnexpected(path: file.path, tensor: entry.name)
        }
        replacements.append(
          Adapter.Replacement(name: plain, entry: entry, isSavedModule: config.savesModule(module)))
      }
    }
    modules = byPath.map { Adapter.MethodPart(path: $0.key.text, tensors: $0.value) }
    modules.sort { naturallyPrecedes($0.path, $1.path) }
    replacements.sort { naturallyPrecedes($0.name, $1.name) }
  }
}
