internal import TensorFiles

/// Finds the checkpoint's tensor that an adapter's tensor belongs to.
///
/// The ways, in order: the name itself; with the model's prefix added or removed, or under the file's own name for it; as
/// the only name that ends with it; after removing parts that only wrap a model. Never a guess: several answers are
/// an error, and no answer is one too.
struct NameResolver {
  private let base: BaseModel
  private let names: [String]

  init(_ base: BaseModel) {
    self.base = base
    names = base.checkpoint.names
  }

  /// The name in the checkpoint of a tensor named as in the model, such as `model.layers.0.mlp.up_proj.weight`.
  ///
  /// Returns nil if no tensor answers to it. Throws `.ambiguous`.
  func resolve(_ name: String) throws(AdapterError) -> String? {
    if base.checkpoint[name] != nil { return name }
    if let fileName = base.fileNames[name] { return fileName }
    // An adapter may have the names that the file's modules had before the model was renamed.
    if let renaming = base.family?.renaming, !renaming.isEmpty, let fileName = base.fileNames[renaming.modelName(name)]
    {
      return fileName
    }
    for candidate in familyNames(name) {
      if base.checkpoint[candidate] != nil { return candidate }
      if let fileName = base.fileNames[candidate] { return fileName }
    }
    if let found = try only(endingWith: name, for: name) { return found }
    var parts = name.parts()
    while let first = parts.first, ModelFamily.wrapperNames.contains(String(first)), parts.count > 3 {
      parts.removeFirst()
      let rest = parts.joined(separator: ".")
      if base.checkpoint[rest] != nil { return rest }
      if let found = try only(endingWith: rest, for: name) { return found }
    }
    return nil
  }

  private func familyNames(_ name: String) -> [String] {
    var candidates: [String] = []
    if let prefix = base.family?.prefix {
      if name.hasPrefix("\(prefix).") { candidates.append(String(name.dropFirst(prefix.count + 1))) }
      candidates.append("\(prefix).\(name)")
    }
    for (model, file) in base.family?.fileNames ?? [:] where name.hasPrefix("\(model).") {
      candidates.append(file + name.dropFirst(model.count))
    }
    return candidates
  }

  private func only(endingWith suffix: String, for name: String) throws(AdapterError) -> String? {
    let found = names.filter { $0.endsExactly(".\(suffix)") }
    if found.count <= 1 { return found.first }
    let wrapped = found.filter { candidate in
      candidate.dropLast(suffix.count).parts()
        .allSatisfy { ModelFamily.wrapperNames.contains(String($0)) }
    }
    guard wrapped.count == 1 else { throw .ambiguous(base: base.path, module: name, candidates: found) }
    return wrapped[0]
  }

  /// Names in the checkpoint that look most like `name`, for an error.
  func nearest(_ name: String) -> [String] {
    let last = lastPart(name.hasSuffix(".weight") ? String(name.dropLast(7)) : name)
    let sameLast = names.filter { $0.endsExactly(".\(last).weight") || $0.isExactly("\(last).weight") }
    if !sameLast.isEmpty { return Array(sameLast.prefix(2)) }
    let stems = Set(exactly: names.filter { $0.hasSuffix(".weight") }.map { lastPart(String($0.dropLast(7))) })
    return nearestNames(to: last, in: stems.sorted().map(\.text))
  }
}
