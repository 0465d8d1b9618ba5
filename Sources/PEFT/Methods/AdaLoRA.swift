internal import TensorFiles
internal import TensorMath

extension AdapterMethod {
  /// AdaLoRA: ΔW = B·(A∘E) · alpha / (init_r + 1e-5). Pruned ranks are pruned in the file already.
  ///
  /// Source: peft/tuners/adalora/layer.py `SVDLinear.get_delta_weight`, `AdaLoraLayer.update_layer`.
  static let adaLoRA = AdapterMethod(
    type: PeftType(rawValue: "ADALORA"),
    defaults: """
      {"alora_invocation_tokens": null, "alpha_pattern": {}, "arrow_config": null, "beta1": 0.85, \
      "beta2": 0.85, "bias": "none", "corda_config": null, "deltaT": 1, "ensure_weight_tying": false, \
      "eva_config": null, "exclude_modules": null, "fan_in_fan_out": false, "init_lora_weights": true, \
      "init_r": 12, "kasa_config": null, "layer_replication": null, "layers_pattern": null, \
      "layers_to_transform": null, "loftq_config": {}, "lora_alpha": 8, "lora_bias": false, \
      "lora_dropout": 0.0, "lora_ga_config": null, "megatron_config": null, "megatron_core": "megatron.core", \
      "modules_to_save": null, "monteclora_config": null, "orth_reg_weight": 0.5, "qalora_group_size": 16, \
      "r": 8, "rank_pattern": null, "target_modules": null, "target_parameters": null, "target_r": 8, \
      "tfinal": 0, "tinit": 0, "total_step": null, "trainable_token_indices": null, "use_bdlora": null, \
      "use_dora": false, "use_qalora": false, "use_rslora": false, "velora_config": null}
      """,
    prefixes: ["lora_"], takesConv1D: true, merging: .rule { module throws(AdapterError) in try AdaLoRARule(module) },
    start: .modules([.linear, .transposedLinear, .convolution], freshAdaLoRA),
    defaultTargets: DefaultTargets.adaLoRA)
}

/// Source: peft/tuners/adalora/layer.py `AdaLoraLayer.update_layer`, `reset_lora_parameters`, `SVDConv2d.update_layer`.
private func freshAdaLoRA(_ module: FreshModule, _ source: inout FreshSource) throws(AdapterError) -> [FreshTensor] {
  let rank = try module.rank("init_r")
  let (shapeA, shapeB) = ([rank, module.fullInput], [module.output, rank])
  var a = try source.normal("lora_A", shapeA)
  var e = try source.normal("lora_E", [rank, 1])
  var b = try source.normal("lora_B", shapeB)
  // The number of ranks is made of a drawn number, which is thrown away.
  _ = try source.normal("ranknum", [1])
  if module.startsNeutral("init_lora_weights") {
    e = try source.filled("lora_E", [rank, 1])
    a = try source.normal("lora_A", shapeA, deviation: 0.02)
    b = try source.normal("lora_B", shapeB, deviation: 0.02)
  }
  return [a, b, e]
}

private struct AdaLoRARule: LowRankRule {
  private let a: StoredTensor
  private let b: StoredTensor
  private let e: StoredTensor
  private let scale: Double

  init(_ module: MethodModule) throws(AdapterError) {
    let input = module.shape.input
    if let error = module.groupedConvolution(found: module.tensors["lora_A"]?.shape.last, expected: input) {
      throw error
    }
    a = try module.tensor("lora_A", "[k, \(input)]") { $0.count == 2 && $0[1] == input }
    b = try module.tensor("lora_B", [module.shape.output, a.shape[0]])
    e = try module.tensor("lora_E", [a.shape[0], 1])
    let rank = try module.number("init_r")
    let alpha = try module.number("lora_alpha")
    scale = (alpha > 0 ? alpha : rank) / (rank + 1e-5)
  }

  func factors<Scalar: FactorElement>(
    _ type: Scalar.Type
  ) throws(TensorFileError) -> (left: Matrix<Scalar>, right: Matrix<Scalar>) {
    var right = try a.matrix(type)
    let values = try e.values(type)
    for row in 0..<right.rows { right.scaleRow(row, by: values[row] * Scalar(scale)) }
    return (try b.matrix(type), right)
  }
}
