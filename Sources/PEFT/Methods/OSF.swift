internal import TensorFiles
internal import TensorMath

extension AdapterMethod {
  /// OSF: the least singular components of W give way to trained ones: W' = (top-k part of W) + U·diag(S)·V.
  ///
  /// The part that stays is a projection of W, so it does not depend on the signs of singular vectors.
  /// Source: peft/tuners/osf/layer.py `Linear.get_delta_weight`.
  static let osf = AdapterMethod(
    type: PeftType(rawValue: "OSF"),
    defaults: """
      {"effective_rank": null, "init_weights": true, "modules_to_save": null, "rank_pattern": null, \
      "target_modules": null, "target_svd_config": null}
      """,
    prefixes: ["osf_"], passesOverOthers: true, merging: .rule { module throws(AdapterError) in try OSFRule(module) },
    neededRoles: ["osf_svd_params.U_low", "osf_svd_params.S_low", "osf_svd_params.V_low"])
}

private struct OSFRule: WeightRule {
  private let u: StoredTensor
  private let s: StoredTensor
  private let v: StoredTensor

  init(_ module: MethodModule) throws(AdapterError) {
    let shape = module.shape
    let least = min(shape.output, shape.input)
    u = try module.tensor("osf_svd_params.U_low", "[\(shape.output), m]") {
      $0.count == 2 && $0[0] == shape.output && $0[1] <= least
    }
    s = try module.tensor("osf_svd_params.S_low", [u.shape[1]])
    v = try module.tensor("osf_svd_params.V_low", [u.shape[1], shape.input])
  }

  var needsWholeWeight: Bool { true }
  var arithmeticOfPEFT: PEFTArithmetic { .decomposed }

  func makeChange<Scalar: FactorElement>(scale: Scalar) throws(TensorFileError) -> RowChange<Scalar> {
    var right = try v.matrix(Double.self)
    let (left, values) = (try u.matrix(Double.self), try s.values(Double.self))
    for row in 0..<right.rows { right.scaleRow(row, by: values[row]) }
    let (path, name, rank) = (u.file.path, u.entry.name, right.rows)
    return { (_: Range<Int>, weight: inout Matrix<Scalar>) throws(TensorFileError) in
      var result = Matrix(rows: weight.rows, columns: weight.columns, values: weight.values.map { Double($0) })
      guard let removed = RemovedComponent(.minor(rank: rank), of: result) else {
        throw .notDecomposable(path: path, tensor: name)
      }
      result.add(removed.left, times: removed.right)
      result.add(left, times: right)
      weight.values = result.values.map { Scalar($0) }
    }
  }
}
