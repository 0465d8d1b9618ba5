import Foundation
import TensorMath
import TestSupport
import Testing

@testable import PEFT

/// Mixes in blocks and passes, against their definitions in double precision on whole tensors.
struct TensorMixTests {
  /// Inputs of a mix.
  struct Tensors {
    var inputs: [[Float]]
    var base: [Float]?
    let shape: [Int]

    var count: Int { shape.reduce(1, *) }

    init(_ count: Int, hasBase: Bool, shape: [Int], seed: UInt64) {
      var generator = SeededGenerator(seed: seed)
      self.shape = shape
      let elements = shape.reduce(1, *)
      let base = (0..<elements).map { _ in Float.random(in: -1...1, using: &generator) }
      inputs = (0..<count).map { _ in base.map { $0 + Float.random(in: -0.1...0.1, using: &generator) } }
      self.base = hasBase ? base : nil
    }

    func change(_ input: Int, _ index: Int) -> Double { Double(inputs[input][index]) - Double(base?[index] ?? 0) }
    func magnitude(_ input: Int, _ index: Int) -> Float { abs(inputs[input][index] - (base?[index] ?? 0)) }

    /// The mix as the code under test makes it.
    func mixed(_ mix: TensorMix, seed: UInt64 = 5) throws -> [Float] {
      var mixer = TensorMixer(mix: mix, inputs: inputs.count, hasBase: base != nil, shape: shape)
      mixer.blockElements = 60
      var result = [Float](repeating: .nan, count: count)
      try mixer.run(generator: TorchGenerator(seed: seed)) { elements, block in
        for (slot, values) in (inputs + [base].compactMap { $0 }).enumerated() { block.set(slot, values[elements]) }
      } write: { block, first in
        for (index, value) in block.result.enumerated() { result[first + index] = value }
      }
      return result
    }

    /// The elements of each vector.
    func vectors(_ vectors: TensorMix.Vectors) -> [[Int]] {
      guard shape.count > 1, vectors != .whole else { return [Array(0..<count)] }
      if vectors == .rows {
        let width = shape[shape.count - 1]
        return stride(from: 0, to: count, by: width).map { Array($0..<$0 + width) }
      }
      let columns = count / shape[0]
      return (0..<columns).map { Array(stride(from: $0, to: count, by: columns)) }
    }

    /// Which elements of a change are kept.
    func kept(_ rule: ChangeMix.Pruning, _ input: Int, _ generator: inout TorchGenerator) -> Set<Int> {
      let all = Set(0..<count)
      switch rule {
      case .none: return all
      case .magnitude(let density):
        if density >= 1 { return all }
        if density <= 0 { return [] }
        let order = (0..<count).sorted { (-magnitude(input, $0), $0) < (-magnitude(input, $1), $1) }
        return Set(order.prefix(max(1, Int(density * Double(count)))))
      case .outliers(let density, let gamma):
        if density >= 1 { return all }
        let order = (0..<count).sorted { (magnitude(input, $0), $0) < (magnitude(input, $1), $1) }
        let kept = Int(density * Double(count))
        let first = max(0, count - kept - Int(gamma * Double(count)))
        return Set(order[first..<first + kept])
      case .random(let density):
        if density >= 1 { return all }
        return Set((0..<count).filter { _ in Float(generator.nextBits() & 0xFF_FFFF) * 0x1p-24 < density })
      case .ranked(let density, let epsilon):
        if density >= 1 { return all }
        var densities = [Float](repeating: Float(density), count: count)
        let rows = shape.count > 1 ? shape[0] : 1
        let length = shape.count > 1 ? shape[1] : count
        let inner = count / max(1, rows * length)
        for row in 0..<rows {
          for column in 0..<inner where length > 1 {
            let elements = (0..<length).map { row * length * inner + $0 * inner + column }
            let order = elements.sorted { (magnitude(input, $0), $0) < (magnitude(input, $1), $1) }
            for (rank, element) in order.enumerated() {
              densities[element] =
                Float(density - epsilon) + Float(rank) / Float(length - 1) * 2 * Float(epsilon)
            }
          }
        }
        return Set((0..<count).filter { Float(generator.nextBits() & 0xFF_FFFF) * 0x1p-24 < densities[$0] })
      }
    }

    /// The mix by its definition.
    func expected(_ mix: TensorMix, seed: UInt64 = 5) -> [Double] {
      guard count > 0 else { return [] }
      func value(_ input: Int, _ index: Int) -> Double { Double(inputs[input][index]) }
      var result = [Double](repeating: 0, count: count)
      switch mix {
      case .sum(let factors):
        for index in 0..<count {
          for (input, factor) in factors.enumerated() { result[index] += factor * value(input, index) }
        }
      case .slerp(let t):
        func length(_ input: Int) -> Double {
          (0..<count).reduce(0) { $0 + value(input, $1) * value(input, $1) }.squareRoot()
        }
        let cosine = (0..<count).reduce(0) { $0 + value(0, $1) * value(1, $1) } / length(0) / length(1)
        let angle = acos(cosine)
        for index in 0..<count {
          result[index] =
            abs(cosine) > 0.9995
            ? (1 - t) * value(0, index) + t * value(1, index)
            : (sin((1 - t) * angle) * value(0, index) + sin(t * angle) * value(1, index)) / sin(angle)
        }
      case .nuslerp(let t, let vectors):
        for vector in self.vectors(vectors) {
          func length(_ input: Int) -> Double {
            vector.reduce(0) { $0 + change(input, $1) * change(input, $1) }.squareRoot()
          }
          let cosine = vector.reduce(0) { $0 + change(0, $1) * change(1, $1) } / length(0) / length(1)
          let angle = acos(max(-1, min(1, cosine)))
          for index in vector {
            let mixed =
              1 - Float(cosine) * Float(cosine) <= 1e-16
              ? (1 - t) * change(0, index) + t * change(1, index)
              : (sin((1 - t) * angle) * change(0, index) + sin(t * angle) * change(1, index)) / sin(angle)
            result[index] = Double(base?[index] ?? 0) + mixed
          }
        }
      case .stock(let vectors):
        let n = Double(inputs.count)
        for vector in self.vectors(vectors) {
          var cosines: [Double] = []
          for one in inputs.indices {
            for two in inputs.indices where two > one {
              func product(_ a: Int, _ b: Int) -> Double { vector.reduce(0) { $0 + change(a, $1) * change(b, $1) } }
              cosines.append(product(one, two) / max(1e-6, (product(one, one) * product(two, two)).squareRoot()))
            }
          }
          let cosine = cosines.reduce(0, +) / Double(cosines.count)
          let t = n * cosine / (1 + (n - 1) * cosine)
          for index in vector {
            let mean = inputs.indices.reduce(0) { $0 + value($1, index) } / n
            result[index] = t * mean + (1 - t) * Double(base?[index] ?? 0)
          }
        }
      case .changes(let rule):
        var generator = TorchGenerator(seed: seed)
        let kept = rule.pruning.enumerated().map { self.kept($1, $0, &generator) }
        let scales = inputs.indices.map { input -> Double in
          let all = (0..<count).reduce(0) { $0 + abs(change(input, $1)) }
          let part = kept[input].reduce(0) { $0 + abs(change(input, $1)) }
          return rule.rescales && all >= 1e-7 && part >= 1e-7 ? all / part : 1
        }
        for index in 0..<count {
          let parts = inputs.indices.map { input in
            kept[input].contains(index) ? rule.weights[input] * scales[input] * change(input, index) : 0
          }
          let isPositive = parts.reduce(0, +) >= 0
          let taken = parts.indices.filter { !rule.elects || (isPositive ? parts[$0] > 0 : parts[$0] < 0) }
          let divisor = taken.reduce(0) { $0 + rule.weights[$1] }
          let sum = taken.reduce(0) { $0 + parts[$1] } / (rule.normalizes && abs(divisor) >= 1e-8 ? divisor : 1)
          result[index] = Double(base?[index] ?? 0) + rule.scale * sum
        }
      }
      return result
    }
  }

  static let shapes = [[21, 16], [700], [3, 4, 5], [3, 200], [1, 7], [7, 1], [1], [2, 1, 3], [0, 4]]

  /// Whether every element is within one unit in the last place of the definition.
  func agrees(_ tensors: Tensors, _ mix: TensorMix) throws {
    let (found, expected) = (try tensors.mixed(mix), tensors.expected(mix))
    for (index, (a, b)) in zip(found, expected).enumerated() where !(abs(Double(a) - b) <= Double(Float(b).ulp)) {
      Issue.record("\(mix) \(tensors.shape) [\(index)]: \(a) and \(b)")
      break
    }
  }

  @Test(arguments: shapes) func sumsAndAnglesAreThoseOfTheirDefinitions(shape: [Int]) throws {
    for hasBase in [false, true] {
      let tensors = Tensors(2, hasBase: hasBase, shape: shape, seed: 1)
      for vectors in [TensorMix.Vectors.whole, .rows, .columns] {
        try agrees(tensors, .nuslerp(t: 0.3, vectors))
      }
    }
    try agrees(Tensors(3, hasBase: false, shape: shape, seed: 2), .sum([0.5, -0.25, 1.75]))
    var tensors = Tensors(2, hasBase: false, shape: shape, seed: 3)
    try agrees(tensors, .slerp(t: 0.7))
    for index in tensors.inputs[1].indices where index % 3 == 0 { tensors.inputs[1][index] *= -2 }
    try agrees(tensors, .slerp(t: 0.7))
    for vectors in [TensorMix.Vectors.whole, .rows] {
      try agrees(Tensors(3, hasBase: true, shape: shape, seed: 4), .stock(vectors))
    }
  }

  @Test(arguments: shapes) func changesAreChosenAsTheirDefinitionsChoose(shape: [Int]) throws {
    let rules: [[ChangeMix.Pruning]] = [
      [.none, .none, .none],
      [.magnitude(density: 0.3), .magnitude(density: 0.77), .magnitude(density: 1)],
      [.magnitude(density: 0), .magnitude(density: 1e-9), .magnitude(density: 0.5)],
      [.outliers(density: 0.5, gamma: 0.01), .outliers(density: 0.9, gamma: 0.3), .outliers(density: 0.4, gamma: 0)],
      [.random(density: 0.5), .random(density: 1), .random(density: 0.9)],
      [.ranked(density: 0.5, epsilon: 0.15), .ranked(density: 0.2, epsilon: 0.1), .ranked(density: 1, epsilon: 0.1)],
    ]
    for pruning in rules {
      for (index, hasBase) in [true, false].enumerated() {
        var mix = ChangeMix(weights: [0.7, 0.4, -0.3], pruning: pruning)
        for elects in [false, true] {
          mix.elects = elects
          mix.normalizes = elects == hasBase
          mix.rescales = !elects
          mix.scale = 0.9
          try agrees(Tensors(3, hasBase: hasBase, shape: shape, seed: UInt64(10 + index)), .changes(mix))
        }
      }
    }
  }

  @Test func ofEqualMagnitudesTheFirstInMemorysOrderAreKept() throws {
    var tensors = Tensors(1, hasBase: false, shape: [8], seed: 1)
    tensors.inputs[0] = [1, -2, 2, 0, -2, 3, 2, 1]
    func kept(_ rule: ChangeMix.Pruning) throws -> [Float] {
      try tensors.mixed(.changes(ChangeMix(weights: [1], pruning: [rule])))
    }
    #expect(try kept(.magnitude(density: 0.5)) == [0, -2, 2, 0, -2, 3, 0, 0])
    #expect(try kept(.magnitude(density: 0.8)) == [1, -2, 2, 0, -2, 3, 2, 0])
    // In rising order equal ones follow each other as they lie: 0 1 1 -2 2 -2 2 3.
    #expect(try kept(.outliers(density: 0.5, gamma: 0.13)) == [0, -2, 2, 0, -2, 0, 2, 0])
    #expect(try kept(.outliers(density: 0.25, gamma: 0.25)) == [0, 0, 2, 0, -2, 0, 0, 0])
    #expect(try kept(.outliers(density: 0.5, gamma: 0)) == [0, 0, 2, 0, -2, 3, 2, 0])
    tensors.inputs[0] = [Float](repeating: 1, count: 8)
    #expect(try kept(.magnitude(density: 0.5)) == [1, 1, 1, 1, 0, 0, 0, 0])
    #expect(try kept(.outliers(density: 0.25, gamma: 0.25)) == [0, 0, 0, 0, 1, 1, 0, 0])
    // Bounds that lie over many blocks.
    let count = 10_000
    tensors = Tensors(1, hasBase: false, shape: [count], seed: 1)
    tensors.inputs[0] = (0..<count).map { Float($0 % 10) }
    let many = try kept(.magnitude(density: 0.25))
    #expect(many.count { $0 == 9 } == 1000 && many.count { $0 == 8 } == 1000 && many.count { $0 == 7 } == 500)
    #expect(many[..<5000].count { $0 == 7 } == 500)
  }

  @Test func vectorsWithoutADirectionAreMixedStraight() throws {
    var tensors = Tensors(2, hasBase: false, shape: [4], seed: 1)
    tensors.inputs = [[1, 2, 3, 4], [-1, -2, -3, -4]]
    for mix in [TensorMix.slerp(t: 0.25), .nuslerp(t: 0.25, .whole)] {
      #expect(try tensors.mixed(mix) == [0.5, 1, 1.5, 2])
    }
    tensors.inputs[1] = [0, 0, 0, 0]
    let mixed = try tensors.mixed(.nuslerp(t: 0.5, .whole))
    #expect(zip(mixed, tensors.inputs[0]).allSatisfy { abs($0 - $1 * 0.70710678) < 1e-6 })
    // Changes that cancel leave the base as it is.
    var opposed = Tensors(2, hasBase: true, shape: [4], seed: 1)
    opposed.base = [1, 1, 1, 1]
    opposed.inputs = [[2, 1, 1, 1], [0, 1, 1, 1]]
    #expect(try opposed.mixed(.stock(.whole)) == [1, 1, 1, 1])
    opposed.inputs = [[1, 1, 1, 1], [1, 1, 1, 1]]
    #expect(try opposed.mixed(.stock(.whole)) == [1, 1, 1, 1])
  }
}
