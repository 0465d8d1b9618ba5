internal import TensorFiles
internal import TensorMath

extension AdapterMethod {
  /// VeRA: ΔW = (λ_b∘B)·(λ_d∘A) with projections that all modules share, stored or drawn from a seed.
  ///
  /// Source: peft/tuners/vera/layer.py `Linear.get_delta_weight`; model.py `_init_vera_A_vera_B`, `_kaiming_init`.
  static let veRA = AdapterMethod(
    type: PeftType(rawValue: "VERA"),
    defaults: """
      {"bias": "none", "d_initial": 0.1, "fan_in_fan_out": false, "init_weights": true, \
      "layers_pattern": null, "layers_to_transform": null, "modules_to_save": null, "projection_prng_key": 0, \
      "r": 256, "save_projection": true, "target_modules": null, "vera_dropout": 0.0}
      """,
    prefixes: ["vera_"], buffers: ["vera_A", "vera_B"],
    takesConv1D: true,
    merging: .rule { module throws(AdapterError) in
      try SharedProjectionRule(
        module, names: ("vera_A", "vera_B"), scales: ("vera_lambda_d", "vera_lambda_b"), copies: 1)
    },
    start: .modules([.linear, .transposedLinear]) { module, source throws(AdapterError) in
      try freshVeRA(module, &source, "vera", copies: 1)
    }, defaultTargets: DefaultTargets.queriesAndValuesOfPhi,
    storedShape: { $0.matrix($0.extent("vera_lambda_b", 0), nil, guess: $0.sharedShape("vera_A")?.last ?? 1) })

  /// PVeRA: VeRA with a mean and a variance; a merge takes the mean, the first half of each.
  ///
  /// Source: peft/tuners/pvera/layer.py `Linear.get_delta_weight`; model.py `_init_pvera_A_pvera_B`.
  static let pveRA = AdapterMethod(
    type: PeftType(rawValue: "PVERA"),
    defaults: """
      {"bias": "none", "d_initial": 0.1, "fan_in_fan_out": false, "generator_seed": null, \
      "init_weights": true, "layers_pattern": null, "layers_to_transform": null, "modules_to_save": null, \
      "projection_prng_key": 0, "pvera_dropout": 0.0, "r": 256, "sample_at_inference": false, \
      "save_projection": true, "target_modules": null}
      """,
    prefixes: ["pvera_"], buffers: ["pvera_A", "pvera_B"],
    takesConv1D: true,
    merging: .rule { module throws(AdapterError) in
      try SharedProjectionRule(
        module, names: ("pvera_A", "pvera_B"), scales: ("pvera_lambda_d", "pvera_lambda_b"), copies: 2)
    },
    start: .modules([.linear, .transposedLinear]) { module, source throws(AdapterError) in
      try freshVeRA(module, &source, "pvera", copies: 2)
    }, defaultTargets: DefaultTargets.queriesAndValuesOfPhi,
    storedShape: { $0.matrix($0.extent("pvera_lambda_b", 0), nil, guess: $0.sharedShape("pvera_A")?.last ?? 1) })
}

/// The projections that all modules share, from a stream of their own: both from one, A first.
private struct SharedProjections {
  let a: Matrix<Float>
  let b: Matrix<Float>

  init(seed: Int, largest: (output: Int, input: Int), rank: Int, copies: Int) {
    var generator = TorchGenerator(seed: UInt64(bitPattern: Int64(seed)))
    let (tall, wide) = largest
    a = Matrix(
      rows: rank * copies, columns: wide,
      values: generator.kaimingUniform(count: rank * copies * wide, fanIn: wide, negativeSlope: 0))
    b = Matrix(
      rows: tall, columns: rank,
      values: generator.kaimingUniform(count: tall * rank, fanIn: rank, negativeSlope: 0))
  }
}

/// Source: peft/tuners/vera/layer.py `VeraLayer.update_layer`; pvera/layer.py `PveraLayer.update_layer`.
private func freshVeRA(
  _ module: FreshModule, _ source: inout FreshSource, _ prefix: String, copies: Int
) throws(AdapterError) -> [FreshTensor] {
  let rank = try module.rank()
  var tensors: [FreshTensor] = []
  if module.index == 0, module.flag("save_projection") {
    let (tall, wide) = module.largest
    let (shapeA, shapeB) = ([rank * copies, wide], [tall, rank])
    _ = try (source.count("\(prefix)_A", shapeA), source.count("\(prefix)_B", shapeB))
    let drawn = SharedProjections(
      seed: try module.integer("projection_prng_key", Int.min...Int.max), largest: (tall, wide), rank: rank,
      copies: copies)
    tensors = [
      FreshTensor("\(prefix)_A", shapeA, drawn.a.values).shared,
      FreshTensor("\(prefix)_B", shapeB, drawn.b.values).shared,
    ]
  }
  let drawn = try source.normal("\(prefix)_lambda_d", [rank * copies])
  guard module.startsNeutral() else {
    return tensors + [try source.filled("\(prefix)_lambda_b", [module.output], 1), drawn]
  }
  return tensors + [
    try source.filled("\(prefix)_lambda_b", [module.output]),
    try source.filled("\(prefix)_lambda_d", drawn.shape, Float(try module.number("d_initial"))),
  ]
}

private struct SharedProjectionRule: LowRankRule {
  private let a: Projection
  private let b: Projection
  private let scaleD: StoredTensor
  private let scaleB: StoredTensor
  private let shape: WeightShape
  private let rank: Int

  init(
    _ module: MethodModule, names: (a: String, b: String), scales: (d: String, b: String), copies: Int
  ) throws(AdapterError) {
    shape = module.shape
    scaleB = try module.tensor(scales.b, [shape.output])
    scaleD = try module.tensor(scales.d, "[r]") { $0.count == 1 && $0[0] > 0 && $0[0] % copies == 0 }
    rank = scaleD.shape[0] / copies
    let (output, input, rank) = (shape.output, shape.input, rank)
    if module.shared[names.a] != nil || module.shared[names.b] != nil {
      let a = try module.sharedTensor(names.a)
      let b = try module.sharedTensor(names.b)
      guard a.shape.count == 2, a.shape[0] == rank * copies, a.shape[1] >= input else {
        throw .methodShape(
          path: module.file.path, tensor: a.entry.name, found: a.shape, expected: [],
          form: "[\(rank * copies), \(input) or more]")
      }
      guard b.shape.count == 2, b.shape[0] >= output, b.shape[1] == rank else {
        throw .methodShape(
          path: module.file.path, tensor: b.entry.name, found: b.shape, expected: [],
          form: "[\(output) or more, \(rank)]")
      }
      self.a = .stored(a)
      self.b = .stored(b)
      return
    }
    guard module.setting("save_projection") == .bool(false) else {
      throw module.refuse("its projections \(names.a) and \(names.b) are missing, although save_projection is true.")
    }
    if let drawn = module.draws.projections {
      guard drawn.rank == rank else {
        throw .methodShape(
          path: module.file.path, tensor: scaleD.entry.name, found: scaleD.shape, expected: [[drawn.rank * copies]])
      }
      (a, b) = (drawn.a, drawn.b)
      return
    }
    let (tall, wide) = module.largest
    try module.requireRoom(for: [rank, copies, wide], [tall, rank], what: "projections drawn for \(rank) ranks")
    let drawn = SharedProjections(
      seed: try module.integer("projection_prng_key", Int.min...Int.max), largest: module.largest, rank: rank,
      copies: copies)
    self.a = .drawn(drawn.a)
    self.b = .drawn(drawn.b)
    module.draws.projections = (rank, self.a, self.b)
  }

  func factors<Scalar: FactorElement>(
    _ type: Scalar.Type
  ) throws(TensorFileError) -> (left: Matrix<Scalar>, right: Matrix<Scalar>) {
    var left = try b.matrix(type).rows(0..<shape.output)
    var right = try a.matrix(type).rows(0..<rank).columns(0..<shape.input)
    let (tall, wide) = (try scaleB.values(type), try scaleD.values(type))
    for row in 0..<left.rows { left.scaleRow(row, by: tall[row]) }
    for row in 0..<right.rows { right.scaleRow(row, by: wide[row]) }
    return (left, right)
  }
}

/// A frozen projection: from the file, or drawn as torch draws it.
enum Projection: Sendable {
  case stored(StoredTensor)
  case drawn(Matrix<Float>)

  func matrix<Scalar: FactorElement>(_ type: Scalar.Type) throws(TensorFileError) -> Matrix<Scalar> {
    switch self {
    case .stored(let tensor): return try tensor.matrix(type)
    case .drawn(let matrix):
      return Matrix(rows: matrix.rows, columns: matrix.columns, values: matrix.values.map { Scalar($0) })
    }
  }
}
