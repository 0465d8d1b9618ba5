internal import Glibc
internal import TensorFiles
internal import TensorMath

extension AdapterMethod {
  /// PEANuT: ΔW is what a small network makes of W: x = f(Wᵀ·Aᵀ), layers with residuals, then B.
  ///
  /// Source: peft/tuners/peanut/layer.py `Linear._compute_delta_weight`.
  static let peanut = AdapterMethod(
    type: PeftType(rawValue: "PEANUT"),
    defaults: """
      {"act_fn": "relu", "depth": 0, "exclude_modules": null, "init_weights": true, "layers_pattern": null, \
      "layers_to_transform": null, "modules_to_save": null, "r": 32, "scaling": 1.0, "target_modules": null}
      """,
    prefixes: ["peanut_"], merging: .rule { module throws(AdapterError) in try PEANuTRule(module) },
    start: .modules([.linear], freshPEANuT))
}

/// Source: peft/tuners/peanut/layer.py `PeanutLayer.update_layer`, `reset_peanut_parameters`.
private func freshPEANuT(_ module: FreshModule, _ source: inout FreshSource) throws(AdapterError) -> [FreshTensor] {
  let rank = try module.rank()
  let depth = try module.integer("depth", 0...1000)
  let inner = ["encoders", "decoders"].flatMap { kind in (0..<depth).map { "peanut_\(kind).\($0).weight" } }
  var tensors: [FreshTensor] = []
  // Linear layers draw their weights when they are made, and then again.
  for isLast in [false, true] {
    tensors = [try source.uniform("peanut_A.weight", [rank, module.output], fanIn: module.output)]
    for name in inner { tensors.append(try source.uniform(name, [rank, rank], fanIn: rank)) }
    let shape = [module.output, rank]
    tensors.append(
      isLast && module.startsNeutral()
        ? try source.filled("peanut_B.weight", shape) : try source.uniform("peanut_B.weight", shape, fanIn: rank))
  }
  return tensors
}

private struct PEANuTRule: WeightRule {
  private let a: StoredTensor
  private let b: StoredTensor
  private let encoders: [StoredTensor]
  private let decoders: [StoredTensor]
  private let activation: ActivationFunction
  private let scale: Double

  init(_ module: MethodModule) throws(AdapterError) {
    let output = module.shape.output
    a = try module.tensor("peanut_A.weight", "[r, \(output)]") { $0.count == 2 && $0[1] == output }
    let rank = a.shape[0]
    b = try module.tensor("peanut_B.weight", [output, rank])
    var (encoders, decoders): ([StoredTensor], [StoredTensor]) = ([], [])
    while module.tensors["peanut_encoders.\(encoders.count).weight"] != nil {
      encoders.append(try module.tensor("peanut_encoders.\(encoders.count).weight", [rank, rank]))
      decoders.append(try module.tensor("peanut_decoders.\(decoders.count).weight", [rank, rank]))
    }
    self.encoders = encoders
    self.decoders = decoders
    let name = module.setting("act_fn").stringValue ?? "null"
    guard let activation = ActivationFunction(name) else {
      throw .configValue(
        path: module.configPath, key: "act_fn", expected: "one of \(ActivationFunction.names.joined(separator: ", "))",
        found: name)
    }
    self.activation = activation
    scale = try module.number("scaling")
  }

  var needsWholeWeight: Bool { true }

  func makeChange<Scalar: FactorElement>(scale weight: Scalar) throws(TensorFileError) -> RowChange<Scalar> {
    let (a, b) = (try a.matrix(Double.self), try b.matrix(Double.self))
    var (up, down): ([Matrix<Double>], [Matrix<Double>]) = ([], [])
    for (encoder, decoder) in zip(encoders, decoders) {
      up.append(try encoder.matrix(Double.self))
      down.append(try decoder.matrix(Double.self))
    }
    let (activation, scale) = (activation, scale)
    return { _, weight in
      let original = Matrix(rows: weight.rows, columns: weight.columns, values: weight.values.map { Double($0) })
      // x is [in, r].
      var x = original.times(a, transposingSelf: true, transposingOther: true).mapped(activation.double)
      var residuals: [Matrix<Double>] = []
      for layer in up {
        residuals.append(x)
        x = x.times(layer, transposingOther: true).mapped(activation.double)
      }
      for layer in down {
        x = x.times(layer, transposingOther: true).mapped(activation.double)
        if let residual = residuals.popLast() { x.add(residual, scale: 1) }
      }
      var result = original
      result.add(b, times: x, transposingSecond: true, scale: scale)
      weight.values = result.values.map { Scalar($0) }
    }
  }
}

extension Matrix {
  /// Each element passed through a function.
  fileprivate func mapped(_ function: (Scalar) -> Scalar) -> Matrix {
    Matrix(rows: rows, columns: columns, values: values.map(function))
  }
}
