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
    prefixes: ["c3a_"], merging: .rule { module throws(AdapterError) in try C3ARule(module) },
    start: .modules([.linear], freshC3A),
    defaultTargets: DefaultTargets.projectionsOfGPT2)
}

/// Source: peft/tuners/c3a/layer.py `C3ALayer.update_layer`, `reset_c3a_parameters`.
private func freshC3A(_ module: FreshModule, _ source: inout FreshSource) throws(AdapterError) -> [FreshTensor] {
  let found = try module.number("block_size", pattern: "block_size_pattern")
  guard let size = Int(exactly: found), size > 0, module.input % size == 0, module.output % size == 0 else {
    throw module.refuse("block_size", expected: "a divisor of \(module.input) and \(module.output)")
  }
  let shape = [module.output / size, module.input / size, size]
  switch module.setting("init_weights") {
  case .bool(true): return [try source.filled("c3a_kernel", shape)]
  case .string("gaussian"): return [try source.normal("c3a_kernel", shape)]
  case .string("xavier_uniform"), .bool(false):
    let deviation = (2 / Double(module.input + module.output)).squareRoot()
    return [try source.uniform("c3a_kernel", shape, within: 3.0.squareRoot() * deviation)]
  case .string("kaiming_uniform"):
    return [try source.uniform("c3a_kernel", shape, within: (1 / Double(module.input)).squareRoot())]
  default:
    throw module.refuse("init_weights", expected: "true, false, gaussian, xavier_uniform or kaiming_uniform")
  }
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
