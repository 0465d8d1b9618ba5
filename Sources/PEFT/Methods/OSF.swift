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
    start: .modules([.linear], freshOSF), defaultTargets: DefaultTargets.osf,
    neededRoles: ["osf_svd_params.U_low", "osf_svd_params.S_low", "osf_svd_params.V_low"])
}

/// The least singular components of the weight, or normal values in their places.
///
/// Precision: f64 rounded to the base's dtype; signs of singular vectors are LAPACK's.
/// Source: peft/tuners/osf/layer.py `OSFLayer.update_layer`; utils.py `decompose_weight_matrix`.
private func freshOSF(_ module: FreshModule, _ source: inout FreshSource) throws(AdapterError) -> [FreshTensor] {
  let least = min(module.output, module.input)
  let kept = try keptRank(module, of: least)
  guard kept > 0 else { throw module.refuse("effective_rank", expected: "at least one component that stays") }
  let rest = least - kept
  let shapes = ["osf_svd_params.U_low", "osf_svd_params.S_low", "osf_svd_params.V_low"]
  if module.setting("init_weights") == .bool(false) {
    return [
      try source.normal(shapes[0], [module.output, rest], like: module.dtype),
      try source.normal(shapes[1], [rest], like: module.dtype),
      try source.normal(shapes[2], [rest, module.input], like: module.dtype),
    ]
  }
  _ = try (source.count(shapes[0], [module.output, rest]), source.count(shapes[2], [rest, module.input]))
  guard let parts = Decompositions.singularValues(try module.weight()) else {
    throw .file(.notDecomposable(path: module.base.path, tensor: module.module.weightName))
  }
  return [
    FreshTensor(shapes[0], [module.output, rest], parts.u.columns(kept..<least).values.map { Float($0) }),
    FreshTensor(shapes[1], [rest], parts.s[kept...].map { Float($0) }),
    FreshTensor(shapes[2], [rest, module.input], parts.vTransposed.rows(kept..<least).values.map { Float($0) }),
  ]
}

/// How many components stay: half, a number, or a share where the number has a point and is at most 1.
///
/// Source: peft/tuners/osf/model.py `OSFModel._create_and_replace`.
private func keptRank(_ module: FreshModule, of least: Int) throws(AdapterError) -> Int {
  func rank(_ key: String, _ value: JSONValue) throws(AdapterError) -> Int {
    switch value {
    case .null: return least / 2
    case .integer(let number): return max(0, min(least, number))
    case .number(let number) where number > 0 && number <= 1: return Int(Double(least) * number)
    case .number(let number) where number.isFinite: return Int(max(0, min(Double(least), number)))
    default:
      throw .configValue(path: module.configPath, key: key, expected: "a number", found: value.compactText)
    }
  }
  for member in module.setting("rank_pattern").members ?? [] {
    guard try module.patterns.pattern(member.key).matchesSomewhere(module.path) else { continue }
    return try rank("rank_pattern", member.value)
  }
  return try rank("effective_rank", module.setting("effective_rank"))
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
