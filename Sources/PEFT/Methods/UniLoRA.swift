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
    takesConv1D: true, merging: .rule { module throws(AdapterError) in try UniLoRARule(module) })
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
    var (before, total) = (0, 0)
    for sibling in siblings {
      if sibling.path.isExactly(module.path) { before = total }
      guard let count = checkedProduct(rank, sibling.input + sibling.output),
        count <= MethodModule.madeLimit / 4 - total
      else { throw module.refuse("the places drawn for r = \(rank) would take a gigabyte.") }
      total += count
    }
    let (countA, countB) = (rank * shape.input, rank * shape.output)
    if module.draws.places == nil { module.draws.places = try Self.drawn(module, total, length) }
    let drawn = module.draws.places ?? ([], [])
    indicesA = drawn.all[before..<before + countA].map(Int.init)
    indicesB = drawn.all[before + countA..<before + countA + countB].map(Int.init)
    scales = nil
    useScales = drawn.useScales
  }

  private static func drawn(
    _ module: MethodModule, _ total: Int, _ length: Int
  ) throws(AdapterError) -> (all: [Int64], useScales: [Float]) {
    let seed = try module.integer("proj_seed", 0...Int.max)
    let places = NumPyGenerator(seed: UInt64(seed)).balancedIndices(count: total, length: length)
    var uses = [Int](repeating: 0, count: length)
    for place in places { uses[Int(place)] += 1 }
    return (places, uses.map { $0 == 0 ? 0 : 1 / Float($0).squareRoot() })
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
