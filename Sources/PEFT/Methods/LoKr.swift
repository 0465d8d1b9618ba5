internal import TensorFiles
internal import TensorMath

extension AdapterMethod {
  /// LoKr: ΔW = alpha/r · w1 ⊗ w2, each stored whole or as a product; which of the two shows in the file.
  ///
  /// Source: peft/tuners/lokr/layer.py `get_delta_weight`, `make_kron`.
  static let loKr = AdapterMethod(
    type: PeftType(rawValue: "LOKR"),
    defaults: """
      {"alpha": 8, "alpha_pattern": {}, "decompose_both": false, "decompose_factor": -1, \
      "exclude_modules": null, "init_weights": true, "layers_pattern": null, "layers_to_transform": null, \
      "module_dropout": 0.0, "modules_to_save": null, "r": 8, "rank_dropout": 0.0, \
      "rank_dropout_scale": false, "rank_pattern": {}, "target_modules": null, "use_effective_conv2d": false}
      """,
    prefixes: ["lokr_"], merging: .rule { module throws(AdapterError) in try LoKrRule(module) },
    start: .modules([.linear, .convolution], freshLoKr),
    storedShape: { stored in
      let kernel = Array((stored.shape("lokr_w2") ?? stored.shape("lokr_t2") ?? []).dropFirst(2))
      let hasCore = stored.shape("lokr_t2") != nil
      return stored.matrix(
        checkedProduct(
          stored.extent("lokr_w1", 0) ?? stored.extent("lokr_w1_a", 0),
          stored.extent("lokr_w2", 0) ?? stored.extent("lokr_w2_a", hasCore ? 1 : 0)),
        checkedProduct(
          stored.extent("lokr_w1", 1) ?? stored.extent("lokr_w1_b", 1),
          stored.extent("lokr_w2", 1) ?? stored.extent("lokr_w2_b", 1), checkedProduct(kernel)),
        kernel: kernel)
    })
}

/// Source: peft/tuners/lokr/layer.py `LoKrLayer.update_layer`, `create_adapter_parameters`, `reset_adapter_parameters`.
private func freshLoKr(_ module: FreshModule, _ source: inout FreshSource) throws(AdapterError) -> [FreshTensor] {
  let rank = try module.rank(pattern: "rank_pattern")
  let kernel = module.kernel
  guard kernel.count < 3 else { throw module.unmade("LOKR", "it takes no such convolution.") }
  let factor = try module.integer("decompose_factor", -1...Int.max)
  let rows = factorization(module.output, factor)
  let columns = factorization(module.input, factor)
  let isLycoris = module.setting("init_weights") == .string("lycoris")
  let isNeutral = module.startsNeutral() && !isLycoris
  var tensors: [FreshTensor] = []
  func append(_ name: String, _ shape: [Int], zero: Bool = false) throws(AdapterError) {
    tensors.append(
      zero
        ? try source.filled(name, shape) : try source.uniform(name, shape, fanIn: shape.dropFirst().reduce(1, *)))
  }
  if module.flag("decompose_both"), 2 * rank < max(rows.least, columns.least) {
    try append("lokr_w1_a", [rows.least, rank], zero: isNeutral)
    try append("lokr_w1_b", [rank, columns.least])
  } else {
    try append("lokr_w1", [rows.least, columns.least], zero: isNeutral)
  }
  let isEffective = module.flag("use_effective_conv2d") && kernel.contains { $0 != 1 }
  if 2 * rank >= max(rows.rest, columns.rest) {
    try append("lokr_w2", [rows.rest, columns.rest] + kernel, zero: isLycoris)
  } else if isEffective {
    try append("lokr_w2_a", [rank, rows.rest])
    try append("lokr_w2_b", [rank, columns.rest], zero: isLycoris)
    try append("lokr_t2", [rank, rank] + (kernel.count == 1 ? kernel + [1] : kernel))
  } else {
    try append("lokr_w2_a", [rows.rest, rank])
    try append("lokr_w2_b", [rank, kernel.reduce(columns.rest, *)], zero: isLycoris)
  }
  return tensors
}

/// Two factors of a number, the smaller first: the given one if it divides the number, or the nearest below it, or the nearest
/// to the root.
///
/// Source: peft/tuners/lokr/layer.py `factorization`.
private func factorization(_ count: Int, _ factor: Int) -> (least: Int, rest: Int) {
  if factor > 0, count % factor == 0 { return (factor, count / factor) }
  let limit = factor == -1 ? count : factor
  var (least, rest) = (1, count)
  let length = 1 + count
  while least < rest {
    var next = least + 1
    while count % next != 0 { next += 1 }
    if next + count / next > length || next > limit { break }
    (least, rest) = (next, count / next)
  }
  return least > rest ? (rest, least) : (least, rest)
}

private struct LoKrRule: FactoredRule {
  /// A matrix that is stored whole or as a product.
  private enum Factor {
    case whole(StoredTensor)
    case product(KernelProduct)
  }

  private let first: Factor
  private let second: Factor
  private let firstShape: (rows: Int, columns: Int)
  private let scale: Double
  /// The kernel's extent where PEFT computes the product of a matrix and a tensor of three extents.
  private let flatKernel: Int?

  init(_ module: MethodModule) throws(AdapterError) {
    let shape = module.shape
    let (rows, channels): (Int, Int)
    if module.tensors["lokr_w1"] != nil {
      let w1 = try module.tensor("lokr_w1", "two extents") { $0.count == 2 && $0[0] > 0 && $0[1] > 0 }
      (rows, channels) = (w1.shape[0], w1.shape[1])
      first = .whole(w1)
    } else {
      let a = try module.tensor("lokr_w1_a", "two extents") { $0.count == 2 && $0[0] > 0 }
      let b = try module.tensor("lokr_w1_b", "two extents") { $0.count == 2 && $0[1] > 0 }
      (rows, channels) = (a.shape[0], b.shape[1])
      first = .product(
        try KernelProduct(module, a: "lokr_w1_a", b: "lokr_w1_b", core: "", output: rows, input: channels))
    }
    firstShape = (rows, channels)
    guard shape.output % rows == 0, shape.channels % channels == 0 else {
      throw module.refuse("its first factor [\(rows), \(channels)] does not divide the weight.")
    }
    let (output, input) = (shape.output / rows, shape.channels / channels)
    if module.tensors["lokr_w2"] != nil {
      second = .whole(try module.tensor("lokr_w2", [output, input] + shape.kernel))
      flatKernel = shape.kernel.count == 1 ? shape.kernel[0] : nil
    } else {
      flatKernel = nil
      second = .product(
        try KernelProduct(
          module, a: "lokr_w2_a", b: "lokr_w2_b", core: "lokr_t2", output: output,
          input: input * shape.kernel.reduce(1, *)))
    }
    let rank = try module.number("r", pattern: "rank_pattern")
    scale = try module.number("alpha", pattern: "alpha_pattern") / rank
  }

  var isAdditive: Bool { true }

  /// (a·b) ⊗ (c·d) = (a ⊗ c)·(b ⊗ d); what is stored whole is multiplied by an identity.
  func changeFactors() throws(TensorFileError) -> (left: Matrix<Double>, right: Matrix<Double>)? {
    guard flatKernel == nil else { return nil }
    let (a, b) = try Self.factors(first)
    let (c, d) = try Self.factors(second)
    var left = Self.kronecker(a, c)
    for index in left.values.indices { left.values[index] *= scale }
    return (left, Self.kronecker(b, d))
  }

  private static func factors(
    _ factor: Factor
  ) throws(TensorFileError) -> (left: Matrix<Double>, right: Matrix<Double>) {
    if case .product(let product) = factor { return try product.factors(Double.self) }
    let whole: Matrix<Double> = try matrix(factor, rows: nil)
    return whole.rows < whole.columns
      ? (.identity(whole.rows), whole) : (whole, .identity(whole.columns))
  }

  private static func kronecker(_ a: Matrix<Double>, _ b: Matrix<Double>) -> Matrix<Double> {
    var result = Matrix<Double>(rows: a.rows * b.rows, columns: a.columns * b.columns)
    for row in 0..<result.rows {
      result.addRow(row, b, row: row % b.rows, factors: (0..<a.columns).map { a[row / b.rows, $0] })
    }
    return result
  }

  private static func matrix<Scalar: FactorElement>(
    _ factor: Factor, rows: Int?
  ) throws(TensorFileError) -> Matrix<Scalar> {
    switch factor {
    case .whole(let tensor): return try tensor.matrix(rows: rows ?? tensor.shape[0])
    case .product(let product):
      let (left, right) = try product.factors(Scalar.self)
      return left.times(right)
    }
  }

  func makeChange<Scalar: FactorElement>(scale weight: Scalar) throws(TensorFileError) -> RowChange<Scalar> {
    let w1: Matrix<Scalar> = try Self.matrix(first, rows: nil)
    let w2: Matrix<Scalar> = try Self.matrix(second, rows: nil)
    let factor = Scalar(scale) * weight
    if let flatKernel {
      let change = Self.flatProduct(w1, w2, flatKernel)
      return { rows, block in
        let start = rows.lowerBound * block.columns
        for index in block.values.indices { block.values[index] += factor * change[start + index] }
      }
    }
    return { rows, block in
      for row in rows {
        block.addRow(
          row - rows.lowerBound, w2, row: row % w2.rows,
          factors: (0..<w1.columns).map { factor * w1[row / w2.rows, $0] })
      }
    }
  }

  /// The elements of torch.kron of `[a, b]` and `[c, d, k]`, which is `[c, a·d, b·k]`, in their order: PEFT reshapes them to
  /// the weight of a one-dimensional convolution, whatever they mean there, and trains with that.
  private static func flatProduct<Scalar: FactorElement>(
    _ w1: Matrix<Scalar>, _ w2: Matrix<Scalar>, _ kernel: Int
  ) -> [Scalar] {
    var result: [Scalar] = []
    result.reserveCapacity(w1.values.count * w2.values.count)
    for c in 0..<w2.rows {
      for a in 0..<w1.rows {
        for d in 0..<w2.columns / max(1, kernel) {
          for b in 0..<w1.columns {
            for k in 0..<kernel { result.append(w1[a, b] * w2[c, d * kernel + k]) }
          }
        }
      }
    }
    return result
  }
}
