internal import TensorFiles
internal import TensorMath

extension AdapterMethod {
  /// DeLoRA: ΔW = (B·diag(λ/(r·‖A_i‖·‖B_i‖))·A) ∘ w_norm, the norms at least 1e-4, w_norm one a column.
  ///
  /// Source: peft/tuners/delora/layer.py `DeloraLinear._compute_delta`.
  static let deLoRA = AdapterMethod(
    type: PeftType(rawValue: "DELORA"),
    defaults: """
      {"bias": "none", "delora_lambda": 15, "exclude_modules": null, "init_weights": true, \
      "lambda_pattern": {}, "layers_pattern": null, "layers_to_transform": null, "module_dropout": 0.0, \
      "modules_to_save": null, "r": 8, "rank_pattern": {}, "target_modules": null}
      """,
    prefixes: ["delora_"], buffers: ["delora_w_norm"],
    merging: .rule { module throws(AdapterError) in try DeLoRARule(module) },
    start: .modules([.linear], freshDeLoRA))
}

/// Source: peft/tuners/delora/layer.py `DeloraLayer.reset_delora_parameters`.
private func freshDeLoRA(_ module: FreshModule, _ source: inout FreshSource) throws(AdapterError) -> [FreshTensor] {
  let rank = try module.rank(pattern: "rank_pattern")
  let bound = try module.number("delora_lambda", pattern: "lambda_pattern")
  let a = try source.uniform("delora_A", [rank, module.input], fanIn: module.input)
  let shapeB = [module.output, rank]
  let b =
    module.setting("init_weights") == .bool(true)
    ? try source.filled("delora_B", shapeB) : try source.uniform("delora_B", shapeB, fanIn: rank)
  let weight = try module.weight()
  var squares = [Double](repeating: 0, count: weight.columns)
  for row in 0..<weight.rows {
    for column in 0..<weight.columns { squares[column] += weight[row, column] * weight[row, column] }
  }
  return [
    a, b, try source.filled("delora_lambda", [1], Float(bound)),
    FreshTensor("delora_w_norm", [module.input], squares.map { Float($0.squareRoot()) }),
  ]
}

private struct DeLoRARule: LowRankRule {
  private let a: StoredTensor
  private let b: StoredTensor
  private let lambda: StoredTensor
  private let norms: StoredTensor

  init(_ module: MethodModule) throws(AdapterError) {
    let input = module.shape.input
    a = try module.tensor("delora_A", "[r, \(input)]") { $0.count == 2 && $0[1] == input }
    b = try module.tensor("delora_B", [module.shape.output, a.shape[0]])
    lambda = try module.tensor("delora_lambda", [1])
    norms = try module.tensor("delora_w_norm", [input])
  }

  func factors<Scalar: FactorElement>(
    _ type: Scalar.Type
  ) throws(TensorFileError) -> (left: Matrix<Scalar>, right: Matrix<Scalar>) {
    var right = try a.matrix(type)
    let left = try b.matrix(type)
    let norms = try norms.values(type)
    let scale = try lambda.values(type)[0] / Scalar(max(1, right.rows))
    for k in 0..<right.rows {
      var (rowSquares, columnSquares): (Scalar, Scalar) = (0, 0)
      for column in 0..<right.columns { rowSquares += right[k, column] * right[k, column] }
      for row in 0..<left.rows { columnSquares += left[row, k] * left[row, k] }
      let least = Scalar(1e-4)
      let factor = scale / (max(rowSquares.squareRoot(), least) * max(columnSquares.squareRoot(), least))
      for column in 0..<right.columns { right[k, column] *= factor * norms[column] }
    }
    return (left, right)
  }
}
