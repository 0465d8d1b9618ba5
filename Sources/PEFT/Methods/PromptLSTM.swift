internal import Glibc
internal import TensorMath

/// The recurrent layers of p-tuning's LSTM encoder: in each, one LSTM that reads the tokens forwards and one that reads them backwards.
///
/// Source: peft/tuners/p_tuning/model.py `PromptEncoder`; torch/nn/modules/rnn.py `LSTM`.
package struct PromptLSTM: Sendable {
  /// One direction of a layer. Its gates are input, forget, cell and output, each of `hidden` rows.
  package struct Direction: Sendable {
    /// `[4 · hidden, input]`.
    package var inputWeight: [Float]
    /// `[4 · hidden, hidden]`.
    package var hiddenWeight: [Float]
    package var inputBias: [Float]
    package var hiddenBias: [Float]
    package let input: Int
    package let hidden: Int
    package let isReverse: Bool
  }

  /// Two directions of each layer, in torch's order.
  package var layers: [[Direction]] = []

  /// Draws the layers.
  init(input: Int, hidden: Int, layers count: Int, _ source: inout FreshSource) throws(AdapterError) {
    let bound = 1 / Double(hidden).squareRoot()
    let gates = 4 * hidden
    for layer in 0..<count {
      let width = layer == 0 ? input : 2 * hidden
      var directions: [Direction] = []
      for isReverse in [false, true] {
        directions.append(
          Direction(
            inputWeight: try source.uniform("lstm_head", [gates, width], within: bound).floats,
            hiddenWeight: try source.uniform("lstm_head", [gates, hidden], within: bound).floats,
            inputBias: try source.uniform("lstm_head", [gates], within: bound).floats,
            hiddenBias: try source.uniform("lstm_head", [gates], within: bound).floats,
            input: width, hidden: hidden, isReverse: isReverse))
      }
      layers.append(directions)
    }
  }

  /// x `[tokens, input]` to `[tokens, 2 · hidden]`, in f64.
  func encoded(_ x: Matrix<Double>) -> Matrix<Double> {
    layers.reduce(x) { x, directions in
      let parts = directions.map { $0.encoded(x) }
      let width = parts[0].columns
      return Matrix(
        rows: x.rows, columns: 2 * width,
        values: (0..<x.rows).flatMap { row in parts.flatMap { $0.rows(row..<row + 1).values } })
    }
  }
}

extension PromptLSTM.Direction {
  /// x `[tokens, input]` to `[tokens, hidden]`.
  fileprivate func encoded(_ x: Matrix<Double>) -> Matrix<Double> {
    func matrix(_ values: [Float], _ columns: Int) -> Matrix<Double> {
      Matrix(rows: 4 * hidden, columns: columns, values: values.map { Double($0) })
    }
    let given = x.times(matrix(inputWeight, input).transposed)
    let recurrent = matrix(hiddenWeight, hidden).transposed
    var result = Matrix<Double>(rows: x.rows, columns: hidden)
    var state = Matrix<Double>(rows: 1, columns: hidden)
    var cell = [Double](repeating: 0, count: hidden)
    for step in 0..<x.rows {
      let row = isReverse ? x.rows - 1 - step : step
      let sums = state.times(recurrent)
      func gate(_ gate: Int, _ unit: Int) -> Double {
        let place = gate * hidden + unit
        return given[row, place] + Double(inputBias[place]) + sums[0, place] + Double(hiddenBias[place])
      }
      for unit in 0..<hidden {
        cell[unit] = sigmoid(gate(1, unit)) * cell[unit] + sigmoid(gate(0, unit)) * tanh(gate(2, unit))
        state[0, unit] = sigmoid(gate(3, unit)) * tanh(cell[unit])
        result[row, unit] = state[0, unit]
      }
    }
    return result
  }
}

private func sigmoid(_ x: Double) -> Double { 1 / (1 + exp(-x)) }
