internal import TensorFiles
internal import TensorMath

extension AdapterMethod {
  /// Uni-LoRA: every element of all A and B is one of a few shared values, scaled by how often it is used. Which one is
  /// drawn by NumPy from a seed, unless the places are stored.
  ///
  /// Source: peft/tuners/unilora/model.py `generate_index`, `_assign_unilora_indices_and_scales`.
  static let uniLoRA = AdapterMethod(
    type: PeftType(rawValue: "UNILORA"),
    defaults: """
      {"bias": "none", "fan_in_fan_out": false, "init_theta_d_bound": 0.02, "init_weights": true, \
      "layers_pattern": null, "layers_to_transform": null, "modules_to_save": null, "proj_seed": 42, "r": 4, \
      "save_indices": false, "target_modules": null, "theta_d_length": 256, "unilora_dropout": 0.0}
      """,
    prefixes: ["unilora_"],
    buffers: ["unilora_indices_A", "unilora_indices_B", "unilora_scales_A", "unilora_scales_B"],
    takesConv1D: true, merging: .rule { module throws(AdapterError) in try UniLoRARule(module) },
    start: .modules([.linear, .transposedLinear], freshUniLoRA))
}

/// Source: peft/tuners/unilora/model.py `_init_unilora_theta_d`; layer.py `UniLoraLayer.reset_unilora_parameters`.
private func freshUniLoRA(_ module: FreshModule, _ source: inout FreshSource) throws(AdapterError) -> [FreshTensor] {
  let rank = try module.rank()
  let length = try module.integer("theta_d_length", 1...1 << 30)
  var tensors: [FreshTensor] = []
  if module.index == 0 {
    let theta =
      module.startsNeutral()
      ? try source.uniform("unilora_theta_d", [length], within: module.number("init_theta_d_bound"))
      : try source.normal("unilora_theta_d", [length])
    tensors.append(theta.shared)
  }
  guard module.flag("save_indices") else { return tensors }
  let (shapeA, shapeB) = ([rank, module.input], [module.output, rank])
  _ = try (source.count("unilora_indices_A", shapeA), source.count("unilora_indices_B", shapeB))
  let places = SharedPlaces(
    seed: try module.integer("proj_seed", 0...Int.max), length: length, rank: rank,
    modules: module.siblings.map { ($0.inFeatures, $0.outFeatures) }, index: module.index)
  return tensors + [
    FreshTensor("unilora_indices_A", shapeA, wholes: places.a, .i64),
    FreshTensor("unilora_indices_B", shapeB, wholes: places.b, .i64),
    FreshTensor("unilora_scales_A", shapeA, places.a.map { places.useScales[$0] }),
    FreshTensor("unilora_scales_B", shapeB, places.b.map { places.useScales[$0] }),
  ]
}

/// Which value each element of a module's A and B is, as NumPy draws it for all modules together.
private struct SharedPlaces {
  let a: [Int]
  let b: [Int]
  /// 1/√(number of uses) of each value.
  let useScales: [Float]

  /// - Parameter index: the module's place among all, which stand in the order of the model.
  init(seed: Int, length: Int, rank: Int, modules: [(input: Int, output: Int)], index: Int) {
    let counts = modules.map { rank * ($0.input + $0.output) }
    let before = counts[..<index].reduce(0, +)
    let places = NumPyGenerator(seed: UInt64(seed)).balancedIndices(count: counts.reduce(0, +), length: length)
    let (countA, countB) = (rank * modules[index].input, rank * modules[index].output)
    a = places[before..<before + countA].map(Int.init)
    b = places[before + countA..<before + countA + countB].map(Int.init)
    var uses = [Int](repeating: 0, count: length)
    for place in places { uses[Int(place)] += 1 }
    useScales = uses.map { $0 == 0 ? 0 : 1 / Float($0).squareRoot() }
  }
}

private struct UniLoRARule: LowRankRule {
  private let theta: StoredTensor
  private let indicesA: [Int]
  private let indicesB: [Int]
  private let scales: (a: StoredTensor, b: StoredTensor)?
  /// 1/√(number of uses) of each value, where the scales are not stored.
  private let useScales: [Float]
  private let shape: WeightShape
  private let rank: Int

  var arithmeticOfPEFT: PEFTArithmetic { .roundedFactors }

  init(_ module: MethodModule) throws(AdapterError) {
    shape = module.shape
    rank = try module.integer("r", 1...LoRAScaling.greatestRank)
    let length = try module.integer("theta_d_length", 1...Int.max)
    theta = try module.sharedTensor("unilora_theta_d", [length])
    let (shapeA, shapeB) = ([rank, shape.input], [shape.output, rank])
    if module.tensors["unilora_indices_A"] != nil {
      indicesA = try module.indices(module.tensor("unilora_indices_A", shapeA), in: 0..<length)
      indicesB = try module.indices(module.tensor("unilora_indices_B", shapeB), in: 0..<length)
      scales = (try module.tensor("unilora_scales_A", shapeA), try module.tensor("unilora_scales_B", shapeB))
      useScales = []
      return
    }
    guard let siblings = module.siblings else {
      throw module.refuse(
        "its places are drawn in the order of the model's modules, which is not known for this model type. Save it with "
          + "save_indices.")
    }
    let index = siblings.firstIndex { $0.path.isExactly(module.path) } ?? 0
    let places = SharedPlaces(
      seed: try module.integer("proj_seed", 0...Int.max), length: length, rank: rank,
      modules: siblings.map { ($0.input, $0.output) }, index: index)
    indicesA = places.a
    indicesB = places.b
    scales = nil
    useScales = places.useScales
  }

  func factors<Scalar: FactorElement>(
    _ type: Scalar.Type
  ) throws(TensorFileError) -> (left: Matrix<Scalar>, right: Matrix<Scalar>) {
    let theta = try theta.values(type)
    let scalesA = try scales?.a.values(type) ?? indicesA.map { Scalar(useScales[$0]) }
    let scalesB = try scales?.b.values(type) ?? indicesB.map { Scalar(useScales[$0]) }
    return (
      Matrix(rows: shape.output, columns: rank, values: zip(indicesB, scalesB).map { theta[$0] * $1 }),
      Matrix(rows: rank, columns: shape.input, values: zip(indicesA, scalesA).map { theta[$0] * $1 })
    )
  }
}
