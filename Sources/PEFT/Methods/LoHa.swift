internal import TensorFiles
internal import TensorMath

extension AdapterMethod {
  /// LoHa: ΔW = alpha/r · (w1_a·w1_b) ∘ (w2_a·w2_b); of a convolution with `use_effective_conv2d` each half is
  /// Σ t[i,j,…]·w_b[j]·w_a[i]. Source: peft/tuners/loha/layer.py `get_delta_weight`, `HadaWeight`, `HadaWeightCP`.
  static let loHa = AdapterMethod(
    type: PeftType(rawValue: "LOHA"),
    defaults: """
      {"alpha": 8, "alpha_pattern": {}, "exclude_modules": null, "init_weights": true, "layers_pattern": null, \
      "layers_to_transform": null, "module_dropout": 0.0, "modules_to_save": null, "r": 8, \
      "rank_dropout": 0.0, "rank_pattern": {}, "target_modules": null, "use_effective_conv2d": false}
      """,
    prefixes: ["hada_"], merging: .rule { module throws(AdapterError) in try LoHaRule(module) },
    start: .modules([.linear, .convolution], freshLoHa),
    storedShape: { stored in
      guard let core = stored.shape("hada_t1") ?? stored.shape("hada_t2"), core.count > 2 else {
        return stored.matrix(
          stored.extent("hada_w1_a", 0) ?? stored.extent("hada_w2_a", 0),
          stored.extent("hada_w1_b", 1) ?? stored.extent("hada_w2_b", 1))
      }
      let kernel = Array(core.dropFirst(2))
      return stored.matrix(
        stored.extent("hada_w1_a", 1), checkedProduct(stored.extent("hada_w1_b", 1), checkedProduct(kernel)),
        kernel: kernel)
    })
}

/// Source: peft/tuners/loha/layer.py `LoHaLayer.create_adapter_parameters`, `reset_adapter_parameters`.
private func freshLoHa(_ module: FreshModule, _ source: inout FreshSource) throws(AdapterError) -> [FreshTensor] {
  let rank = try module.rank(pattern: "rank_pattern")
  let kernel = module.kernel
  guard kernel.count < 3 else { throw module.unmade("LOHA", "it takes no such convolution.") }
  // A kernel of one place is no tensor.
  let isEffective = module.flag("use_effective_conv2d") && kernel.contains { $0 != 1 }
  let shapes =
    isEffective
    ? ([rank, module.output], [rank, module.input]) : ([module.output, rank], [rank, module.fullInput])
  let isNeutral = module.startsNeutral()
  var tensors: [FreshTensor] = []
  for half in 1...2 {
    tensors.append(try source.uniform("hada_w\(half)_a", shapes.0, fanIn: shapes.0[1]))
    let name = "hada_w\(half)_b"
    tensors.append(
      half == 2 && isNeutral
        ? try source.filled(name, shapes.1) : try source.uniform(name, shapes.1, fanIn: shapes.1[1]))
  }
  guard isEffective else { return tensors }
  let core = [rank, rank] + (kernel.count == 1 ? kernel + [1] : kernel)
  for half in 1...2 {
    tensors.append(try source.uniform("hada_t\(half)", core, fanIn: core.dropFirst().reduce(1, *)))
  }
  return tensors
}

private struct LoHaRule: FactoredRule {
  private let first: KernelProduct
  private let second: KernelProduct
  private let scale: Double

  init(_ module: MethodModule) throws(AdapterError) {
    first = try KernelProduct(module, a: "hada_w1_a", b: "hada_w1_b", core: "hada_t1", output: module.shape.output)
    second = try KernelProduct(module, a: "hada_w2_a", b: "hada_w2_b", core: "hada_t2", output: module.shape.output)
    let rank = try module.number("r", pattern: "rank_pattern")
    scale = try module.number("alpha", pattern: "alpha_pattern") / rank
  }

  var isAdditive: Bool { true }

  /// Of rank r²: column (p, q) of the left is the product of the columns p and q of the halves' left factors.
  func changeFactors() throws(TensorFileError) -> (left: Matrix<Double>, right: Matrix<Double>)? {
    let (firstLeft, firstRight) = try first.factors(Double.self)
    let (secondLeft, secondRight) = try second.factors(Double.self)
    let (p, q) = (firstRight.rows, secondRight.rows)
    guard p * q < min(firstLeft.rows, firstRight.columns) else { return nil }
    var left = Matrix<Double>(rows: firstLeft.rows, columns: p * q)
    var right = Matrix<Double>(rows: p * q, columns: firstRight.columns)
    for i in 0..<p {
      for j in 0..<q {
        for row in 0..<left.rows { left[row, i * q + j] = scale * firstLeft[row, i] * secondLeft[row, j] }
        for column in 0..<right.columns { right[i * q + j, column] = firstRight[i, column] * secondRight[j, column] }
      }
    }
    return (left, right)
  }

  func makeChange<Scalar: FactorElement>(scale weight: Scalar) throws(TensorFileError) -> RowChange<Scalar> {
    let (firstLeft, firstRight) = try first.factors(Scalar.self)
    let (secondLeft, secondRight) = try second.factors(Scalar.self)
    let factor = Scalar(scale) * weight
    let (one, other) = (RowProduct(firstLeft, firstRight), RowProduct(secondLeft, secondRight))
    return { rows, block in block.add(elementwise: one.rows(rows), other.rows(rows), scale: factor) }
  }
}

/// A product of factors as LyCORIS has them: a · b, or with a core tensor over the kernel's places.
struct KernelProduct: Sendable {
  private let a: StoredTensor
  private let b: StoredTensor
  private let core: StoredTensor?
  private let output: Int

  /// - Parameter output: rows of the product. With a core, a is `[r, output]`, b `[r, channels]` and the core
  ///   `[r, r, kernel…]`; without, a is `[output, r]` and b `[r, …]`.
  init(
    _ module: MethodModule, a: String, b: String, core: String, output: Int, input: Int? = nil
  ) throws(AdapterError) {
    self.output = output
    let places = module.shape.kernel.reduce(1, *)
    let input = input ?? module.shape.input
    if module.tensors[core] != nil {
      self.a = try module.tensor(a, "[r, \(output)]") { $0.count == 2 && $0[1] == output }
      let rank = self.a.shape[0]
      self.b = try module.tensor(b, [rank, input / max(1, places)])
      self.core = try module.tensor(core, "[\(rank), \(rank), kernel]") {
        $0.count > 2 && $0[0] == rank && $0[1] == rank && $0.dropFirst(2).reduce(1, *) == places
      }
    } else {
      self.a = try module.tensor(a, "[\(output), r]") { $0.count == 2 && $0[0] == output }
      self.b = try module.tensor(b, [self.a.shape[1], input])
      self.core = nil
    }
  }

  /// left `[output, r]` and right `[r, inputs]`.
  func factors<Scalar: FactorElement>(
    _ type: Scalar.Type
  ) throws(TensorFileError) -> (left: Matrix<Scalar>, right: Matrix<Scalar>) {
    guard let core else { return (try a.matrix(type), try b.matrix(type)) }
    let (rank, channels) = (b.shape[0], b.shape[1])
    let places = core.shape.dropFirst(2).reduce(1, *)
    let t = try core.values(type)
    let w = try b.values(type)
    var right = Matrix<Scalar>(rows: rank, columns: channels * places)
    for i in 0..<rank {
      for j in 0..<rank {
        for channel in 0..<channels {
          for place in 0..<places {
            right[i, channel * places + place] += t[(i * rank + j) * places + place] * w[j * channels + channel]
          }
        }
      }
    }
    return (try a.matrix(type).transposed, right)
  }
}
