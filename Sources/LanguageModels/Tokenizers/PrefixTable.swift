/// Byte strings in order, for those that begin a text: a search narrows the range that still agrees, byte after byte.
struct PrefixTable {
  /// In order of their bytes.
  private let strings: [[UInt8]]
  /// What each stands for.
  private let values: [Int]

  /// The last of equal strings counts. Empty ones are left out.
  init(_ entries: [(string: [UInt8], value: Int)]) {
    var last: [[UInt8]: Int] = [:]
    for entry in entries where !entry.string.isEmpty { last[entry.string] = entry.value }
    let sorted = last.sorted { $0.key.lexicographicallyPrecedes($1.key) }
    strings = sorted.map(\.key)
    values = sorted.map(\.value)
  }

  var isEmpty: Bool { strings.isEmpty }

  /// Tells of each string that begins the text at `start`, shortest first, with the place where it ends.
  ///
  /// Cost: a step for each byte that some string agrees with, which the budget pays.
  func matches(
    in text: [UInt8], at start: Int, _ budget: TokenBudget, _ body: (Int, Int) -> Void
  ) throws(ModelError) {
    var (low, high, depth) = (0, strings.count, 0)
    while low < high, start + depth < text.count {
      let byte = text[start + depth]
      if high - low == 1 {
        // One is left: it agrees to its end, or does not begin the text.
        let string = strings[low]
        while depth < string.count, start + depth < text.count, string[depth] == text[start + depth] { depth += 1 }
        if depth == string.count { body(values[low], start + depth) }
        break
      }
      low = bound(low, high) { strings[$0][depth] < byte }
      high = bound(low, high) { strings[$0][depth] == byte }
      depth += 1
      guard low < high else { break }
      // The string that ends here comes first of those that go on.
      if strings[low].count == depth {
        body(values[low], start + depth)
        low += 1
      }
    }
    try budget.spend(depth + 1)
  }

  /// The first place of a range where a condition that holds before it no longer does.
  private func bound(_ low: Int, _ high: Int, _ holds: (Int) -> Bool) -> Int {
    var (low, high) = (low, high)
    while low < high {
      let middle = low + (high - low) / 2
      if holds(middle) { low = middle + 1 } else { high = middle }
    }
    return low
  }
}
