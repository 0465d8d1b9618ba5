internal import TensorFiles

/// Names that a path may end with as text, dots or not: PEFT asks `endswith` in some places. Here `proj` ends `q_proj`.
///
/// Cost: a search of the names for each question, however many there are.
struct NameTails: Sendable, Equatable {
  /// In the order of their bytes from the last to the first, without those that end with another.
  private let names: [String]

  init(_ names: [String]) {
    var kept: [String] = []
    for name in names.sorted(by: { Self.order($0, upTo: $0.utf8.count, $1) < 0 }) {
      if let last = kept.last, name.endsExactly(last) { continue }
      kept.append(name)
    }
    self.names = kept
  }

  /// True if a name ends the path.
  func contains(endOf path: String) -> Bool { contains(endOf: path, upTo: path.utf8.count) }

  /// True if a name ends the path, or that of a module around it.
  func contains(endOfModuleAround path: String) -> Bool {
    guard !names.isEmpty else { return false }
    let bytes = path.utf8Span.span
    for place in bytes.indices where bytes[place] == UInt8(ascii: ".") {
      if contains(endOf: path, upTo: place) { return true }
    }
    return contains(endOf: path)
  }

  private func contains(endOf path: String, upTo end: Int) -> Bool {
    // Of all names, the last that does not stand behind the path is the only one that can end it.
    var (low, high) = (0, names.count)
    while low < high {
      let middle = (low + high) / 2
      if Self.order(path, upTo: end, names[middle]) < 0 { high = middle } else { low = middle + 1 }
    }
    guard low > 0 else { return false }
    let name = names[low - 1].utf8Span.span
    let bytes = path.utf8Span.span
    guard name.count <= end else { return false }
    return name.indices.allSatisfy { name[$0] == bytes[end - name.count + $0] }
  }

  /// Below zero if the first bytes of `left`, read backwards, stand before `right` read backwards.
  private static func order(_ left: String, upTo end: Int, _ right: String) -> Int {
    let (a, b) = (left.utf8Span.span, right.utf8Span.span)
    var count = 0
    while count < end, count < b.count {
      let (x, y) = (a[end - 1 - count], b[b.count - 1 - count])
      if x != y { return Int(x) - Int(y) }
      count += 1
    }
    return end - b.count
  }
}
