internal import TensorFiles
internal import TensorMath

extension AdapterMethod {
  /// Poly: a router mixes skills, each a LoRA of parts of the features, by the task.
  static let poly = AdapterMethod(
    type: PeftType(rawValue: "POLY"),
    defaults: """
      {"exclude_modules": null, "init_weights": true, "modules_to_save": null, "n_skills": 4, "n_splits": 1, \
      "n_tasks": 1, "poly_type": "poly", "r": 8, "target_modules": null}
      """,
    prefixes: ["poly_"], merging: .none(reason: "it mixes its skills by the task that is given when it runs."),
    start: .modules([.linear], freshPoly))
}

/// A and B of each skill and part are drawn as a linear layer's weight, and stored transposed.
///
/// Source: peft/tuners/poly/layer.py `PolyLayer.reset_poly_parameters`; router.py `PolyRouter.reset`.
private func freshPoly(_ module: FreshModule, _ source: inout FreshSource) throws(AdapterError) -> [FreshTensor] {
  guard module.setting("poly_type") == .string("poly") else {
    throw module.refuse("poly_type", expected: "poly, the only type that PEFT has")
  }
  let rank = try module.rank()
  let (skills, tasks) = (try module.integer("n_skills", 1...1 << 20), try module.integer("n_tasks", 1...1 << 20))
  let splits = try module.integer("n_splits", 1...1 << 20)
  let (input, output) = (module.input / splits, module.output / splits)
  guard input > 0, output > 0 else { throw module.refuse("n_splits", expected: "no more parts than features") }
  /// `[splits, skills, inner, outer]` of weights `[outer, inner]`.
  func transposed(_ name: String, _ inner: Int, _ outer: Int, draws: Bool) throws(AdapterError) -> FreshTensor {
    let shape = [splits, skills, inner, outer]
    guard draws else { return try source.filled(name, shape) }
    var values = try source.filled(name, shape).floats
    for skill in 0..<skills {
      for split in 0..<splits {
        let weight = source.generator.kaimingUniform(count: inner * outer, fanIn: inner)
        let start = (split * skills + skill) * inner * outer
        for row in 0..<inner {
          for column in 0..<outer { values[start + row * outer + column] = weight[column * inner + row] }
        }
      }
    }
    return FreshTensor(name, shape, values)
  }
  return [
    try transposed("poly_lora_A", input, rank, draws: true),
    try transposed("poly_lora_B", rank, output, draws: !module.startsNeutral()),
    try source.uniform("poly_router.module_logits", [tasks, splits * skills], within: 1e-3),
  ]
}
