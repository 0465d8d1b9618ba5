internal import Numerics
internal import TensorFiles

extension AdapterMethod {
  /// BEFT: b' = b + the trained bias; the weight stays. Source: peft/tuners/beft/layer.py `Linear.merge`.
  static let beft = AdapterMethod(
    type: PeftType(rawValue: "BEFT"),
    defaults: """
      {"init_weights": true, "modules_to_save": null, "target_modules": null}
      """,
    prefixes: ["beft_"], merging: .rule { module throws(AdapterError) in try BEFTRule(module) })
}

private struct BEFTRule: WeightRule {
  private let change: StoredTensor

  init(_ module: MethodModule) throws(AdapterError) {
    change = try module.tensor("beft_bias", [1, module.shape.output])
  }

  var isAdditive: Bool { true }
  var changesBias: Bool { true }
  var changesWeight: Bool { false }
  var needsBias: Bool { true }

  func makeChange<Scalar: FactorElement>(scale: Scalar) throws(TensorFileError) -> RowChange<Scalar> { { _, _ in } }

  func changedBias(
    _ bias: [Double], scale: Double, weight: () throws(TensorFileError) -> Matrix<Double>
  ) throws(TensorFileError) -> [Double] {
    zip(bias, try change.values(Double.self)).map { $0 + scale * $1 }
  }
}
