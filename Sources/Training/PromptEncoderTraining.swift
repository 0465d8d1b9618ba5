internal import LanguageModels
internal import PEFT
internal import TensorFiles
internal import TensorMath

/// The encoder of p-tuning, or the projection of prefix tuning, in training: a table of virtual tokens through linear layers, and
/// through an LSTM before them if there is one.
///
/// Gradients, for a layer y = xWᵀ + b: dW = gᵀx, db = Σ g, dx = gW, times the slope of what stands before it: [x > 0] or 1 - x².
/// Source: peft/tuners/p_tuning/model.py `PromptEncoder.forward`; prefix_tuning/model.py `PrefixEncoder.forward`.
final class PromptEncoderTraining {
  /// A linear layer's parameters, the bias as a column.
  struct Layer {
    let weight: TrainedParameter
    let bias: TrainedParameter
  }

  private let table: TrainedParameter
  /// Both directions of each layer.
  private let recurrent: [[LSTMTraining]]
  private let layers: [Layer]
  private let activation: PromptEncoder.Activation
  /// What the layers make of the table, and where its gradient is summed.
  let output: TrainedParameter
  /// What each layer was given last.
  private var inputs: [LentMatrix] = []

  init(
    table: TrainedParameter, recurrent: [[LSTMTraining]] = [], layers: [Layer], activation: PromptEncoder.Activation,
    in workspace: Workspace
  ) {
    (self.table, self.recurrent, self.layers, self.activation) = (table, recurrent, layers, activation)
    let width = layers.last?.weight.value.rows ?? table.value.columns
    output = TrainedParameter(
      value: workspace.zeros(table.value.rows, width), gradient: workspace.zeros(table.value.rows, width))
  }

  /// Makes the output anew, and clears its gradient.
  func encode(in workspace: Workspace) {
    inputs = []
    var x = table.value
    for directions in recurrent {
      let parts = directions.map { $0.encode(x, in: workspace) }
      x = workspace.matrix(x.rows, parts[0].columns + parts[1].columns)
      x.setColumns(from: 0, parts[0])
      x.setColumns(from: parts[0].columns, parts[1])
    }
    for (index, layer) in layers.enumerated() {
      inputs.append(x)
      let next = workspace.matrix(x.rows, layer.weight.value.rows)
      next.setProduct(x, layer.weight.value, transposingSecond: true)
      next.addToRows(layer.bias.value.values)
      if index < layers.count - 1 { next.copy(next.values.map { Float(activation.value(Double($0))) }) }
      x = next
    }
    output.value.copy(x)
    output.gradient.clear()
  }

  /// Adds to the gradients of table and layers what the output's gradient gives.
  func backward(in workspace: Workspace) {
    var g = output.gradient
    for index in layers.indices.reversed() {
      let (layer, x) = (layers[index], inputs[index])
      layer.weight.gradient.setProduct(g, transposingFirst: true, x, adding: true)
      g.addColumnSums(to: layer.bias.gradient)
      let next = workspace.matrix(x.rows, x.columns)
      next.setProduct(g, layer.weight.value)
      if index > 0 { next.copy(zip(next.values, x.values).map { $0 * activation.slope(ofValue: $1) }) }
      g = next
    }
    for directions in recurrent.reversed() {
      let width = g.columns / 2
      let back = directions.enumerated().map {
        $1.backward(g.columns($0 * width..<($0 + 1) * width, in: workspace), in: workspace)
      }
      back[0].add(back[1])
      g = back[0]
    }
    table.gradient.add(g)
  }
}

extension PromptEncoder.Activation {
  /// The slope where the function has the value.
  fileprivate func slope(ofValue value: Float) -> Float {
    switch self {
    case .tanh: 1 - value * value
    case .relu: value > 0 ? 1 : 0
    }
  }
}

extension AdapterReader {
  /// Reads an encoder, which no adapter stores: the one that the seed draws, if the stored prompt is what that makes.
  ///
  /// Throws `.unsupported` for the prompt of another.
  func readEncoder(
    _ give: @escaping (PromptEncoderTraining, inout TrainedParts) -> Void, shape: [Int?]
  ) throws(ModelError) {
    let stored = try replaced("prompt_embeddings", shape)
    let (config, base, seed) = (config, model.base, seed)
    let drawn = try withAdapterErrors({ () throws(AdapterError) in
      try PromptEncoder(config, configPath: PeftConfig.fileName, base: base, seed: seed)
    })
    guard let encoder = drawn else { return }
    let made = encoder.encoded()
    guard made.count == stored.count, zip(made, stored).allSatisfy({ abs($0 - $1) <= 1e-4 * max(1e-2, abs($1)) }) else {
      throw .unsupported(
        what: "going on with \(config.peftType.rawValue)\(layersName == "transform" ? " and prefix_projection" : "")",
        reason: "a saved adapter has only what its encoder gave. Train from its adapter_config.json, or from what init "
          + "made with the same --seed.")
    }
    let stem = "prompt_encoder.default"
    add(
      ParameterStore.Initial(
        name: "\(stem).embedding.weight", shape: [encoder.tokens, encoder.width], values: encoder.table))
    var recurrent: [[(names: [String], isReverse: Bool)]] = []
    for (index, directions) in (encoder.recurrent?.layers ?? []).enumerated() {
      recurrent.append([])
      for direction in directions {
        let ending = "_l\(index)" + (direction.isReverse ? "_reverse" : "")
        let gates = 4 * direction.hidden
        let parts: [(name: String, shape: [Int], values: [Float])] = [
          ("weight_ih", [gates, direction.input], direction.inputWeight),
          ("weight_hh", [gates, direction.hidden], direction.hiddenWeight),
          ("bias_ih", [gates], direction.inputBias), ("bias_hh", [gates], direction.hiddenBias),
        ]
        let names = parts.map { "\(stem).lstm_head.\($0.name)\(ending)" }
        for (name, part) in zip(names, parts) {
          add(ParameterStore.Initial(name: name, shape: part.shape, values: part.values))
        }
        recurrent[index].append((names, direction.isReverse))
      }
    }
    var names: [(weight: String, bias: String)] = []
    for (index, layer) in encoder.layers.enumerated() {
      let name = "\(stem).\(layersName).\(2 * index)"
      names.append(("\(name).weight", "\(name).bias"))
      add(ParameterStore.Initial(name: "\(name).weight", shape: [layer.output, layer.input], values: layer.weight))
      add(ParameterStore.Initial(name: "\(name).bias", shape: [layer.output], values: layer.bias))
    }
    make { store, parts in
      let training = PromptEncoderTraining(
        table: store.parameter("\(stem).embedding.weight"),
        recurrent: recurrent.map {
          $0.map { direction in
            let parameters = direction.names.map(store.parameter)
            return LSTMTraining(
              .init(
                inputWeight: parameters[0], hiddenWeight: parameters[1], inputBias: parameters[2],
                hiddenBias: parameters[3]), isReverse: direction.isReverse)
          }
        },
        layers: names.map { .init(weight: store.parameter($0.weight), bias: store.parameter($0.bias)) },
        activation: encoder.activation, in: store.workspace)
      parts.encoder = training
      give(training, &parts)
    }
  }

  /// What PEFT calls the layers.
  private var layersName: String { config.peftType.rawValue == "P_TUNING" ? "mlp_head" : "transform" }
}
