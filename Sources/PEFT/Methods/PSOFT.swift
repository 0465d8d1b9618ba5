internal import TensorFiles
internal import TensorMath

extension AdapterMethod {
  /// PSOFT: a rotation between the weight's greatest singular vectors.
  static let psoft = AdapterMethod(
    type: PeftType(rawValue: "PSOFT"),
    defaults: """
      {"ab_svd_init": "psoft_init", "cayley_neumann_eps": null, "exclude_modules": null, \
      "fan_in_fan_out": false, "init_weights": true, "layers_pattern": null, "layers_to_transform": null, \
      "modules_to_save": null, "num_cayley_neumann_terms": 5, "psoft_alpha": 32, "psoft_dropout": 0.0, \
      "psoft_mag_a": true, "psoft_mag_b": true, "psoft_orth": true, "psoft_svd": "full", \
      "psoft_svd_lowrank_niter": 10, "r": 32, "random_seed": 0, "target_modules": null, \
      "use_cayley_neumann": false}
      """,
    prefixes: ["psoft_"],
    merging: .none(
      reason: "its rotation acts on singular vectors of the weight whose signs are stored nowhere: another sign gives "
        + "another model."),
    start: .modules([.linear], freshPSOFT))
}

/// The rotation's entries above the diagonal, or all of it, in the dtype of the base; the singular vectors are not stored.
///
/// Source: peft/tuners/psoft/layer.py `OrthLayer.reset_parameters`.
private func freshPSOFT(_ module: FreshModule, _ source: inout FreshSource) throws(AdapterError) -> [FreshTensor] {
  let rank = try module.rank()
  guard rank <= min(module.input, module.output) else {
    throw module.refuse("r", expected: "a rank that the weight has")
  }
  guard [.f32, .f16, .bf16].contains(module.dtype) else {
    throw module.unmade("peft_type PSOFT", "it takes weights of 16 or 32 bits.")
  }
  let name = "psoft_R.weight"
  let neutral = module.startsNeutral()
  var tensors: [FreshTensor] = []
  if module.flag("psoft_orth") {
    let shape = [rank * (rank - 1) / 2]
    tensors.append(
      neutral ? try source.filled(name, shape) : try source.normal(name, shape, deviation: 0.1, like: module.dtype))
  } else {
    var values = try source.filled(name, [rank, rank]).floats
    if !neutral {
      let noise = try source.normal(name, [rank, rank], like: module.dtype).floats
      values = AdapterInitializer.rounded(noise.map { $0 * 0.1 }, module.dtype)
    }
    for place in 0..<rank { values[place * (rank + 1)] += 1 }
    tensors.append(FreshTensor(name, [rank, rank], values))
  }
  for (key, name) in [("psoft_mag_b", "psoft_R.vector_b"), ("psoft_mag_a", "psoft_R.vector_a")] where module.flag(key) {
    tensors.append(try source.filled(name, [rank], 1))
  }
  return tensors
}
