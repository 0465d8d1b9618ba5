internal import TensorFiles
internal import TensorMath

extension AdapterMethod {
  /// RandLoRA: ΔW = alpha/r · Σ over random bases, each B_k·diag(λ_k)·A·diag(γ_k); the bases are shared, stored or drawn
  /// from a seed. 0.21.2 also stores each module's view of them, which says nothing new.
  ///
  /// Source: peft/tuners/randlora/layer.py `Linear.get_scaled_bases`, `get_delta_weight`; model.py
  /// `_init_randlora_A_randlora_B`, `_init_randlora_A_randlora_B_sparse`.
  static let randLoRA = AdapterMethod(
    type: PeftType(rawValue: "RANDLORA"),
    defaults: """
      {"bias": "none", "fan_in_fan_out": false, "init_weights": true, "layers_pattern": null, \
      "layers_to_transform": null, "modules_to_save": null, "projection_prng_key": 0, "r": 32, \
      "randlora_alpha": 640, "randlora_dropout": 0.0, "save_projection": true, "sparse": false, \
      "target_modules": null, "very_sparse": false}
      """,
    prefixes: ["randlora_"], buffers: ["randlora_A", "randlora_B"],
    takesConv1D: true, merging: .rule { module throws(AdapterError) in try RandLoRARule(module) },
    start: .modules([.linear, .transposedLinear], freshRandLoRA),
    storedShape: { $0.matrix($0.extent("randlora_gamma", 1), nil, guess: $0.extent("randlora_gamma", 1) ?? 1) })
}

/// PEFT 0.21.2 stores each module's view of the shared bases beside them.
///
/// Source: peft/tuners/randlora/layer.py `RandLoraLayer.update_layer`, `reset_randlora_parameters`.
private func freshRandLoRA(_ module: FreshModule, _ source: inout FreshSource) throws(AdapterError) -> [FreshTensor] {
  let rank = try module.rank()
  let (least, most) = (min(module.output, module.input), max(module.output, module.input))
  let bases = (least + rank - 1) / rank
  let drawn = try source.normal("randlora_lambda", [rank, bases])
  var tensors = [drawn, try source.filled("randlora_gamma", [bases, least], 1 / Float(most))]
  if module.startsNeutral() {
    tensors = [
      try source.filled("randlora_lambda", [rank, bases]),
      try source.filled("randlora_gamma", [bases, least], Float(1 / Double(max(bases, least)))),
    ]
  }
  guard module.flag("save_projection") else { return tensors }
  let (tall, wide) = (
    max(module.largest.output, module.largest.input), min(module.largest.output, module.largest.input)
  )
  let count = (wide + rank - 1) / rank
  let (shapeA, shapeB) = ([rank, 1, wide], [tall, count, rank])
  _ = try (source.count("randlora_A", shapeA), source.count("randlora_B", shapeB))
  let drawnBases = SharedBases(
    seed: try module.integer("projection_prng_key", Int.min...Int.max), tall: tall, wide: wide, rank: rank,
    isSparse: module.flag("sparse"), isVerySparse: module.flag("very_sparse"))
  let (a, b) = (
    FreshTensor("randlora_A", shapeA, drawnBases.a), FreshTensor("randlora_B", shapeB, drawnBases.b)
  )
  return tensors + [a, b] + (module.index == 0 ? [a.shared, b.shared] : [])
}

/// The random bases that all modules share, from a stream of their own.
private struct SharedBases {
  /// `[rank, wide]`.
  let a: [Float]
  /// `[tall, bases, rank]`.
  let b: [Float]

  init(seed: Int, tall: Int, wide: Int, rank: Int, isSparse: Bool, isVerySparse: Bool) {
    let bases = (wide + rank - 1) / rank
    var generator = TorchGenerator(seed: UInt64(bitPattern: Int64(seed)))
    var (valuesA, valuesB): ([Float], [Float])
    if isSparse || isVerySparse {
      // Source: `RandLoraModel._pre_injection_hook`: sparsity 3, or √(least extent) if very sparse.
      let sparsity = isVerySparse ? Float(Double(wide).squareRoot()) : 3
      valuesA = Self.sparse(generator.uniform(count: rank * wide, low: 0, high: 1), sparsity)
      valuesB = Self.sparse(generator.uniform(count: tall * bases * rank, low: 0, high: 1), sparsity)
    } else {
      valuesA = generator.kaimingUniformBF16(count: rank * wide, fanIn: wide)
      valuesB = [Float](repeating: 0, count: tall * bases * rank)
      for base in 0..<bases {
        let drawn = generator.kaimingUniformBF16(count: tall * rank, fanIn: rank)
        for row in 0..<tall {
          for k in 0..<rank { valuesB[(row * bases + base) * rank + k] = drawn[row * rank + k] }
        }
      }
    }
    a = Self.normalised(valuesA, inBF16: !(isSparse || isVerySparse))
    b = Self.normalised(valuesB, inBF16: !(isSparse || isVerySparse))
  }

  private static func sparse(_ values: [Float], _ sparsity: Float) -> [Float] {
    values.map { $0 < 1 / (2 * sparsity) ? -1 : $0 > 1 - 1 / (2 * sparsity) ? 1 : 0 }
  }

  /// Divided by the standard deviation (unbiased). PEFT draws dense bases in bf16, and divides in it too.
  private static func normalised(_ values: [Float], inBF16: Bool) -> [Float] {
    let mean = values.reduce(0) { $0 + Double($1) } / Double(values.count)
    let squares = values.reduce(0) { $0 + (Double($1) - mean) * (Double($1) - mean) }
    let deviation = Float((squares / Double(values.count - 1)).squareRoot())
    guard inBF16 else { return values.map { $0 / deviation } }
    let divisor = roundedToBF16(deviation)
    return values.map { roundedToBF16($0 / divisor) }
  }
}

private struct RandLoRARule: LowRankRule {
  private let a: Projection
  private let b: Projection
  private let lambda: StoredTensor
  private let gamma: StoredTensor
  private let shape: WeightShape
  private let scale: Double
  /// Bases that this weight uses, and those that are stored.
  private let bases: Int
  private let storedBases: Int

  var arithmeticOfPEFT: PEFTArithmetic { .roundedFactors }

  init(_ module: MethodModule) throws(AdapterError) {
    shape = module.shape
    let (least, most) = (min(shape.output, shape.input), max(shape.output, shape.input))
    lambda = try module.tensor("randlora_lambda", "[r, bases]") { $0.count == 2 && $0[0] > 0 }
    let rank = lambda.shape[0]
    bases = lambda.shape[1]
    gamma = try module.tensor("randlora_gamma", [bases, least])
    scale = try module.number("randlora_alpha") / module.number("r")
    if module.shared["randlora_A"] != nil || module.shared["randlora_B"] != nil {
      let a = try module.sharedTensor("randlora_A")
      let b = try module.sharedTensor("randlora_B")
      guard a.shape.count == 3, a.shape[0] == rank, a.shape[1] == 1, a.shape[2] >= least else {
        throw .methodShape(
          path: module.file.path, tensor: a.entry.name, found: a.shape, expected: [],
          form: "[\(rank), 1, \(least) or more]")
      }
      guard b.shape.count == 3, b.shape[0] >= most, b.shape[1] >= bases, b.shape[2] == rank else {
        throw .methodShape(
          path: module.file.path, tensor: b.entry.name, found: b.shape, expected: [],
          form: "[\(most) or more, \(bases) or more, \(rank)]")
      }
      storedBases = b.shape[1]
      self.a = .stored(a)
      self.b = .stored(b)
      return
    }
    guard module.setting("save_projection") == .bool(false) else {
      throw module.refuse("its bases randlora_A and randlora_B are missing, although save_projection is true.")
    }
    let (tall, wide) = (
      max(module.largest.output, module.largest.input), min(module.largest.output, module.largest.input)
    )
    storedBases = (wide + rank - 1) / rank
    guard bases <= storedBases else {
      throw .methodShape(
        path: module.file.path, tensor: lambda.entry.name, found: lambda.shape, expected: [[rank, storedBases]])
    }
    try module.requireRoom(for: [rank, wide], [tall, storedBases, rank], what: "bases drawn for \(rank) ranks")
    if let drawn = module.draws.projections {
      guard drawn.rank == rank else {
        throw .methodShape(
          path: module.file.path, tensor: lambda.entry.name, found: lambda.shape, expected: [[drawn.rank, bases]])
      }
      (a, b) = (drawn.a, drawn.b)
      return
    }
    let seed = try module.integer("projection_prng_key", Int.min...Int.max)
    let drawn = SharedBases(
      seed: seed, tall: tall, wide: wide, rank: rank, isSparse: module.flag("sparse"),
      isVerySparse: module.flag("very_sparse"))
    self.a = .drawn(Matrix(rows: rank, columns: wide, values: drawn.a))
    self.b = .drawn(Matrix(rows: tall * storedBases, columns: rank, values: drawn.b))
    module.draws.projections = (rank, self.a, self.b)
  }

  func factors<Scalar: FactorElement>(
    _ type: Scalar.Type
  ) throws(TensorFileError) -> (left: Matrix<Scalar>, right: Matrix<Scalar>) {
    let (least, most) = (min(shape.output, shape.input), max(shape.output, shape.input))
    let rank = lambda.shape[0]
    let (a, b) = (try a.matrix(type), try b.matrix(type))
    let (lambda, gamma) = (try lambda.values(type), try gamma.values(type))
    // Rows run over ranks first here and over bases first in B: that is what PEFT computes.
    var right = Matrix<Scalar>(rows: rank * bases, columns: least)
    for k in 0..<rank {
      for base in 0..<bases {
        for column in 0..<least {
          right[k * bases + base, column] =
            a[k, column] * lambda[k * bases + base] * gamma[base * least + column] * Scalar(scale)
        }
      }
    }
    var left = Matrix<Scalar>(rows: most, columns: bases * rank)
    for row in 0..<most {
      for base in 0..<bases {
        for k in 0..<rank { left[row, base * rank + k] = b[row * storedBases + base, k] }
      }
    }
    return least == shape.input ? (left, right) : (right.transposed, left.transposed)
  }
}
