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
    prefixes: ["hra_"], merging: .rule { module throws(AdapterError) in try HRARule(module) })
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
