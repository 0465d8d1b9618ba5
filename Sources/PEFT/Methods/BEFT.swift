internal import TensorFiles
internal import TensorMath

extension AdapterMethod {
  /// BEFT: b' = b + the trained bias; the weight stays. Source: peft/tuners/beft/layer.py `Linear.merge`.
  static let beft = AdapterMethod(
    type: PeftType(rawValue: "BEFT"),
    defaults: """
      {"init_weights": true, "modules_to_save": null, "target_modules": null}
      """,
    prefixes: ["beft_"], merging: .rule { module throws(AdapterError) in try BEFTRule(module) },
    start: .modules([.linear], freshBEFT),
    defaultTargets: DefaultTargets.beft)
}

/// Source: peft/tuners/beft/layer.py `BeftLayer.update_layer`.
private func freshBEFT(_ module: FreshModule, _ source: inout FreshSource) throws(AdapterError) -> [FreshTensor] {
  let drawn = try source.normal("beft_bias", [1, module.output])
  return [module.startsNeutral() ? try source.filled("beft_bias", drawn.shape) : drawn]
}

private struct BEFTRule: WeightRule {
  private let change: StoredTensor

  init(_ module: MethodModule) throws(AdapterError) {
    change = try module.tensor("beft_bias", [1, module.shape.output])
  }

  var addedBias: StoredTensor? { change }
  var changesWeight: Bool { false }
  var isAdditive: Bool { true }

  func makeChange<Scalar: FactorElement>(scale: Scalar) throws(TensorFileError) -> RowChange<Scalar> { { _, _ in } }
}
