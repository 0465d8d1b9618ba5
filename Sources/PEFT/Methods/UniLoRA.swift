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
    start: .modules([.linear, .transposedLinear], freshUniLoRA),
    storedShape: { stored in
      guard stored.shape("unilora_indices_A") != nil else { return .dependsOnWeight }
      return stored.matrix(stored.extent("unilora_indices_B", 0), stored.extent("unilora_indices_A", 1))
    })
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
  let modules = module.siblings.map { (input: $0.inFeatures, output: $0.outFeatures) }
  let places = SharedPlaces(
    seed: try module.integer("proj_seed", 0...Int.max), length: length, rank: rank, modules: modules)
  let (a, b) = places.indices(of: module.index, rank: rank, modules: modules)
  return tensors + [
    FreshTensor("unilora_indices_A", shapeA, wholes: a, .i64),
    FreshTensor("unilora_indices_B", shapeB, wholes: b, .i64),
    FreshTensor("unilora_scales_A", shapeA, a.map { places.useScales[$0] }),
    FreshTensor("unilora_scales_B", shapeB, b.map { places.useScales[$0] }),
  ]
}

/// Which value each element of the modules' A and B is, as NumPy draws it for all modules together.
struct SharedPlaces {
  private let all: [Int64]
  /// 1/√(number of uses) of each value.
  let useScales: [Float]

  /// - Parameter modules: in the order of the model.
  init(seed: Int, length: Int, rank: Int, modules: [(input: Int, output: Int)]) {
    let count = modules.reduce(0) { $0 + rank * ($1.input + $1.output) }
    all = NumPyGenerator(seed: UInt64(seed)).balancedIndices(count: count, length: length)
    var uses = [Int](repeating: 0, count: length)
    for place in all { uses[Int(place)] += 1 }
    useScales = uses.map { $0 == 0 ? 0 : 1 / Float($0).squareRoot() }
  }

  /// Those of one module's A and B. Traps unless rank and modules are those that the places were drawn for.
  func indices(of index: Int, rank: Int, modules: [(input: Int, output: Int)]) -> (a: [Int], b: [Int]) {
    let before = modules[..<index].reduce(0) { $0 + rank * ($1.input + $1.output) }
    let (countA, countB) = (rank * modules[index].input, rank * modules[index].output)
    return (
      all[before..<before + countA].map(Int.init), all[before + countA..<before + countA + countB].map(Int.init)
    )
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
    var total = 0
    for sibling in siblings {
      guard let count = checkedProduct(rank, sibling.input + sibling.output),
        count <= MethodModule.madeLimit / 4 - total
      else { throw module.refuse("the places drawn for r = \(rank) would take a gigabyte.") }
      total += count
    }
    let index = siblings.firstIndex { $0.path.isExactly(module.path) } ?? 0
    let modules = siblings.map { (input: $0.input, output: $0.output) }
    let places: SharedPlaces
    if let drawn = module.draws.places {
      places = drawn
    } else {
      places = SharedPlaces(
        seed: try module.integer("proj_seed", 0...Int.max), length: length, rank: rank, modules: modules)
      module.draws.places = places
    }
    (indicesA, indicesB) = places.indices(of: index, rank: rank, modules: modules)
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
