import Foundation
import Testing

@testable import TensorMath

/// Attention whose softmax is thinned out, over sequences of a padded batch.
@Suite struct AttentionMaskTests {
  /// A batch, and where torch's mask of it has the bits of each sequence.
  struct Batch: Sendable, CustomTestStringConvertible {
    let name: String
    let lengths: [Int]
    let places: [AttentionMask.Place]
    let queries: Int
    let keys: Int
    let before: Int
    var window: Int?

    var testDescription: String { name }

    /// The row of the padded batch that a query of a sequence stands in; below zero for one that asks nothing.
    func row(_ sequence: Int, _ query: Int) -> Int { column(sequence, query) - (keys - queries) }

    func column(_ sequence: Int, _ key: Int) -> Int { key < before ? key : key + places[sequence].gap }

    static let all = [
      Batch(
        name: "padding after the tokens", lengths: [3, 5], places: [.init(row: 0, gap: 0), .init(row: 1, gap: 0)],
        queries: 5, keys: 5, before: 0),
      Batch(
        name: "padding before the tokens, a window", lengths: [3, 5],
        places: [.init(row: 0, gap: 2), .init(row: 1, gap: 0)], queries: 5, keys: 5, before: 0, window: 2),
      Batch(
        name: "two sequences in a row", lengths: [3, 2, 5],
        places: [.init(row: 0, gap: 0), .init(row: 0, gap: 3), .init(row: 1, gap: 0)], queries: 5, keys: 5, before: 0),
      Batch(
        name: "a prompt before padding", lengths: [4, 6], places: [.init(row: 0, gap: 2), .init(row: 1, gap: 0)],
        queries: 6, keys: 6, before: 2),
      Batch(
        name: "a prefix before padding", lengths: [4, 6], places: [.init(row: 0, gap: 2), .init(row: 1, gap: 0)],
        queries: 4, keys: 6, before: 2),
      Batch(
        name: "more queries than a tile has", lengths: [41, 70],
        places: [.init(row: 0, gap: 29), .init(row: 1, gap: 0)], queries: 70, keys: 70, before: 0),
    ]
  }

  private let heads = 4
  private let keyHeads = 2
  private let width = 4

  private func random(_ count: Int, _ seed: UInt64) -> [Double] {
    var generator = TorchGenerator(seed: seed)
    return (0..<count).map { _ in Double(Float(generator.nextBits() & 0xFFFF) / 0x1p16 - 0.5) }
  }

  /// The plain formula in f64, with the mask's factors drawn one by one.
  private func attention(_ batch: Batch, _ keep: [Double], _ q: [Double], _ k: [Double], _ v: [Double]) -> [Double] {
    let (own, other) = (heads * width, keyHeads * width)
    var result = [Double](repeating: 0, count: q.count)
    var start = 0
    for (sequence, length) in batch.lengths.enumerated() {
      for (query, head) in (0..<length).flatMap({ row in (0..<heads).map { (row, $0) } }) {
        let keyHead = head / (heads / keyHeads)
        let seen = max(0, query + 1 - (batch.window ?? query + 1))...query
        let shares = seen.map { key in
          exp(
            (0..<width).reduce(0.0) {
              $0 + q[(start + query) * own + head * width + $1] * k[(start + key) * other + keyHead * width + $1]
            } / 2)
        }
        let row = batch.row(sequence, query)
        for (key, share) in zip(seen, shares) {
          let place = (batch.places[sequence].row * heads + head) * batch.queries + row
          let factor = row < 0 ? 1 : keep[place * batch.keys + batch.column(sequence, key)]
          for feature in 0..<width {
            result[(start + query) * own + head * width + feature] +=
              factor * share / shares.reduce(0, +) * v[(start + key) * other + keyHead * width + feature]
          }
        }
      }
      start += length
    }
    return result
  }

  @Test(arguments: Batch.all)
  func droppedSharesAreThoseOfTheWholeBatchesMaskBothWays(batch: Batch) {
    var (generator, plain) = (TorchGenerator(seed: 3), TorchGenerator(seed: 3))
    let mask = AttentionMask(
      probability: 0.25, places: batch.places, heads: heads, queries: batch.queries, keys: batch.keys,
      before: batch.before, from: &generator)
    let count = ((batch.places.last?.row ?? 0) + 1) * heads * batch.queries * batch.keys
    let keep = (0..<count).map { _ in
      Double(plain.nextLongBits() & (1 << 53 - 1)) * 0x1p-53 < 0.75 ? 1 / 0.75 : 0
    }
    #expect(generator.nextLongBits() == plain.nextLongBits())
    let rows = batch.lengths.reduce(0, +)
    let values = [
      random(rows * heads * width, 4), random(rows * keyHeads * width, 5), random(rows * keyHeads * width, 6),
    ]
    // No gradient comes to a query that asks nothing: what it gives is left out.
    var g = random(rows * heads * width, 7)
    var start = 0
    for (sequence, length) in batch.lengths.enumerated() {
      for query in 0..<length where batch.row(sequence, query) < 0 {
        for index in 0..<heads * width { g[(start + query) * heads * width + index] = 0 }
      }
      start += length
    }
    let workspace = Workspace()
    func lent(_ values: [Double]) -> LentMatrix {
      let matrix = workspace.matrix(rows, values.count / rows)
      matrix.copy(values.map { Float($0) })
      return matrix
    }
    let rule = SequenceAttention(heads: heads, keyHeads: keyHeads, width: width, scale: 0.5, window: batch.window)
    let (q, k, v) = (lent(values[0]), lent(values[1]), lent(values[2]))
    let found = rule(q, k, v, lengths: batch.lengths, mask: mask, in: workspace).values
    let expected = attention(batch, keep, values[0], values[1], values[2])
    for (one, other) in zip(found, expected) { #expect(abs(Double(one) - other) < 1e-5) }
    let gradients = rule.gradients(q, k, v, lent(g), lengths: batch.lengths, mask: mask, in: workspace)
    for (index, gradient) in [gradients.q, gradients.k, gradients.v].enumerated() {
      // Differences of all elements would take long: some of each.
      for element in stride(from: 0, to: values[index].count, by: max(1, values[index].count / 9)) {
        func loss(_ change: Double) -> Double {
          var moved = values
          moved[index][element] += change
          return zip(attention(batch, keep, moved[0], moved[1], moved[2]), g).reduce(0) { $0 + $1.0 * $1.1 }
        }
        let slope = (loss(1e-5) - loss(-1e-5)) / 2e-5
        #expect(abs(Double(gradient.values[element]) - slope) < 1e-5, "\(index) \(element)")
      }
    }
  }

  @Test func whereAllIsDroppedNothingIsDrawn() {
    var (generator, untouched) = (TorchGenerator(seed: 3), TorchGenerator(seed: 3))
    let workspace = Workspace()
    let x = workspace.matrix(2, 70)
    x.copy([Float](repeating: 1, count: 140))
    let mask = DropoutMask(probability: 1, rows: [true, false, true], columns: 70, from: &generator)
    #expect(mask(x, in: workspace).values.allSatisfy { $0 == 0 })
    #expect(generator.nextBits() == untouched.nextBits())
  }
}
