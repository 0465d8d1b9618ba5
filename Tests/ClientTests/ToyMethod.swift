import PEFT
import TensorFiles
import TensorMath

/// A method that PEFT does not have: ΔW = strength · u · vᵀ, one outer product a module.
enum ToyMethod {
  static let type = PeftType(rawValue: "TOY_OUTER")

  static func register() {
    var method = AdapterMethod(
      type, defaults: #"{"bias": "none", "modules_to_save": null, "strength": 2.0, "target_modules": null}"#,
      prefixes: ["toy_"], merging: .rule { module throws(AdapterError) in try Rule(module) })
    method.start = .modules([.linear]) { module, source throws(AdapterError) in
      [
        try source.normal("toy_u", [module.output]), try source.filled("toy_v", [module.input], 0.25),
      ]
    }
    method.storedShape = { $0.matrix($0.extent("toy_u", 0), $0.extent("toy_v", 0)) }
    method.neededRoles = ["toy_u", "toy_v"]
    AdapterMethod.register(method)
  }

  private struct Rule: LowRankRule {
    let u: StoredTensor
    let v: StoredTensor
    let strength: Double

    init(_ module: MethodModule) throws(AdapterError) {
      u = try module.tensor("toy_u", [module.shape.output])
      v = try module.tensor("toy_v", [module.shape.input])
      strength = try module.number("strength")
    }

    func factors<Scalar: FactorElement>(
      _ type: Scalar.Type
    ) throws(TensorFileError) -> (left: Matrix<Scalar>, right: Matrix<Scalar>) {
      let values = try u.values(type).map { $0 * Scalar(strength) }
      return (Matrix(rows: values.count, columns: 1, values: values), try v.matrix(rows: 1, type))
    }
  }
}
