internal import TensorFiles

extension BaseModel {
  /// Calls `body` with the path of each module that holds other modules.
  ///
  /// A path may come twice where names of modules are numbers with leading zeros. Cost: no memory, however deep the paths.
  func forEachContainer<Failure: Error>(_ body: (String) throws(Failure) -> Void) throws(Failure) {
    var last = Substring()
    for module in modules {
      let path = module.path
      // In the natural order, what holds this module and the one before it is not left between them.
      let known = zip(path.utf8, last.utf8).prefix { $0 == $1 }.count
      var end = path.utf8.startIndex
      while let dot = path.utf8[end...].firstIndex(of: UInt8(ascii: ".")) {
        if path.utf8.distance(from: path.utf8.startIndex, to: dot) >= known { try body(String(path[..<dot])) }
        end = path.utf8.index(after: dot)
      }
      last = path[...]
    }
  }

  /// A model with more modules that hold others is no model; its lists stay as they are.
  private static let containerLimit = 1 << 20

  /// The least endings that name the same modules as a list of names, if they are fewer; else the list.
  ///
  /// Source: peft/tuners/tuners_utils.py `_find_minimal_target_modules`.
  func leastEndings(of names: [String]) -> [String] {
    let targets = NameEndings(names)
    var others = modules.map(\.path)
    let limit = others.count + Self.containerLimit
    forEachContainer { if others.count <= limit { others.append($0) } }
    guard others.count <= limit else { return names }
    others.removeAll(where: targets.contains(endOf:))
    // Beside each name in this order stands the other name that has most of its ending.
    let ordered =
      (Set(exactly: names).map { (path: $0.text, isTarget: true) } + others.map { (path: $0, isTarget: false) })
      .sorted { Self.precedesFromTheEnd($0.path, $1.path) }
    var shared = [Int](repeating: 0, count: ordered.count)
    func raise(_ places: some Sequence<Int>) {
      var common = 0
      var last: String?
      for place in places {
        if let last { common = min(common, Self.commonParts(last, ordered[place].path)) }
        last = ordered[place].path
        if ordered[place].isTarget { shared[place] = max(shared[place], common) } else { common = Int.max }
      }
    }
    raise(ordered.indices)
    raise(ordered.indices.reversed())
    var kept: [String] = []
    for (place, entry) in ordered.enumerated() where entry.isTarget {
      // What has the last ending stands right behind it.
      if let last = kept.last, entry.path.utf8.count > last.utf8.count, entry.path.endsInParts(last) { continue }
      let parts = entry.path.parts(keepingEmpty: true)
      guard shared[place] < parts.count else { continue }
      kept.append(parts.suffix(shared[place] + 1).joined(separator: "."))
    }
    return !kept.isEmpty && kept.count < names.count ? kept : names
  }

  /// Parts that two paths have in common, counted from the end.
  private static func commonParts(_ left: String, _ right: String) -> Int {
    let (a, b) = (left.utf8Span.span, right.utf8Span.span)
    var (count, parts) = (0, 0)
    while count < a.count, count < b.count, a[a.count - 1 - count] == b[b.count - 1 - count] {
      if a[a.count - 1 - count] == UInt8(ascii: ".") { parts += 1 }
      count += 1
    }
    func ends(_ bytes: Span<UInt8>) -> Bool {
      count == bytes.count || bytes[bytes.count - 1 - count] == UInt8(ascii: ".")
    }
    return ends(a) && ends(b) ? parts + 1 : parts
  }

  /// Whether the endings of a path, the shortest first, stand before those of another in the order of code points.
  private static func precedesFromTheEnd(_ left: String, _ right: String) -> Bool {
    let (a, b) = (left.utf8Span.span, right.utf8Span.span)
    let dot = UInt8(ascii: ".")
    // Bytes of the whole parts that both end with, dots before them counted.
    var (count, whole) = (0, 0)
    while count < a.count, count < b.count, a[a.count - 1 - count] == b[b.count - 1 - count] {
      count += 1
      if a[a.count - count] == dot { whole = count }
    }
    func start(_ bytes: Span<UInt8>) -> Int {
      var start = bytes.count - count
      while start > 0, bytes[start - 1] != dot { start -= 1 }
      return start
    }
    let (startA, startB) = (start(a), start(b))
    let (endA, endB) = (a.count - whole, b.count - whole)
    var place = 0
    while startA + place < endA, startB + place < endB {
      let (x, y) = (a[startA + place], b[startB + place])
      if x != y { return x < y }
      place += 1
    }
    if startA + place == endA && startB + place == endB { return a.count < b.count }
    // Behind a part that is not the last stands a dot.
    let isShorter = startA + place == endA
    guard whole > 0 else { return isShorter }
    return isShorter ? dot < b[startB + place] : a[startA + place] < dot
  }
}
