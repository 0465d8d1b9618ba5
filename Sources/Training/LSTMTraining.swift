internal import Glibc
internal import PEFT
internal import TensorFiles
internal import TensorMath

/// One direction of a layer of p-tuning's LSTM encoder, in training.
///
/// Forwards: c = f·c′ + i·g, h = o·tanh c, the gates being σ or tanh of x·Wᵀ + h′·Uᵀ and both biases.
/// Gradients, from the last token read to the first: dc = dh·o·(1 - tanh² c) + dc″·f″, of the gates' sums di = dc·g·i(1 - i),
/// df = dc·c′·f(1 - f), dg = dc·i·(1 - g²), do = dh·tanh c·o(1 - o); dh′ = d·U, dx = d·W, dW = dᵀx, dU = dᵀh′.
/// Source: aten/src/ATen/native/RNN.cpp `LSTMCell`.
final class LSTMTraining {
  struct Parameters {
    let inputWeight: TrainedParameter
    let hiddenWeight: TrainedParameter
    let inputBias: TrainedParameter
    let hiddenBias: TrainedParameter
  }

  private let parameters: Parameters
  private let isReverse: Bool
  private var hidden: Int { parameters.hiddenWeight.value.columns }
  /// What was given last, the gates' values, and the cells after each token.
  private var tape: (x: LentMatrix, gates: LentMatrix, cells: LentMatrix, states: LentMatrix)?

  init(_ parameters: Parameters, isReverse: Bool) {
    self.parameters = parameters
    self.isReverse = isReverse
  }

  /// Tokens in the order in which they are read.
  private func order(_ tokens: Int) -> [Int] { isReverse ? (0..<tokens).reversed() : Array(0..<tokens) }

  private func row(_ matrix: LentMatrix, _ row: Int) -> LentMatrix {
    LentMatrix(matrix, from: row * matrix.columns, rows: 1, columns: matrix.columns)
  }

  /// `[tokens, input]` to `[tokens, hidden]`.
  func encode(_ x: LentMatrix, in workspace: Workspace) -> LentMatrix {
    let width = hidden
    let gates = workspace.matrix(x.rows, 4 * width)
    gates.setProduct(x, parameters.inputWeight.value, transposingSecond: true)
    gates.addToRows(parameters.inputBias.value.values)
    gates.addToRows(parameters.hiddenBias.value.values)
    let (cells, states) = (workspace.matrix(x.rows, width), workspace.matrix(x.rows, width))
    var previous: Int?
    for token in order(x.rows) {
      let gate = row(gates, token)
      if let previous {
        gate.setProduct(row(states, previous), parameters.hiddenWeight.value, transposingSecond: true, adding: true)
      }
      var values = gate.values
      let before = previous.map { row(cells, $0).values } ?? [Float](repeating: 0, count: width)
      var (cell, state) = (before, before)
      for unit in 0..<width {
        for part in [0, 1, 3] { values[part * width + unit] = 1 / (1 + exp(-values[part * width + unit])) }
        values[2 * width + unit] = tanh(values[2 * width + unit])
        cell[unit] = values[width + unit] * before[unit] + values[unit] * values[2 * width + unit]
        state[unit] = values[3 * width + unit] * tanh(cell[unit])
      }
      gate.copy(values)
      row(cells, token).copy(cell)
      row(states, token).copy(state)
      previous = token
    }
    tape = (x, gates, cells, states)
    return states
  }

  /// Adds to the parameters' gradients; the gradient of what was given. `g` is that of the states.
  func backward(_ g: LentMatrix, in workspace: Workspace) -> LentMatrix {
    guard let (x, gates, cells, states) = tape else { preconditionFailure("nothing was encoded") }
    let width = hidden
    let slopes = workspace.matrix(gates.rows, gates.columns)
    let before = workspace.zeros(x.rows, width)
    var stateGradient = [Float](repeating: 0, count: width)
    var cellGradient = stateGradient
    let tokens = order(x.rows)
    for (step, token) in tokens.enumerated().reversed() {
      let (values, cell, given) = (row(gates, token).values, row(cells, token).values, row(g, token).values)
      let previous = step > 0 ? row(cells, tokens[step - 1]).values : [Float](repeating: 0, count: width)
      var slope = [Float](repeating: 0, count: 4 * width)
      for unit in 0..<width {
        let (i, f, c, o) = (values[unit], values[width + unit], values[2 * width + unit], values[3 * width + unit])
        let bent = tanh(cell[unit])
        let dh = given[unit] + stateGradient[unit]
        let dc = dh * o * (1 - bent * bent) + cellGradient[unit]
        slope[unit] = dc * c * i * (1 - i)
        slope[width + unit] = dc * previous[unit] * f * (1 - f)
        slope[2 * width + unit] = dc * i * (1 - c * c)
        slope[3 * width + unit] = dh * bent * o * (1 - o)
        cellGradient[unit] = dc * f
      }
      row(slopes, token).copy(slope)
      guard step > 0 else { continue }
      row(before, token).copy(row(states, tokens[step - 1]))
      let back = workspace.matrix(1, width)
      back.setProduct(row(slopes, token), parameters.hiddenWeight.value)
      stateGradient = back.values
    }
    parameters.inputWeight.gradient.setProduct(slopes, transposingFirst: true, x, adding: true)
    parameters.hiddenWeight.gradient.setProduct(slopes, transposingFirst: true, before, adding: true)
    slopes.addColumnSums(to: parameters.inputBias.gradient)
    slopes.addColumnSums(to: parameters.hiddenBias.gradient)
    let gradient = workspace.matrix(x.rows, x.columns)
    gradient.setProduct(slopes, parameters.inputWeight.value)
    return gradient
  }
}
