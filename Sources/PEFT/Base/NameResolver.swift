internal import TensorFiles

/// Finds the checkpoint's tensor that an adapter's tensor belongs to.
///
/// The ways, in order: the name itself; with the model's prefix added or removed, or under the file's own name for it; as
/// the only name that ends with it; after removing parts that only wrap a model. Never a guess: several answers are
/// an error, and no answer is one too.
struct NameResolver {
  private let base: BaseModel
  private let names: [String]
  private let endings: Endings

  /// The names in the order of their bytes from the last to the first, made when the first name is not found as it is.
  private final class Endings {
    private let names: [String]
    private lazy var order = names.indices.sorted { Self.precedes(names[$0], names[$1]) }

    init(_ names: [String]) { self.names = names }

    private static func precedes(_ left: String, _ right: String) -> Bool {
      let (a, b) = (left.utf8Span.span, right.utf8Span.span)
      for place in 0..<min(a.count, b.count) where a[a.count - 1 - place] != b[b.count - 1 - place] {
        return a[a.count - 1 - place] < b[b.count - 1 - place]
      }
      return a.count < b.count
    }

    /// All names that end so, in their own order.
    func names(endingWith suffix: String) -> [String] {
      var (low, high) = (0, order.count)
      while low < high {
        let middle = (low + high) / 2
        if Self.precedes(names[order[middle]], suffix) { low = middle + 1 } else { high = middle }
      }
      return order[low...].prefix { names[$0].endsExactly(suffix) }.sorted().map { names[$0] }
    }
  }

  init(_ base: BaseModel) {
    self.base = base
    names = base.checkpoint.names
    endings = Endings(names)
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
    let found = endings.names(endingWith: ".\(suffix)")
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
