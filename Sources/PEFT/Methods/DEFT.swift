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
    prefixes: ["deft_"], takesConv1D: true, merging: .rule { module throws(AdapterError) in try DEFTRule(module) })
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
