internal import TensorFiles
internal import TensorMath

extension AdapterMethod {
  /// HRA: W' = W·Π(I - 2uuᵀ), reflections at normalised vectors in their order; with `apply_GS` they are made orthogonal
  /// first. Source: peft/tuners/hra/layer.py `Linear.get_delta_weight`.
  static let hra = AdapterMethod(
    type: PeftType(rawValue: "HRA"),
    defaults: """
      {"apply_GS": false, "bias": "none", "exclude_modules": null, "init_weights": true, \
      "layers_pattern": null, "layers_to_transform": null, "modules_to_save": null, "r": 8, \
      "target_modules": null}
      """,
    prefixes: ["hra_"], merging: .rule { module throws(AdapterError) in try HRARule(module) },
    start: .modules([.linear, .convolution], freshHRA))
}

/// Source: peft/tuners/hra/layer.py `HRALayer.update_layer`, `reset_hra_parameters`.
private func freshHRA(_ module: FreshModule, _ source: inout FreshSource) throws(AdapterError) -> [FreshTensor] {
  guard module.kernel.isEmpty || module.kernel.count == 2 else {
    throw module.unmade("HRA", "it takes no convolution but of two dimensions.")
  }
  let rank = try module.rank()
  // PEFT takes a kernel to be square.
  let width = module.kernel.isEmpty ? module.input : module.input * module.kernel[0] * module.kernel[0]
  guard module.startsNeutral(), rank % 2 == 0 else { return [try source.uniform("hra_u", [width, rank], fanIn: rank)] }
  // Each reflection twice: together they change nothing.
  let half = try source.uniform("hra_u", [width, rank / 2], fanIn: rank / 2).floats
  return [FreshTensor("hra_u", [width, rank], (0..<width * rank).map { half[$0 / 2] })]
}

private struct HRARule: WeightRule {
  private let vectors: StoredTensor
  private let isOrthogonal: Bool

  init(_ module: MethodModule) throws(AdapterError) {
    let input = module.shape.input
    vectors = try module.tensor("hra_u", "[\(input), r]") { $0.count == 2 && $0[0] == input }
    isOrthogonal = module.flag("apply_GS")
  }

  func makeChange<Scalar: FactorElement>(scale: Scalar) throws(TensorFileError) -> RowChange<Scalar> {
    let stored = try vectors.matrix(Double.self).transposed
    var units: [[Double]] = []
    for index in 0..<stored.rows {
      var u = stored.rows(index..<index + 1).values
      if isOrthogonal {
        for other in units {
          let part = zip(u, other).reduce(0) { $0 + $1.0 * $1.1 }
          for place in u.indices { u[place] -= part * other[place] }
        }
      }
      let norm = u.reduce(0) { $0 + $1 * $1 }.squareRoot()
      units.append(u.map { $0 / norm })
    }
    let columns = units.map { u in Matrix<Scalar>(rows: u.count, columns: 1, values: u.map { Scalar($0) }) }
    return { _, block in
      for u in columns {
        let parts = block.times(u)
        block.add(parts, times: u, transposingSecond: true, scale: -2)
      }
    }
  }
}
