import Glibc
import Testing

@testable import TensorMath

/// The gradient of Σ g·f(x) by central differences in f64: the definition that the kernels are held against.
private func differences(_ x: [Double], _ g: [Double], _ f: ([Double]) -> [Double]) -> [Double] {
  func loss(_ x: [Double]) -> Double { zip(f(x), g).reduce(0) { $0 + $1.0 * $1.1 } }
  return x.indices.map { index in
    var (above, below) = (x, x)
    above[index] += 1e-5
    below[index] -= 1e-5
    return (loss(above) - loss(below)) / 2e-5
  }
}

private func random(_ count: Int, seed: UInt64, scale: Float = 1) -> [Float] {
  var generator = TorchGenerator(seed: seed)
  return generator.uniform(count: count, low: -scale, high: scale)
}

private func wide(_ values: [Float]) -> [Double] { values.map(Double.init) }

/// The greatest difference by the greatest expected value.
private func relativeError(_ found: LentMatrix, _ expected: [Double]) -> Double {
  let greatest = max(expected.map(abs).max() ?? 0, 1e-9)
  return zip(found.values, expected).reduce(0) { max($0, abs(Double($1.0) - $1.1)) } / greatest
}

@Suite struct GradientTests {
  private let workspace = Workspace()

  private func matrix(_ values: [Float], _ rows: Int) -> LentMatrix {
    let matrix = workspace.matrix(rows, values.count / rows)
    matrix.copy(values)
    return matrix
  }

  private static func normalised(_ x: [Double], width: Int, _ row: ([Double]) -> [Double]) -> [Double] {
    stride(from: 0, to: x.count, by: width).flatMap { row(Array(x[$0..<$0 + width])) }
  }

  @Test(arguments: [(width: 8, plus: Float(0)), (width: 19, plus: 1), (width: 64, plus: 0)])
  func aRootMeanSquareNormHasItsGradient(width: Int, plus: Float) {
    let (x, w, g) = (random(3 * width, seed: 1), random(width, seed: 2), random(3 * width, seed: 3))
    let norm = RowNorm.rootMeanSquare(weight: w, plus: plus, epsilon: 1e-5)
    func f(_ x: [Double]) -> [Double] {
      Self.normalised(x, width: width) { row in
        let factor = 1 / (row.reduce(0) { $0 + $1 * $1 } / Double(width) + 1e-5).squareRoot()
        return zip(row, w).map { $0 * factor * Double($1 + plus) }
      }
    }
    let input = matrix(x, 3)
    #expect(relativeError(norm(input, in: workspace), f(wide(x))) < 1e-6)
    let gradient = workspace.zeros(3, width)
    norm.addGradient(of: input, matrix(g, 3), to: gradient)
    #expect(relativeError(gradient, differences(wide(x), wide(g), f)) < 1e-5)
  }

  @Test(arguments: [8, 19, 64]) func aNormWithAMeanHasItsGradient(width: Int) {
    let (x, w, b, g) = (
      random(3 * width, seed: 4), random(width, seed: 5), random(width, seed: 6), random(3 * width, seed: 7)
    )
    let norm = RowNorm.centred(weight: w, bias: b, epsilon: 1e-5)
    func f(_ x: [Double], _ w: [Double], _ b: [Double]) -> [Double] {
      Self.normalised(x, width: width) { row in
        let mean = row.reduce(0, +) / Double(width)
        let factor = 1 / (row.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(width) + 1e-5).squareRoot()
        return row.indices.map { (row[$0] - mean) * factor * w[$0] + b[$0] }
      }
    }
    let (input, above) = (matrix(x, 3), matrix(g, 3))
    #expect(relativeError(norm(input, in: workspace), f(wide(x), wide(w), wide(b))) < 1e-6)
    let gradient = workspace.zeros(3, width)
    norm.addGradient(of: input, above, to: gradient)
    #expect(relativeError(gradient, differences(wide(x), wide(g)) { f($0, wide(w), wide(b)) }) < 1e-5)
    let (dw, db) = (workspace.zeros(1, width), workspace.zeros(1, width))
    norm.addParameterGradients(of: input, above, weight: dw, bias: db)
    #expect(relativeError(dw, differences(wide(w), wide(g)) { f(wide(x), $0, wide(b)) }) < 1e-5)
    #expect(relativeError(db, differences(wide(b), wide(g)) { f(wide(x), wide(w), $0) }) < 1e-5)
  }

  @Test(arguments: [ActivationKernel.relu, .silu, .tanhGELU, .gelu, .tanh, .quickGELU])
  func anActivationHasItsGradient(function: ActivationKernel) {
    func f(_ x: Double) -> Double {
      switch function {
      case .relu: max(x, 0)
      case .silu: x / (1 + exp(-x))
      case .tanhGELU: 0.5 * x * (1 + tanh((2 / Double.pi).squareRoot() * (x + 0.044715 * x * x * x)))
      case .gelu: 0.5 * x * (1 + erf(x / 2.0.squareRoot()))
      case .tanh: tanh(x)
      case .quickGELU: x / (1 + exp(-1.702 * x))
      }
    }
    let (a, b, g) = (random(37, seed: 8, scale: 6), random(37, seed: 9), random(37, seed: 10))
    let (first, second) = (matrix(a, 1), matrix(b, 1))
    #expect(
      relativeError(function(first, times: second, in: workspace), zip(a, b).map { f(Double($0)) * Double($1) }) < 1e-6)
    let alone = matrix(a, 1)
    function.replaceByGradients(alone, nil, matrix(g, 1))
    #expect(relativeError(alone, differences(wide(a), wide(g)) { $0.map(f) }) < 1e-5)
    function.replaceByGradients(first, second, matrix(g, 1))
    #expect(relativeError(first, differences(wide(a), wide(g)) { zip($0, b).map { f($0) * Double($1) } }) < 1e-5)
    #expect(relativeError(second, zip(a, g).map { f(Double($0)) * Double($1) }) < 1e-6)
  }

  @Test(arguments: [
    (lengths: [5, 40, 1], heads: 4, keyHeads: 2, width: 16, window: Int?.none),
    ([37], 2, 1, 8, 6), ([9, 9], 3, 3, 5, nil), ([70], 1, 1, 64, 33),
  ])
  func attentionHasItsGradients(lengths: [Int], heads: Int, keyHeads: Int, width: Int, window: Int?) {
    let rows = lengths.reduce(0, +)
    let (own, other) = (heads * width, keyHeads * width)
    let (q, k, v, g) = (
      random(rows * own, seed: 11), random(rows * other, seed: 12), random(rows * other, seed: 13),
      random(rows * own, seed: 14)
    )
    let scale = 1 / Double(width).squareRoot()
    func f(_ q: [Double], _ k: [Double], _ v: [Double]) -> [Double] {
      var result = [Double](repeating: 0, count: rows * own)
      var start = 0
      for length in lengths {
        for (row, head) in (0..<length).flatMap({ row in (0..<heads).map { (row, $0) } }) {
          let keyHead = head / (heads / keyHeads)
          let seen = max(0, row + 1 - (window ?? row + 1))...row
          let scores = seen.map { key in
            (0..<width).reduce(0.0) {
              $0 + q[(start + row) * own + head * width + $1] * k[(start + key) * other + keyHead * width + $1]
            } * scale
          }
          let shares = scores.map { exp($0 - (scores.max() ?? 0)) }
          for (key, share) in zip(seen, shares) {
            for feature in 0..<width {
              result[(start + row) * own + head * width + feature] +=
                share / shares.reduce(0, +) * v[(start + key) * other + keyHead * width + feature]
            }
          }
        }
        start += length
      }
      return result
    }
    let attention = SequenceAttention(
      heads: heads, keyHeads: keyHeads, width: width, scale: Float(scale), window: window)
    let (queries, keys, values) = (matrix(q, rows), matrix(k, rows), matrix(v, rows))
    #expect(
      relativeError(attention(queries, keys, values, lengths: lengths, in: workspace), f(wide(q), wide(k), wide(v)))
        < 1e-5)
    let found = attention.gradients(queries, keys, values, matrix(g, rows), lengths: lengths, in: workspace)
    // Differences of all elements would take long: a sample of each.
    func check(_ found: LentMatrix, _ x: [Float], _ f: ([Double]) -> [Double]) {
      let greatest = Double(found.values.map(abs).max() ?? 0)
      for index in stride(from: 0, to: x.count, by: max(1, x.count / 7)) {
        var (above, below) = (wide(x), wide(x))
        above[index] += 1e-5
        below[index] -= 1e-5
        let difference = zip(zip(f(above), f(below)), g).reduce(0) { $0 + ($1.0.0 - $1.0.1) * Double($1.1) } / 2e-5
        #expect(abs(Double(found.values[index]) - difference) < 2e-5 * max(greatest, 1e-3))
      }
    }
    check(found.q, q) { f($0, wide(k), wide(v)) }
    check(found.k, k) { f(wide(q), $0, wide(v)) }
    check(found.v, v) { f(wide(q), wide(k), $0) }
  }

  @Test(arguments: [0.0, 0.1]) func theLossHasItsGradient(smoothing: Double) {
    let (rows, width, vocabulary) = (3, 4, 1100)
    let (h, w) = (random(rows * width, seed: 15), random(vocabulary * width, seed: 16))
    let targets = (0..<rows).map { $0 * 540 }
    func loss(_ h: [Double]) -> [Double] {
      (0..<rows).map { row in
        let logits = (0..<vocabulary).map { token in
          (0..<width).reduce(0.0) { $0 + h[row * width + $1] * Double(w[token * width + $1]) }
        }
        let normaliser = log(logits.reduce(0) { $0 + exp($1) })
        let mean = logits.reduce(0) { $0 + normaliser - $1 } / Double(vocabulary)
        return (1 - smoothing) * (normaliser - logits[targets[row]]) + smoothing * mean
      }
    }
    let gradient = workspace.matrix(rows, width)
    let found = CrossEntropy.loss(
      matrix(h, rows), head: WeightMatrix(w, rows: vocabulary, columns: width), bias: [], targets: targets,
      smoothing: Float(smoothing), share: 0.25, gradient: gradient, in: workspace)
    let expected = loss(wide(h)).reduce(0, +)
    #expect(abs(found / expected - 1) < 1e-6)
    let slopes = differences(wide(h), [Double](repeating: 0.25, count: rows), loss)
    #expect(relativeError(gradient, slopes) < 1e-4)
  }

  @Test func turningBackUndoesATurn() {
    let x = random(4 * 24, seed: 17)
    let angles = random(4 * 4, seed: 18, scale: 3)
    let matrix = matrix(x, 4)
    let (cosines, sines) = (angles.map { Float(cos(Double($0))) }, angles.map { Float(sin(Double($0))) })
    matrix.rotate(width: 8, cosines: cosines, sines: sines)
    let expected = (0..<4 * 24).map { index -> Double in
      let (row, place) = (index / 24, index % 8)
      let angle = Double(angles[row * 4 + place % 4])
      let other = Double(x[place < 4 ? index + 4 : index - 4])
      return Double(x[index]) * cos(angle) + (place < 4 ? -other : other) * sin(angle)
    }
    #expect(relativeError(matrix, expected) < 1e-6)
    matrix.rotate(width: 8, cosines: cosines, sines: sines, back: true)
    #expect(relativeError(matrix, wide(x)) < 1e-6)
  }

  /// No machine may round a training's inputs to bf16.
  @Test func trainingsProductsKeepTheirInputsWhole() {
    let (rows, input, output) = (32, 64, 48)
    let x = random(rows * input, seed: 19)
    let bits = random(output * input, seed: 20).map { UInt16(truncatingIfNeeded: $0.bitPattern >> 16) }
    let weight = WeightMatrix(
      bytes: bits.flatMap { [UInt8(truncatingIfNeeded: $0), UInt8(truncatingIfNeeded: $0 >> 8)] }, rows: output,
      columns: input, format: .bf16)
    let expected = (0..<rows * output).map { index in
      (0..<input).reduce(0.0) {
        $0 + Double(x[index / output * input + $1])
          * Double(Float(bitPattern: UInt32(bits[index % output * input + $1]) << 16))
      }
    }
    #expect(relativeError(weight.project(matrix(x, rows), in: workspace), expected) < 1e-6)
  }
}
