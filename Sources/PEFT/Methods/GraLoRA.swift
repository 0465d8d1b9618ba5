internal import TensorFiles
internal import TensorMath

extension AdapterMethod {
  /// GraLoRA: a grid of k × k blocks with a low-rank product each, and a plain LoRA beside them if `hybrid_r` is not zero.
  ///
  /// Source: peft/tuners/gralora/layer.py `Linear.get_delta_weight`.
  static let graLoRA = AdapterMethod(
    type: PeftType(rawValue: "GRALORA"),
    defaults: """
      {"alpha": 64, "bias": "none", "fan_in_fan_out": false, "gralora_dropout": 0.0, "gralora_k": 2, \
      "hybrid_r": 0, "init_weights": true, "layers_pattern": null, "layers_to_transform": null, \
      "modules_to_save": null, "r": 32, "target_modules": null}
      """,
    prefixes: ["gralora_"], takesConv1D: true,
    merging: .rule { module throws(AdapterError) in try GraLoRARule(module) },
    start: .modules([.linear, .transposedLinear], freshGraLoRA),
    storedShape: { stored in
      stored.matrix(
        checkedProduct(stored.extent("gralora_B", 0), stored.extent("gralora_B", 2)),
        checkedProduct(stored.extent("gralora_A", 0), stored.extent("gralora_A", 1)))
    })
}

/// Source: peft/tuners/gralora/layer.py `GraloraLayer.update_layer`.
private func freshGraLoRA(_ module: FreshModule, _ source: inout FreshSource) throws(AdapterError) -> [FreshTensor] {
  let rank = try module.rank()
  let blocks = try module.integer("gralora_k", 1...1 << 20)
  let general = try module.integer("hybrid_r", 0...LoRAScaling.greatestRank)
  guard module.input % blocks == 0, module.output % blocks == 0 else {
    throw module.refuse("gralora_k", expected: "a divisor of \(module.input) and \(module.output)")
  }
  let (input, output, isNeutral) = (module.input / blocks, module.output / blocks, module.startsNeutral())
  var (a, b): ([Float], [Float]) = ([], [])
  for _ in 0..<blocks {
    let drawn = try source.uniform("gralora_A", [rank, input], fanIn: input).floats
    a += Matrix(rows: rank, columns: input, values: drawn).transposed.values
    let other =
      isNeutral
      ? try source.filled("gralora_B", [output, rank]) : try source.uniform("gralora_B", [output, rank], fanIn: rank)
    b += Matrix(rows: output, columns: rank, values: other.floats).transposed.values
  }
  var tensors = [
    FreshTensor("gralora_A", [blocks, input, rank], a), FreshTensor("gralora_B", [blocks, rank, output], b),
  ]
  guard general > 0 else { return tensors }
  let (nameA, shapeA) = ("gralora_A_general.weight", [general, module.input])
  let (nameB, shapeB) = ("gralora_B_general.weight", [module.output, general])
  // Linear layers draw their weights when they are made, and then again.
  _ = try source.uniform(nameA, shapeA, fanIn: module.input)
  _ = try source.uniform(nameB, shapeB, fanIn: general)
  tensors.append(try source.uniform(nameA, shapeA, fanIn: module.input))
  tensors.append(isNeutral ? try source.filled(nameB, shapeB) : try source.uniform(nameB, shapeB, fanIn: general))
  return tensors
}

private struct GraLoRARule: FactoredRule {
  private let a: StoredTensor
  private let b: StoredTensor
  private let general: (a: StoredTensor, b: StoredTensor)?
  private let scale: Double

  init(_ module: MethodModule) throws(AdapterError) {
    let shape = module.shape
    a = try module.tensor("gralora_A", "[k, \(shape.input) / k, r] with r a multiple of k") {
      $0.count == 3 && $0[0] > 0 && $0[0] * $0[1] == shape.input && $0[2] % $0[0] == 0
    }
    guard shape.output % a.shape[0] == 0 else {
      throw module.refuse("its \(a.shape[0]) blocks do not divide \(shape.output) outputs.")
    }
    let wide = shape.output + shape.input
    try module.requireRoom(for: [a.shape[0], a.shape[2], wide], what: "the factors of \(a.shape[0]) blocks")
    b = try module.tensor("gralora_B", [a.shape[0], a.shape[2], shape.output / a.shape[0]])
    let hybrid = try module.integer("hybrid_r", 0...LoRAScaling.greatestRank)
    general =
      hybrid == 0
      ? nil
      : (
        try module.tensor("gralora_A_general.weight", [hybrid, shape.input]),
        try module.tensor("gralora_B_general.weight", [shape.output, hybrid])
      )
    scale = try module.number("alpha") / Double(a.shape[2] + hybrid)
  }

  var isAdditive: Bool { true }

  func changeFactors() throws(TensorFileError) -> (left: Matrix<Double>, right: Matrix<Double>)? {
    var (left, right) = try blocks(Double.self)
    if let general {
      left = .sideBySide([left, try general.b.matrix()], rows: left.rows)
      right = .stacked([right, try general.a.matrix()], columns: right.columns)
    }
    for index in left.values.indices { left.values[index] *= scale }
    return (left, right)
  }

  func makeChange<Scalar: FactorElement>(scale weight: Scalar) throws(TensorFileError) -> RowChange<Scalar> {
    let (left, right) = try blocks(Scalar.self)
    let generalA = try general?.a.matrix(Scalar.self)
    let generalB = try general?.b.matrix(Scalar.self)
    let factor = Scalar(scale) * weight
    return { rows, block in
      block.add(left.rows(rows), times: right, scale: factor)
      if let generalA, let generalB { block.add(generalB.rows(rows), times: generalA, scale: factor) }
    }
  }

  /// The grid as one product of rank k·r: row block j reads its part of every column block's A.
  private func blocks<Scalar: FactorElement>(
    _ type: Scalar.Type
  ) throws(TensorFileError) -> (left: Matrix<Scalar>, right: Matrix<Scalar>) {
    let (count, width, rank) = (a.shape[0], a.shape[1], a.shape[2])
    let (height, part) = (b.shape[2], rank / count)
    let (a, b) = (try a.values(Scalar.self), try b.values(Scalar.self))
    var left = Matrix<Scalar>(rows: count * height, columns: count * rank)
    var right = Matrix<Scalar>(rows: count * rank, columns: count * width)
    for j in 0..<count {
      for n in 0..<count {
        for k in 0..<part {
          let inner = j * rank + n * part + k
          for row in 0..<height { left[j * height + row, inner] = b[(j * rank + n * part + k) * height + row] }
          for column in 0..<width { right[inner, n * width + column] = a[(n * width + column) * rank + j * part + k] }
        }
      }
    }
    return (left, right)
  }
}
