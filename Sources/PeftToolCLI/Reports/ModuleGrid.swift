internal import PEFT

/// Paths laid out by what they are and by the number of their layer.
///
/// Bounded, whatever a file holds: numbers after the layer's are one where kinds are many, as experts' are, and what is left over is
/// counted.
struct ModuleGrid: Sendable {
  /// Modules that differ in the layer's number only.
  struct Kind: Sendable {
    let name: String
    /// Indices of paths by the layer's number; nil stands for none.
    fileprivate(set) var cells: [Int?: [Int]] = [:]
  }

  private(set) var kinds: [Kind] = []
  /// All layers' numbers, rising.
  private(set) var layers: [Int] = []
  /// Paths that have no place.
  private(set) var omittedCount = 0

  private static let greatestKinds = 40
  private static let greatestCells = 2400

  private struct Key: Hashable {
    let before: String
    let after: String
    let hasLayer: Bool
  }

  init(_ paths: [String]) {
    var places = paths.map { Self.place($0, foldsNumbers: false) }
    if Set(places.map(\.key)).count > Self.greatestKinds { places = paths.map { Self.place($0, foldsNumbers: true) } }
    let layers = Set(places.compactMap(\.layer)).sorted()
    var order: [Key: Int] = [:]
    var keys: [Key] = []
    for place in places where order[place.key] == nil {
      order[place.key] = keys.count
      keys.append(place.key)
    }
    keys = Array(keys.prefix(Self.greatestKinds))
    self.layers = Array(layers.prefix(Self.greatestCells / max(1, keys.count)))
    let shown = Set(self.layers)
    let afters = Dictionary(grouping: keys, by: \.after)
    kinds = keys.map { key in
      let isUnique = !key.after.isEmpty && afters[key.after]?.count == 1
      return Kind(name: !key.hasLayer || isUnique ? (key.hasLayer ? key.after : key.before) : Self.name(key))
    }
    for (index, place) in places.enumerated() {
      guard let kind = order[place.key], kind < keys.count, place.layer.map(shown.contains) ?? true else {
        omittedCount += 1
        continue
      }
      kinds[kind].cells[place.layer, default: []].append(index)
    }
  }

  private static func name(_ key: Key) -> String {
    [key.before, "{}", key.after].filter { !$0.isEmpty }.joined(separator: ".")
  }

  private static func place(_ path: String, foldsNumbers: Bool) -> (key: Key, layer: Int?) {
    let parts = path.split(separator: ".", omittingEmptySubsequences: false).map(String.init)
    guard let index = parts.firstIndex(where: { Int($0) != nil }) else {
      return (Key(before: path, after: "", hasLayer: false), nil)
    }
    let after = parts[(index + 1)...].map { foldsNumbers && Int($0) != nil ? "*" : $0 }
    return (
      Key(before: parts[..<index].joined(separator: "."), after: after.joined(separator: "."), hasLayer: true),
      Int(parts[index])
    )
  }
}
