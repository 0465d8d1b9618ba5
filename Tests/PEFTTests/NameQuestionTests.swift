import TensorFiles
import TestSupport
import Testing

@testable import PEFT

/// The quick ways to compare many names against what they stand for.
@Suite struct NameQuestionTests {
  /// Short names of few letters, so that many are parts of others.
  private func names(_ count: Int, _ generator: inout SeededGenerator) -> [String] {
    (0..<count).map { _ in
      (0..<Int.random(in: 1...5, using: &generator)).map { _ in
        ["a", "b", "ab", "ba", "1", "01", "10", "é", "e\u{301}", "", "-"].randomElement(using: &generator) ?? ""
      }.joined(separator: ".")
    }
  }

  private func endings(_ name: String) -> [String] {
    let parts = name.split(separator: ".", omittingEmptySubsequences: false)
    return (0..<parts.count).reversed().map { parts[$0...].joined(separator: ".") }
  }

  @Test func aNameEndsAPathInWholeParts() {
    var generator = SeededGenerator(seed: 3)
    for _ in 0..<500 {
      let (some, paths) = (names(8, &generator), names(8, &generator))
      let set = NameEndings(some)
      for path in paths {
        let wanted = some.indices.filter { endings(path).containsExactly(some[$0]) }
        #expect(set.places(endOf: path).sorted() == wanted)
        #expect(set.contains(endOf: path) == !wanted.isEmpty)
        #expect(some.filter(path.endsInParts).count == wanted.count)
        let inside = some.indices.filter { ".\(path).".holds(".\(some[$0]).") }
        #expect(Set(set.places(in: path)) == Set(inside))
      }
    }
  }

  @Test func aTailEndsAPathOrTheModulesAroundIt() {
    var generator = SeededGenerator(seed: 4)
    for _ in 0..<500 {
      let (some, paths) = (names(4, &generator).filter { !$0.isEmpty }, names(8, &generator))
      let tails = NameTails(some)
      for path in paths {
        #expect(tails.contains(endOf: path) == some.contains { path.endsExactly($0) })
        let parts = path.split(separator: ".", omittingEmptySubsequences: false)
        let around = (1...parts.count).map { parts[..<$0].joined(separator: ".") }
        #expect(
          tails.contains(endOfModuleAround: path) == around.contains { path in some.contains { path.endsExactly($0) } })
      }
    }
  }

  @Test func numbersInPathsCountAsNumbers() {
    func precedes(_ left: String, _ right: String) -> Bool {
      let a = left.split(separator: ".", omittingEmptySubsequences: false)
      let b = right.split(separator: ".", omittingEmptySubsequences: false)
      for (x, y) in zip(a, b) where !x.isExactly(y) {
        if let m = Int(x), let n = Int(y) { return m < n }
        return x.utf8.lexicographicallyPrecedes(y.utf8)
      }
      return a.count < b.count
    }
    var generator = SeededGenerator(seed: 5)
    let some =
      names(400, &generator) + ["+1", "-1", "9223372036854775807", "9223372036854775808", "-", "+", "a.2", "a.10"]
    for left in some {
      for right in some { #expect(naturallyPrecedes(left, right) == precedes(left, right), "\(left) \(right)") }
      #expect(lastPart(left) == left.parts().last.map(String.init) ?? left)
    }
  }

  /// PEFT's own way, name by name. Source: peft/tuners/tuners_utils.py `_find_minimal_target_modules`.
  @Test func aListIsShortenedToTheLeastEndings() throws {
    func shortened(_ names: [String], _ others: [String]) -> [String] {
      let taken = Set(exactly: others.flatMap(endings))
      var kept: Set<ExactName> = []
      var list: [String] = []
      let ordered = Set(exactly: names).map { endings($0.text) }
        .sorted { $0.lexicographicallyPrecedes($1) { $0.utf8.lexicographicallyPrecedes($1.utf8) } }
      for candidates in ordered where !candidates.dropLast().contains(where: kept.contains) {
        if let found = candidates.first(where: { !taken.contains($0) && !kept.contains($0) }) {
          kept.insert(found)
          list.append(found)
        }
      }
      return list.isEmpty || list.count >= names.count ? names : list
    }
    let scratch = try ScratchDirectory()
    var generator = SeededGenerator(seed: 6)
    for round in 0..<60 {
      let paths = Set(exactly: names(60, &generator)).map(\.text).filter { !$0.isEmpty }
      let items = paths.map { SafetensorsLayout.Item(name: "\($0).weight", dtype: .f32, shape: [1, 1]) }
      let path = scratch("\(round).safetensors")
      _ = try SafetensorsLayout(path: path, items: items).create(at: path)
      let base = try BaseModel(path: path)
      let chosen = paths.filter { _ in Bool.random(using: &generator) }
      let containers = paths.flatMap { path in
        path.utf8.indices.filter { path.utf8[$0] == UInt8(ascii: ".") }.map { String(path[..<$0]) }
      }
      var found: [String] = []
      base.forEachContainer { found.append($0) }
      #expect(Set(exactly: found) == Set(exactly: containers))
      let others = (paths + containers).filter { path in !endings(path).contains { chosen.containsExactly($0) } }
      #expect(base.leastEndings(of: chosen) == shortened(chosen, others))
    }
  }

  @Test(
    arguments: [
      ([2, 3], 6), ([], 1), ([1 << 32, 1 << 32], nil), ([0, 1 << 40, 1 << 40], nil), ([0, 5], 0), ([-1, 2], nil),
    ] as [([Int], Int?)])
  func aProductThatDoesNotFitIsNone(sizes: [Int], product: Int?) { #expect(checkedProduct(sizes) == product) }

  @Test func aProductOfWhatIsNotKnownIsNone() { #expect(checkedProduct(2, nil, 3) == nil && checkedProduct(2, 3) == 6) }
}
