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
    takesConv1D: true, merging: .rule { module throws(AdapterError) in try RandLoRARule(module) })
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
    var generator = TorchGenerator(seed: UInt64(bitPattern: Int64(seed)))
    var (valuesA, valuesB): ([Float], [Float])
    let isSparse = module.flag("sparse") || module.flag("very_sparse")
    if isSparse {
      // Source: `RandLoraModel._pre_injection_hook`: sparsity 3, or √(least extent) if very sparse.
      let sparsity = module.flag("very_sparse") ? Float(Double(wide).squareRoot()) : 3
      valuesA = Self.sparse(generator.uniform(count: rank * wide, low: 0, high: 1), sparsity)
      valuesB = Self.sparse(generator.uniform(count: tall * storedBases * rank, low: 0, high: 1), sparsity)
    } else {
      valuesA = generator.kaimingUniformBF16(count: rank * wide, fanIn: wide)
      valuesB = [Float](repeating: 0, count: tall * storedBases * rank)
      for base in 0..<storedBases {
        let drawn = generator.kaimingUniformBF16(count: tall * rank, fanIn: rank)
        for row in 0..<tall {
          for k in 0..<rank { valuesB[(row * storedBases + base) * rank + k] = drawn[row * rank + k] }
        }
      }
    }
    valuesA = Self.normalised(valuesA, inBF16: !isSparse)
    valuesB = Self.normalised(valuesB, inBF16: !isSparse)
    self.a = .drawn(Matrix(rows: rank, columns: wide, values: valuesA))
    self.b = .drawn(Matrix(rows: tall * storedBases, columns: rank, values: valuesB))
    module.draws.projections = (rank, a, b)
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
