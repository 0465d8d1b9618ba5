internal import TensorFiles
internal import TensorMath

extension AdapterMethod {
  /// DEFT: W' = W + Q·(c·R - rightᵀ·W), the projection Q·rightᵀ made from P by ReLU or QR; `para` leaves R out.
  ///
  /// Source: peft/tuners/deft/layer.py `Linear._project`, `_merge_factor`, `_delta_from_factor`.
  static let deft = AdapterMethod(
    type: PeftType(rawValue: "DEFT"),
    defaults: """
      {"alpha": null, "bias": "none", "decomposition_method": "relu", "deft_dropout": 0.0, \
      "exclude_modules": null, "fan_in_fan_out": false, "init_scale": 1.0, "init_weights": true, \
      "layers_pattern": null, "layers_to_transform": null, "modules_to_save": null, "para": false, "r": 8, \
      "target_modules": null}
      """,
    prefixes: ["deft_"], takesConv1D: true, merging: .rule { module throws(AdapterError) in try DEFTRule(module) },
    start: .modules([.linear, .transposedLinear], freshDEFT))
}

/// R starts as what makes the change zero: it follows from P and the weight.
///
/// Source: peft/tuners/deft/layer.py `DeftLayer.update_layer`, `reset_deft_parameters`.
private func freshDEFT(_ module: FreshModule, _ source: inout FreshSource) throws(AdapterError) -> [FreshTensor] {
  let rank = min(try module.rank(), module.output)
  let p = try source.normal("deft_P", [module.output, rank], deviation: 0.02)
  if module.flag("para") { return [p] }
  let shape = [rank, module.input]
  guard module.startsNeutral() else {
    return [p, try source.normal("deft_R", shape, deviation: 0.02 * module.number("init_scale"))]
  }
  var right = Matrix(rows: module.output, columns: rank, values: p.floats.map { Double($0) })
  switch module.setting("decomposition_method") {
  case .string("relu"): right = Matrix(rows: right.rows, columns: rank, values: right.values.map { max(0, $0) })
  case .string("qr"):
    guard let basis = Decompositions.orthonormalColumns(right) else {
      throw .file(.notDecomposable(path: module.base.path, tensor: module.module.weightName))
    }
    right = basis
  default: throw module.refuse("decomposition_method", expected: "relu or qr")
  }
  _ = try source.count("deft_R", shape)
  let scale = module.setting("alpha") == .null ? 1 : try module.number("alpha") / Double(rank)
  let product = right.transposed.times(try module.weight())
  return [p, FreshTensor("deft_R", shape, product.values.map { Float($0 / (scale == 0 ? 1 : scale)) })]
}

private struct DEFTRule: WeightRule {
  private let p: StoredTensor
  private let r: StoredTensor?
  private let usesQR: Bool
  private let scale: Double

  init(_ module: MethodModule) throws(AdapterError) {
    let shape = module.shape
    p = try module.tensor("deft_P", "[\(shape.output), r]") { $0.count == 2 && $0[0] == shape.output && $0[1] <= $0[0] }
    r = module.flag("para") ? nil : try module.tensor("deft_R", [p.shape[1], shape.input])
    switch module.setting("decomposition_method") {
    case .string("relu"): usesQR = false
    case .string("qr"): usesQR = true
    case let other:
      throw .configValue(
        path: module.configPath, key: "decomposition_method", expected: "relu or qr", found: other.compactText)
    }
    scale = module.setting("alpha") == .null ? 1 : try module.number("alpha") / module.number("r")
  }

  var needsWholeWeight: Bool { true }

  func makeChange<Scalar: FactorElement>(scale weight: Scalar) throws(TensorFileError) -> RowChange<Scalar> {
    let p = try p.matrix(Double.self)
    var (q, right) = (p, p)
    if usesQR {
      guard let basis = Decompositions.orthonormalColumns(p) else {
        throw .notDecomposable(path: self.p.file.path, tensor: self.p.entry.name)
      }
      (q, right) = (basis, basis)
    } else {
      right.values = right.values.map { max($0, 0) }
    }
    let injected = try r?.matrix(Double.self)
    let scale = scale
    return { _, weight in
      let original = Matrix(rows: weight.rows, columns: weight.columns, values: weight.values.map { Double($0) })
      var inner = Matrix<Double>(rows: q.columns, columns: weight.columns)
      if let injected { inner.add(injected, scale: scale) }
      inner.add(right, times: original, transposingFirst: true, scale: -1)
      var result = original
      result.add(q, times: inner)
      weight.values = result.values.map { Scalar($0) }
    }
  }
}
