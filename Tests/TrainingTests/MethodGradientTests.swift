import PEFT
import TensorMath
import TestSupport
import Testing

@testable import LanguageModels
@testable import Training

/// A method's layer written plainly in f64, and the adapter whose gradients must be those of the plain one.
private struct Formula: Sendable, CustomTestStringConvertible {
  let name: String
  /// Rows and columns of each parameter.
  let shapes: [(Int, Int)]
  let make: @Sendable ([TrainedParameter]) -> any LinearAdapter
  /// The output of x and W, without the layer's bias; the last argument is the parameters before they were moved.
  let output:
    @Sendable (_ x: Matrix<Double>, _ w: Matrix<Double>, _ p: [Matrix<Double>], _ start: [Matrix<Double>]) -> Matrix<
      Double
    >
  /// True if the method scales the layer's bias with its output.
  var scalesBias = false

  var testDescription: String { name }

  static let (tokens, input, out, rank) = (5, 6, 4, 3)
  static let scale = 0.75

  static func frozen(_ values: Matrix<Double>) -> WeightMatrix {
    WeightMatrix(values.values.map { Float($0) }, rows: values.rows, columns: values.columns)
  }

  static let projections = (a: random(rank, input, 91), b: random(out, rank, 92))

  static let all: [Formula] = [
    Formula(
      name: "LoRA", shapes: [(rank, input), (out, rank)],
      make: { LoRATraining(a: $0[0], b: $0[1], scale: Float(scale), dropout: 0) },
      output: { x, w, p, _ in x.times(w.transposed).adding(x.times(p[0].transposed).times(p[1].transposed), scale) }),
    Formula(
      name: "DoRA", shapes: [(rank, input), (out, rank), (out, 1)],
      make: { DoRATraining(a: $0[0], b: $0[1], magnitude: $0[2], scale: Float(scale), dropout: 0) },
      output: { x, w, p, start in
        let norms = w.adding(start[1].times(start[0]), scale)
        let sum = x.times(w.transposed).adding(x.times(p[0].transposed).times(p[1].transposed), scale)
        return sum.mapped { _, column, value in
          let norm = (0..<norms.columns).reduce(0) { $0 + norms[column, $1] * norms[column, $1] }.squareRoot()
          return value * p[2][column, 0] / norm
        }
      }),
    Formula(
      name: "a whole weight", shapes: [(out, input)], make: { FullTraining(weight: $0[0]) },
      output: { x, _, p, _ in x.times(p[0].transposed) }),
    Formula(
      name: "IA3 of outputs", shapes: [(out, 1)], make: { IA3Training(factors: $0[0], actsOnInput: false) },
      output: { x, w, p, _ in x.times(w.transposed).mapped { $2 * p[0][$1, 0] } }, scalesBias: true),
    Formula(
      name: "IA3 of inputs", shapes: [(1, input)], make: { IA3Training(factors: $0[0], actsOnInput: true) },
      output: { x, w, p, _ in x.mapped { $2 * p[0][0, $1] }.times(w.transposed) }),
    Formula(
      name: "AdaLoRA", shapes: [(rank, input), (rank, 1), (out, rank)],
      make: { AdaLoRATraining(a: $0[0], e: $0[1], b: $0[2], scale: Float(scale), dropout: 0) },
      output: { x, w, p, _ in
        let h = x.times(p[0].transposed).mapped { $2 * p[1][$1, 0] }
        return x.times(w.transposed).adding(h.times(p[2].transposed), scale)
      }),
    Formula(
      name: "LoHa", shapes: [(out, rank), (rank, input), (out, rank), (rank, input)],
      make: { LoHaTraining(first: ($0[0], $0[1]), second: ($0[2], $0[3]), scale: Float(scale)) },
      output: { x, w, p, _ in
        let other = p[2].times(p[3])
        return x.times(w.adding(p[0].times(p[1]).mapped { $2 * other[$0, $1] }, scale).transposed)
      }),
    Formula(
      name: "LoKr", shapes: [(2, 3), (2, 1), (1, 2)],
      make: {
        LoKrTraining(
          outer: .init(a: $0[0], b: nil), inner: .init(a: $0[1], b: $0[2]), scale: Float(scale))
      },
      output: { x, w, p, _ in
        let inner = p[1].times(p[2])
        let change = Matrix<Double>(rows: out, columns: input).mapped { row, column, _ in
          p[0][row / inner.rows, column / inner.columns] * inner[row % inner.rows, column % inner.columns]
        }
        return x.times(w.adding(change, scale).transposed)
      }),
    Formula(
      name: "VeRA", shapes: [(rank, 1), (out, 1)],
      make: {
        VeRATraining(a: frozen(projections.a), b: frozen(projections.b), inner: $0[0], outer: $0[1], dropout: 0)
      },
      output: { x, w, p, _ in
        let h = x.times(projections.a.transposed).mapped { $2 * p[0][$1, 0] }
        return x.times(w.transposed).adding(h.times(projections.b.transposed).mapped { $2 * p[1][$1, 0] }, 1)
      }),
    Formula(
      name: "OFT by its series", shapes: [(2, 3)],
      make: { OFTTraining(entries: $0[0], size: 3, rule: .series(terms: 5)) },
      output: { x, w, p, _ in
        turned(
          x,
          (0..<2).map { block in
            let q = skew(p[0], block)
            let (second, third) = (q.times(q), q.times(q).times(q))
            return Matrix<Double>.identity(3).adding(q, 2).adding(second, 2).adding(third, 2).adding(third.times(q), 1)
          }
        ).times(w.transposed)
      }),
    Formula(
      name: "OFT, exact, one block for all", shapes: [(1, 3)],
      make: { OFTTraining(entries: $0[0], size: 3, rule: .cayley) },
      output: { x, w, p, _ in turned(x, [cayley(skew(p[0], 0))]).times(w.transposed) }),
    Formula(
      name: "BOFT", shapes: [(2, 9), (out, 1)],
      make: { BOFTTraining(matrices: $0[0], factors: $0[1], size: 3) },
      output: { x, w, p, _ in
        let blocks = (0..<2).map { block in
          let m = Matrix<Double>(rows: 3, columns: 3).mapped { row, column, _ in p[0][block, row * 3 + column] }
          return cayley(m.adding(m.transposed, -1).mapped { $2 / 2 })
        }
        return turned(x, blocks).times(w.transposed).mapped { $2 * p[1][$1, 0] }
      }),
  ]
}

private func skew(_ entries: Matrix<Double>, _ block: Int) -> Matrix<Double> {
  let (a, b, c) = (entries[block, 0], entries[block, 1], entries[block, 2])
  return Matrix(rows: 3, columns: 3, values: [0, a, b, -a, 0, c, -b, -c, 0])
}

/// (I - Q)·(I + Q)⁻¹ by the geometric series of Q, which is small.
private func cayley(_ q: Matrix<Double>) -> Matrix<Double> {
  var (inverse, power) = (Matrix<Double>.identity(3), Matrix<Double>.identity(3))
  for _ in 0..<200 {
    power = power.times(q).mapped { -$2 }
    inverse = inverse.adding(power, 1)
  }
  return Matrix<Double>.identity(3).adding(q, -1).times(inverse)
}

private func turned(_ x: Matrix<Double>, _ blocks: [Matrix<Double>]) -> Matrix<Double> {
  x.mapped { row, column, _ in
    let (block, place) = (column / 3, column % 3)
    return (0..<3).reduce(0) { $0 + x[row, block * 3 + $1] * blocks[block % blocks.count][$1, place] }
  }
}

private func random(_ rows: Int, _ columns: Int, _ seed: UInt64) -> Matrix<Double> {
  var generator = TorchGenerator(seed: seed)
  let values = (0..<rows * columns).map { _ in
    // Values that f32 holds exactly, within a quarter of zero.
    Double(Float(generator.nextLongBits() & 0xFFFF) / 0x1p17 - 0.25)
  }
  return Matrix(rows: rows, columns: columns, values: values)
}

extension Matrix<Double> {
  fileprivate func adding(_ other: Matrix, _ scale: Double) -> Matrix {
    var sum = self
    sum.add(other, scale: scale)
    return sum
  }

  fileprivate func mapped(_ body: (_ row: Int, _ column: Int, _ value: Double) -> Double) -> Matrix {
    var result = self
    for row in 0..<rows { for column in 0..<columns { result[row, column] = body(row, column, self[row, column]) } }
    return result
  }

  fileprivate func lent(_ workspace: Workspace) -> LentMatrix {
    let result = workspace.matrix(rows, columns)
    result.copy(values.map { Float($0) })
    return result
  }
}

@Suite struct MethodGradientTests {
  /// The slope of Σ g⊙y along each element, by central differences in f64.
  private func slopes(of value: Matrix<Double>, _ loss: (Matrix<Double>) -> Double) -> [Double] {
    value.values.indices.map { index in
      var (more, less) = (value, value)
      more.values[index] += 1e-6
      less.values[index] -= 1e-6
      return (loss(more) - loss(less)) / 2e-6
    }
  }

  private func expectClose(_ found: [Float], _ expected: [Double], _ what: String) {
    let greatest = max(expected.map(abs).max() ?? 0, 1e-3)
    #expect(found.count == expected.count)
    for (one, other) in zip(found, expected) { #expect(abs(Double(one) - other) < 1e-5 * greatest, "\(what)") }
  }

  @Test(arguments: Formula.all, [false, true])
  fileprivate func gradientsAreTheSlopesOfThePlainFormula(formula: Formula, hasBias: Bool) throws {
    let (tokens, input, out) = (Formula.tokens, Formula.input, Formula.out)
    let (x, w, g) = (random(tokens, input, 1), random(out, input, 2), random(tokens, out, 3))
    let bias = hasBias ? random(1, out, 4) : Matrix(rows: 1, columns: out)
    let start = formula.shapes.enumerated().map { random($1.0, $1.1, 10 + UInt64($0)) }
    let workspace = Workspace()
    let parameters = start.map {
      TrainedParameter(value: $0.lent(workspace), gradient: workspace.zeros($0.rows, $0.columns))
    }
    let adapter = formula.make(parameters)
    let layer = FrozenLinear(
      path: "layer", weight: Formula.frozen(w), bias: hasBias ? bias.values.map { Float($0) } : [], isTransposed: false)
    let model = try CausalLanguageModel(directory: Fixtures.path("training/bases/llama")).frozen()
    let pass = TrainingPass(
      TokenBatch(sequences: [[Int](repeating: 3, count: tokens)], labels: [[Int](repeating: 3, count: tokens)]), model,
      drops: true, generator: TorchGenerator(seed: 1), in: workspace)
    func output(_ x: Matrix<Double>, _ p: [Matrix<Double>]) -> Matrix<Double> {
      let plain = formula.output(x, w, p, start)
      return plain.mapped { _, column, value in
        value + bias[0, column] * (formula.scalesBias ? p[0][column, 0] : 1)
      }
    }
    func loss(_ x: Matrix<Double>, _ p: [Matrix<Double>]) -> Double {
      zip(output(x, p).values, g.values).reduce(0) { $0 + $1.0 * $1.1 }
    }
    let held = x.lent(workspace)
    let (found, kept) = adapter.forward(held, layer, pass)
    expectClose(found.values, output(x, start).values, "output")
    let gradient = adapter.backward(g.lent(workspace), input: held, kept: kept, layer, pass, wantsInput: true)
    expectClose(gradient?.values ?? [], slopes(of: x) { loss($0, start) }, "gradient of x")
    for index in start.indices {
      let expected = slopes(of: start[index]) { moved in
        var all = start
        all[index] = moved
        return loss(x, all)
      }
      expectClose(parameters[index].gradient.values, expected, "gradient of parameter \(index)")
    }
  }

  @Test(arguments: [PromptEncoder.Activation.tanh, .relu])
  func gradientsOfAnEncoderAreTheSlopesOfItsLayers(activation: PromptEncoder.Activation) {
    // A table, and two layers with their biases as columns.
    let start = [random(3, 4, 21), random(5, 4, 22), random(5, 1, 23), random(6, 5, 24), random(6, 1, 25)]
    let g = random(3, 6, 26)
    let workspace = Workspace()
    let parameters = start.map {
      TrainedParameter(value: $0.lent(workspace), gradient: workspace.zeros($0.rows, $0.columns))
    }
    let encoder = PromptEncoderTraining(
      table: parameters[0],
      layers: [
        .init(weight: parameters[1], bias: parameters[2]), .init(weight: parameters[3], bias: parameters[4]),
      ], activation: activation, in: workspace)
    func output(_ p: [Matrix<Double>]) -> Matrix<Double> {
      let inner = p[0].times(p[1].transposed).mapped { activation.value($2 + p[2][$1, 0]) }
      return inner.times(p[3].transposed).mapped { $2 + p[4][$1, 0] }
    }
    encoder.encode(in: workspace)
    expectClose(encoder.output.value.values, output(start).values, "output")
    encoder.output.gradient.copy(g.values.map { Float($0) })
    encoder.backward(in: workspace)
    for index in start.indices {
      let expected = slopes(of: start[index]) { moved in
        var all = start
        all[index] = moved
        return zip(output(all).values, g.values).reduce(0) { $0 + $1.0 * $1.1 }
      }
      expectClose(parameters[index].gradient.values, expected, "gradient of parameter \(index)")
    }
  }
}
