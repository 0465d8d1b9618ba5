import Foundation
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

  static let all: [Formula] =
    [
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
              return Matrix<Double>.identity(3).adding(q, 2).adding(second, 2).adding(third, 2).adding(
                third.times(q), 1)
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
    ] + dropping

  /// What dropout of a half keeps of the input, as a pass with seed 1 draws it.
  static let kept: Matrix<Double> = {
    var generator = TorchGenerator(seed: 1)
    return Matrix(rows: tokens, columns: input).mapped { _, _, _ in
      Double(generator.nextLongBits() & (1 << 53 - 1)) * 0x1p-53 < 0.5 ? 2 : 0
    }
  }()

  /// The factors of outputs of a LyCORIS method whose rank_dropout is 0.4, as that pass draws them after a draw for the module.
  static let ranks: [Double] = {
    var generator = TorchGenerator(seed: 1)
    _ = generator.nextBits()
    return (0..<out).map { _ in Double(generator.nextBits() & 0xFF_FFFF) * 0x1p-24 > 0.4 ? 1 : 0 }
  }()

  /// Methods that leave something out at random, and OFT within bounds.
  private static let dropping: [Formula] = [
    Formula(
      name: "LoRA that drops", shapes: [(rank, input), (out, rank)],
      make: { LoRATraining(a: $0[0], b: $0[1], scale: Float(scale), dropout: 0.5) },
      output: { x, w, p, _ in
        let given = x.mapped { $2 * kept[$0, $1] }
        return x.times(w.transposed).adding(given.times(p[0].transposed).times(p[1].transposed), scale)
      }),
    Formula(
      name: "DoRA that drops", shapes: [(rank, input), (out, rank), (out, 1)],
      make: { DoRATraining(a: $0[0], b: $0[1], magnitude: $0[2], scale: Float(scale), dropout: 0.5) },
      output: { x, w, p, start in
        let norms = w.adding(start[1].times(start[0]), scale)
        let given = x.mapped { $2 * kept[$0, $1] }
        let sum = given.times(w.transposed).adding(given.times(p[0].transposed).times(p[1].transposed), scale)
        let turned = sum.mapped { (_: Int, column: Int, value: Double) -> Double in
          value * p[2][column, 0] / length(norms, column)
        }
        return turned.adding(x.adding(given, -1).times(w.transposed), 1)
      }),
    Formula(
      name: "AdaLoRA that drops", shapes: [(rank, input), (rank, 1), (out, rank)],
      make: { AdaLoRATraining(a: $0[0], e: $0[1], b: $0[2], scale: Float(scale), dropout: 0.5) },
      output: { x, w, p, _ in
        let h = x.mapped { $2 * kept[$0, $1] }.times(p[0].transposed).mapped { $2 * p[1][$1, 0] }
        return x.times(w.transposed).adding(h.times(p[2].transposed), scale)
      }),
    Formula(
      name: "VeRA that drops", shapes: [(rank, 1), (out, 1)],
      make: {
        VeRATraining(a: frozen(projections.a), b: frozen(projections.b), inner: $0[0], outer: $0[1], dropout: 0.5)
      },
      output: { x, w, p, _ in
        let h = x.mapped { $2 * kept[$0, $1] }.times(projections.a.transposed).mapped { $2 * p[0][$1, 0] }
        return x.times(w.transposed).adding(h.times(projections.b.transposed).mapped { $2 * p[1][$1, 0] }, 1)
      }),
    Formula(
      name: "LoHa that drops outputs", shapes: [(out, rank), (rank, input), (out, rank), (rank, input)],
      make: {
        LoHaTraining(
          first: ($0[0], $0[1]), second: ($0[2], $0[3]), scale: Float(scale), dropout: LycorisDropout(ranks: 0.4))
      },
      output: { x, w, p, _ in
        let other = p[2].times(p[3])
        let share: Double = ranks.reduce(0, +) / Double(out)
        let change = p[0].times(p[1]).mapped { (row: Int, column: Int, value: Double) -> Double in
          value * other[row, column] * ranks[row] / share
        }
        return x.times(w.adding(change, scale).transposed)
      }),
    Formula(
      name: "LoHa left out", shapes: [(out, rank), (rank, input), (out, rank), (rank, input)],
      make: {
        LoHaTraining(
          first: ($0[0], $0[1]), second: ($0[2], $0[3]), scale: Float(scale), dropout: LycorisDropout(module: 1))
      }, output: { x, w, _, _ in x.times(w.transposed) }),
    Formula(
      name: "LoKr that drops outputs", shapes: [(2, 3), (2, 1), (1, 2)],
      make: {
        LoKrTraining(
          outer: .init(a: $0[0], b: nil), inner: .init(a: $0[1], b: $0[2]), scale: Float(scale),
          dropout: LycorisDropout(ranks: 0.4, dividesByMean: false))
      },
      output: { x, w, p, _ in
        let inner = p[1].times(p[2])
        let change = Matrix<Double>(rows: out, columns: input).mapped { (row: Int, column: Int, _: Double) -> Double in
          let whole: Double = p[0][row / inner.rows, column / inner.columns]
          let part: Double = inner[row % inner.rows, column % inner.columns]
          return ranks[row] * whole * part
        }
        return x.times(w.adding(change, scale).transposed)
      }),
    Formula(
      name: "OFT within bounds", shapes: [(2, 3)],
      make: { OFTTraining(entries: $0[0], size: 3, rule: .cayley, bound: 0.1) },
      output: { x, w, p, start in
        let moved = withinBound(p[0], start[0])
        return turned(x, [cayley(skew(moved, 0)), cayley(skew(moved, 1))]).times(w.transposed)
      }),
    Formula(
      name: "BOFT that drops a block", shapes: [(2, 9), (out, 1)],
      make: { BOFTTraining(matrices: $0[0], factors: $0[1], size: 3, dropout: 0.5) },
      output: { x, w, p, _ in
        var generator = TorchGenerator(seed: 1)
        _ = generator.nextBits()
        let order = generator.permutation(of: 2, first: 2)
        let blocks = (0..<2).map { (block: Int) -> Matrix<Double> in
          guard order[block] >= 1 else { return .identity(3) }
          let m = Matrix<Double>(rows: 3, columns: 3).mapped { row, column, _ in p[0][block, row * 3 + column] }
          return cayley(m.adding(m.transposed, -1).mapped { $2 / 2 })
        }
        return turned(x, blocks).times(w.transposed).mapped { $2 * p[1][$1, 0] }
      }),
  ]
}

/// The length of a row.
private func length(_ matrix: Matrix<Double>, _ row: Int) -> Double {
  var sum = 0.0
  for column in 0..<matrix.columns { sum += matrix[row, column] * matrix[row, column] }
  return sum.squareRoot()
}

/// Entries that moved, from where COFT with eps 0.1 shortened them to: the parameter itself, before the pass.
private func withinBound(_ moved: Matrix<Double>, _ start: Matrix<Double>) -> Matrix<Double> {
  let bound = 0.1 / 2.0.squareRoot()
  var result = moved
  for row in 0..<start.rows {
    // Each entry stands in its block twice.
    let norm = 2.0.squareRoot() * length(start, row)
    let factor = norm > bound ? bound / norm : 1
    for column in 0..<start.columns { result[row, column] += start[row, column] * (factor - 1) }
  }
  return result
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

  /// One direction of an LSTM layer, plainly: the parameters are W, U and both biases.
  private func recurrent(_ p: [Matrix<Double>], _ x: Matrix<Double>, isReverse: Bool) -> Matrix<Double> {
    let width = p[1].columns
    var result = Matrix<Double>(rows: x.rows, columns: width)
    var (state, cell) = (Matrix<Double>(rows: 1, columns: width), [Double](repeating: 0, count: width))
    for token in isReverse ? Array((0..<x.rows).reversed()) : Array(0..<x.rows) {
      var sums = x.rows(token..<token + 1).times(p[0].transposed)
      sums.add(state.times(p[1].transposed), scale: 1)
      for place in 0..<4 * width { sums[0, place] += p[2][place, 0] + p[3][place, 0] }
      func gate(_ gate: Int, _ unit: Int) -> Double { 1 / (1 + exp(-sums[0, gate * width + unit])) }
      for unit in 0..<width {
        let opened: Double = gate(0, unit) * tanh(sums[0, 2 * width + unit])
        cell[unit] = gate(1, unit) * cell[unit] + opened
        state[0, unit] = gate(3, unit) * tanh(cell[unit])
        result[token, unit] = state[0, unit]
      }
    }
    return result
  }

  @Test(arguments: [false, true]) func gradientsOfAnLSTMAreTheSlopesOfItsFormula(isReverse: Bool) {
    let start = [random(12, 4, 31), random(12, 3, 32), random(12, 1, 33), random(12, 1, 34)]
    let (x, g) = (random(5, 4, 35), random(5, 3, 36))
    let workspace = Workspace()
    let parameters = start.map {
      TrainedParameter(value: $0.lent(workspace), gradient: workspace.zeros($0.rows, $0.columns))
    }
    let layer = LSTMTraining(
      .init(
        inputWeight: parameters[0], hiddenWeight: parameters[1], inputBias: parameters[2], hiddenBias: parameters[3]),
      isReverse: isReverse)
    func loss(_ p: [Matrix<Double>], _ x: Matrix<Double>) -> Double {
      zip(recurrent(p, x, isReverse: isReverse).values, g.values).reduce(0) { $0 + $1.0 * $1.1 }
    }
    let found = layer.encode(x.lent(workspace), in: workspace)
    expectClose(found.values, recurrent(start, x, isReverse: isReverse).values, "output")
    let gradient = layer.backward(g.lent(workspace), in: workspace)
    expectClose(gradient.values, slopes(of: x) { loss(start, $0) }, "gradient of the input")
    for index in start.indices {
      let expected = slopes(of: start[index]) { moved in
        var all = start
        all[index] = moved
        return loss(all, x)
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
