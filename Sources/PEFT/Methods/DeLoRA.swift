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
    merging: .rule { module throws(AdapterError) in try DeLoRARule(module) })
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
