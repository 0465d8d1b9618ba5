internal import TensorFiles

/// Groups names that differ only in their first number.
struct LayerFolding<Extra: Hashable> {
  private struct Key: Hashable {
    let before: String
    let after: String
    let shapes: [[Int]]
    let dtype: DType
    let extra: Extra
  }

  /// Names that are alike.
  struct Group {
    let name: String
    let count: Int
    let shapes: [[Int]]
    let dtype: DType
    let extra: Extra
  }

  private var layers: [Key: [Int]] = [:]
  private var order: [Key] = []

  mutating func add(_ path: String, shapes: [[Int]], _ dtype: DType, _ extra: Extra) {
    let parts = path.parts(keepingEmpty: true)
    let index = parts.firstIndex { Int($0) != nil }
    let before = index.map { parts[..<$0].joined(separator: ".") } ?? path
    let after = index.map { parts[($0 + 1)...].joined(separator: ".") } ?? ""
    let key = Key(before: before, after: after, shapes: shapes, dtype: dtype, extra: extra)
    if layers[key] == nil {
      layers[key] = []
      order.append(key)
    }
    if let index, let layer = Int(parts[index]) { layers[key]?.append(layer) }
  }

  var groups: [Group] {
    order.map { key in
      let numbers = layers[key] ?? []
      var name = key.before
      if !numbers.isEmpty {
        let range = Self.ranges(numbers.sorted())
        name = [key.before, numbers.count == 1 ? range : "{\(range)}", key.after].filter { !$0.isEmpty }
          .joined(separator: ".")
      }
      return Group(
        name: name, count: max(1, numbers.count), shapes: key.shapes, dtype: key.dtype, extra: key.extra)
    }.sorted { naturallyPrecedes($0.name, $1.name) }
  }

  /// "0-3,7" for 0, 1, 2, 3, 7. Of more parts than a model's layers give, the first ones and the last.
  private static func ranges(_ numbers: [Int]) -> String {
    var parts: [(first: Int, last: Int)] = []
    for number in numbers {
      if let last = parts.last, last.last + 1 == number {
        parts[parts.count - 1].last = number
      } else {
        parts.append((number, number))
      }
    }
    var texts = parts.prefix(64).map { $0.first == $0.last ? "\($0.first)" : "\($0.first)-\($0.last)" }
    if parts.count > 64, let last = parts.last { texts += ["…", "\(last.last)"] }
    return texts.joined(separator: ",")
  }
}
