internal import TensorFiles
internal import TensorMath

extension AdapterMethod {
  /// C³A: ΔW is made of circulant blocks: ΔW[i·b+p, j·b+q] = k[i, j, (q-p) mod b] / in.
  ///
  /// Source: peft/tuners/c3a/layer.py `C3ALinear.get_delta_weight`; utils.py `get_circulant_fast`.
  static let c3a = AdapterMethod(
    type: PeftType(rawValue: "C3A"),
    defaults: """
      {"bias": "none", "block_size": 256, "block_size_pattern": {}, "init_weights": "xavier_uniform", \
      "layers_pattern": null, "layers_to_transform": null, "modules_to_save": null, "target_modules": null}
      """,
    prefixes: ["c3a_"], merging: .rule { module throws(AdapterError) in try C3ARule(module) })
}

private struct C3ARule: WeightRule {
  private let kernel: StoredTensor

  init(_ module: MethodModule) throws(AdapterError) {
    let shape = module.shape
    kernel = try module.tensor("c3a_kernel", "[\(shape.output) / b, \(shape.input) / b, b]") {
      $0.count == 3 && $0[2] > 0 && shape.output % $0[2] == 0 && shape.input % $0[2] == 0
        && $0[0] == shape.output / $0[2] && $0[1] == shape.input / $0[2]
    }
  }

  var isAdditive: Bool { true }

  func makeChange<Scalar: FactorElement>(scale: Scalar) throws(TensorFileError) -> RowChange<Scalar> {
    let values = try kernel.values(Scalar.self)
    let (across, size) = (kernel.shape[1], kernel.shape[2])
    return { rows, block in
      let factor = scale / Scalar(block.columns)
      for row in rows {
        for j in 0..<across {
          let start = (row / size * across + j) * size
          for q in 0..<size {
            block[row - rows.lowerBound, j * size + q] += factor * values[start + (q - row % size + size) % size]
          }
        }
      }
    }
  }
}
