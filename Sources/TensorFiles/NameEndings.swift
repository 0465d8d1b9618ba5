/// Names that may end paths, in whole parts: `q_proj` and `self_attn.q_proj` end `layers.0.self_attn.q_proj`, `proj` does not.
///
/// Cost: a path is read once, from its last part to its first, however many names there are.
package struct NameEndings: Sendable, Equatable {
  /// The names as given.
  package let names: [String]
  /// Places in `names`, by the hash of the parts from the last to the first. The hash is Swift's, whose seed no file knows.
  private var places: [Int: [Int]] = [:]
  private var greatestLength = 0

  package init(_ names: some Sequence<String>) {
    self.names = Array(names)
    places.reserveCapacity(self.names.count)
    for (place, name) in self.names.enumerated() {
      var hash = 0
      Self.forEachEnding(of: name) { _, found in
        hash = found
        return true
      }
      places[hash, default: []].append(place)
      greatestLength = max(greatestLength, name.utf8.count)
    }
  }

  /// True if there are no names.
  package var isEmpty: Bool { names.isEmpty }

  /// True if a name equals the path, or ends it after a dot.
  package func contains(endOf path: String) -> Bool {
    var isFound = false
    forEachPlace(endOf: path, upTo: path.utf8.count) { _ in
      isFound = true
      return false
    }
    return isFound
  }

  /// The places in `names` of those that equal the path, or end it after a dot; the shortest first.
  package func places(endOf path: String) -> [Int] {
    var found: [Int] = []
    forEachPlace(endOf: path, upTo: path.utf8.count) {
      found.append($0)
      return true
    }
    return found
  }

  /// The places in `names` of those whose parts stand in the path one after the other, anywhere; some more than once.
  package func places(in path: String) -> [Int] {
    var found: [Int] = []
    let bytes = path.utf8Span.span
    for end in 0...bytes.count where end == bytes.count || bytes[end] == UInt8(ascii: ".") {
      forEachPlace(endOf: path, upTo: end) {
        found.append($0)
        return true
      }
    }
    return found
  }

  private func forEachPlace(endOf path: String, upTo end: Int, _ body: (Int) -> Bool) {
    guard !names.isEmpty else { return }
    let bytes = path.utf8Span.span
    Self.forEachEnding(of: path, upTo: end) { count, hash in
      guard count <= greatestLength else { return false }
      for place in places[hash] ?? [] {
        let name = names[place].utf8Span.span
        guard name.count == count, name.indices.allSatisfy({ name[$0] == bytes[end - count + $0] }) else { continue }
        if !body(place) { return false }
      }
      return true
    }
  }

  /// Calls `body` with the length in bytes and the hash of each ending of the first bytes, the shortest first, until it is
  /// false.
  private static func forEachEnding(
    of path: String, upTo limit: Int? = nil, _ body: (_ count: Int, _ hash: Int) -> Bool
  ) {
    let bytes = path.utf8Span.span
    let limit = limit ?? bytes.count
    var hasher = Hasher()
    var end = limit
    while true {
      var start = end
      while start > 0, bytes[start - 1] != UInt8(ascii: ".") { start -= 1 }
      // Soundness: the hasher reads just the part's bytes.
      bytes.extracting(start..<end).withUnsafeBytes { hasher.combine(bytes: $0) }
      hasher.combine(UInt8(ascii: "."))
      let copy = hasher
      guard body(limit - start, copy.finalize()) else { return }
      if start == 0 { return }
      end = start - 1
    }
  }
}
