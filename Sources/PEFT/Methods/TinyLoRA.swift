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
    takesConv1D: true, merging: .rule { module throws(AdapterError) in try TinyLoRARule(module) },
    start: .modules([.linear, .transposedLinear, .embedding], freshTinyLoRA))
}

/// A and B are the greatest singular parts of the weight. PEFT computes them in f32, and their signs are LAPACK's.
///
/// Source: peft/tuners/tinylora/layer.py `_init_svd`, `_init_projection`; model.py `_create_and_replace`.
private func freshTinyLoRA(_ module: FreshModule, _ source: inout FreshSource) throws(AdapterError) -> [FreshTensor] {
  let count = try module.integer("u", 1...1 << 30)
  let rank = min(try module.rank(), module.output, module.input)
  let group = try tinyLoRAGroup(module.index, of: module.siblings.count, module)
  let vector = "tinylora_v.\(group)"
  var tensors: [FreshTensor] = []
  let before = try tinyLoRAGroup(max(0, module.index - 1), of: module.siblings.count, module)
  if module.index == 0 || group != before {
    switch module.setting("init_weights") {
    case .bool(true): tensors.append(try source.filled(vector, [count]).shared)
    case .string("uniform") where module.base.checkpoint[module.module.weightName]?.entry.dtype == .f32:
      tensors.append(try source.uniform(vector, [count], within: module.number("init_v_bound")).shared)
    case .string("uniform"):
      throw module.unmade("init_weights \"uniform\"", "PEFT draws it in the weight's own dtype, which is not f32.")
    default:
      throw module.unmade(
        "init_weights \(module.setting("init_weights").compactText)", "PEFT leaves what the memory held.")
    }
  }
  let weight = try module.weight()
  guard let parts = Decompositions.singularValues(weight) else {
    throw .file(.notDecomposable(path: module.base.path, tensor: module.module.weightName))
  }
  _ = try source.count("tinylora_A", [rank, weight.columns])
  _ = try source.count("tinylora_B", [weight.rows, rank])
  var (a, b) = ([Float](), [Float]())
  for index in 0..<rank {
    let root = parts.s[index].squareRoot()
    for column in 0..<weight.columns { a.append(Float(root * parts.vTransposed[index, column])) }
  }
  for row in 0..<weight.rows {
    for index in 0..<rank { b.append(Float(parts.s[index].squareRoot() * parts.u[row, index])) }
  }
  tensors.append(FreshTensor("tinylora_A", [rank, weight.columns], a))
  tensors.append(FreshTensor("tinylora_B", [weight.rows, rank], b))
  guard module.flag("save_projection") else { return tensors }
  let seed = try module.integer("projection_seed", Int.min / 2...Int.max / 2)
  _ = try source.count("tinylora_P", [count, rank, rank])
  tensors.append(
    FreshTensor(
      "tinylora_P", [count, rank, rank], tinyLoRAProjection(seed: seed + module.index, count: count, rank: rank)))
  return tensors
}

/// The vector that a module shares with its neighbours.
private func tinyLoRAGroup(_ index: Int, of count: Int, _ module: some MethodSettings) throws(AdapterError) -> Int {
  let tying = try module.number("weight_tying")
  guard (0...1).contains(tying) else {
    throw .configValue(
      path: module.configPath, key: "weight_tying", expected: "a number from 0 to 1", found: "\(tying)")
  }
  let groups = max(1, Int((Double(count) * (1 - tying)).rounded(.toNearestOrEven)))
  return min(index / max(1, count / groups), groups - 1)
}

/// P, from a stream of its own.
private func tinyLoRAProjection(seed: Int, count: Int, rank: Int) -> [Float] {
  var generator = TorchGenerator(seed: UInt64(bitPattern: Int64(seed)))
  return generator.normal(count: count * rank * rank, mean: 0, deviation: 1 / Double(rank).squareRoot())
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
    // One vector for all needs no order, unless the projection is drawn anew for each.
    let last = try tinyLoRAGroup(module.moduleCount - 1, of: module.moduleCount, module)
    let index = module.siblings?.firstIndex { $0.path == module.path }
    guard let index = index ?? (last == 0 && module.tensors["tinylora_P"] != nil ? 0 : nil) else {
      throw module.refuse(
        "which vector belongs to which module follows from the order of the model's modules, which is not known for this "
          + "model type.")
    }
    let group = try tinyLoRAGroup(index, of: module.moduleCount, module)
    let count = try module.integer("u", 1...1_000_000)
    v = try module.sharedTensor("tinylora_v.\(group)", [count])
    if module.tensors["tinylora_P"] != nil {
      p = .stored(try module.tensor("tinylora_P", [count, rank, rank]))
      return
    }
    let seed = try module.integer("projection_seed", Int.min / 2...Int.max / 2)
    let values = tinyLoRAProjection(seed: seed + index, count: count, rank: rank)
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
