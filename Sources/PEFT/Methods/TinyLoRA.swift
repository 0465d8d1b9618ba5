internal import TensorFiles
internal import TensorMath

extension AdapterMethod {
  /// TinyLoRA: ΔW = B·(Σ v_i·P_i)·A with frozen A, B and P; v is shared by groups of modules in the model's order.
  ///
  /// Source: peft/tuners/tinylora/layer.py `_compute_R`, `_init_projection`; model.py `_create_and_replace`.
  static let tinyLoRA = AdapterMethod(
    type: PeftType(rawValue: "TINYLORA"),
    defaults: """
      {"bias": "none", "fan_in_fan_out": false, "init_v_bound": 0.02, "init_weights": true, \
      "layers_pattern": null, "layers_to_transform": null, "modules_to_save": null, "projection_seed": 42, \
      "r": 2, "save_projection": true, "target_modules": null, "tinylora_dropout": 0.0, "u": 64, \
      "weight_tying": 0.0}
      """,
    prefixes: ["tinylora_"], buffers: ["tinylora_A", "tinylora_B", "tinylora_P"],
    takesConv1D: true, merging: .rule { module throws(AdapterError) in try TinyLoRARule(module) })
}

private struct TinyLoRARule: LowRankRule {
  private let a: StoredTensor
  private let b: StoredTensor
  private let v: StoredTensor
  private let p: Projection

  init(_ module: MethodModule) throws(AdapterError) {
    let shape = module.shape
    a = try module.tensor("tinylora_A", "[r, \(shape.input)]") { $0.count == 2 && $0[1] == shape.input && $0[0] > 0 }
    let rank = a.shape[0]
    b = try module.tensor("tinylora_B", [shape.output, rank])
    let tying = try module.number("weight_tying")
    guard (0...1).contains(tying) else {
      throw .configValue(
        path: module.configPath, key: "weight_tying", expected: "a number from 0 to 1", found: "\(tying)")
    }
    let groups = max(1, Int((Double(module.moduleCount) * (1 - tying)).rounded(.toNearestOrEven)))
    // One vector for all needs no order, unless the projection is drawn anew for each.
    let index = module.siblings?.firstIndex { $0.path == module.path }
    guard let index = index ?? (groups == 1 && module.tensors["tinylora_P"] != nil ? 0 : nil) else {
      throw module.refuse(
        "which vector belongs to which module follows from the order of the model's modules, which is not known for this "
          + "model type.")
    }
    let group = min(index / max(1, module.moduleCount / groups), groups - 1)
    let count = try module.integer("u", 1...1_000_000)
    try module.requireRoom(for: [count, rank, rank], what: "\(count) projections of \(rank) ranks")
    v = try module.sharedTensor("tinylora_v.\(group)", [count])
    if module.tensors["tinylora_P"] != nil {
      p = .stored(try module.tensor("tinylora_P", [count, rank, rank]))
      return
    }
    let seed = try module.integer("projection_seed", Int.min / 2...Int.max / 2)
    var generator = TorchGenerator(seed: UInt64(bitPattern: Int64(seed + index)))
    let values = generator.normal(count: count * rank * rank, mean: 0, deviation: 1 / Double(rank).squareRoot())
    p = .drawn(Matrix(rows: count * rank, columns: rank, values: values))
  }

  func factors<Scalar: FactorElement>(
    _ type: Scalar.Type
  ) throws(TensorFileError) -> (left: Matrix<Scalar>, right: Matrix<Scalar>) {
    let rank = a.shape[0]
    let (v, p) = (try v.values(type), try p.matrix(type).values)
    var r = Matrix<Scalar>(rows: rank, columns: rank)
    for (index, factor) in v.enumerated() {
      for place in 0..<rank * rank { r.values[place] += factor * p[index * rank * rank + place] }
    }
    return (try b.matrix(type).times(r), try a.matrix(type))
  }
}
