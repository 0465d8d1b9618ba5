internal import TensorFiles
internal import TensorMath

extension AdapterMethod {
  /// FRoD: W' = U·(S + diag(λ))·Vᵀ with a shared V, a sparse S, and U = W·V⁻ᵀ with its columns normalised.
  ///
  /// Source: peft/tuners/frod/layer.py `Linear.get_delta_weight`; model.py for U and the category of a module.
  static let frod = AdapterMethod(
    type: PeftType(rawValue: "FROD"),
    defaults: """
      {"bias": "none", "fan_in_fan_out": false, "frod_dropout": 0.0, "init_weights": true, \
      "layers_pattern": null, "layers_to_transform": null, "modules_to_save": null, "progressbar": true, \
      "projection_prng_key": 0, "regularization_alpha": 0.001, "runtime_offload_base_weight": false, \
      "save_projection": true, "sparse_rate": 0.01, "target_modules": null}
      """,
    prefixes: ["frod_"], buffers: ["frod_V", "frod_s_indices", "frod_s_size"],
    takesConv1D: true, merging: .rule { module throws(AdapterError) in try FRoDRule(module) },
    neededRoles: ["frod_lambda_l", "frod_lambda_s_values"])
}

private struct FRoDRule: WeightRule {
  private let v: StoredTensor
  private let rows: [Int]
  private let columns: [Int]
  private let values: StoredTensor
  private let lambda: StoredTensor

  init(_ module: MethodModule) throws(AdapterError) {
    let input = module.shape.input
    let category = Self.category(module.path)
    guard module.shared["frod_V.\(category)"] != nil else {
      throw module.refuse(
        "its projection frod_V.\(category) was not saved; it comes from eigenvectors whose signs are not determined.")
    }
    v = try module.sharedTensor("frod_V.\(category)", [input, input])
    lambda = try module.tensor("frod_lambda_l", [input])
    values = try module.tensor("frod_lambda_s_values", "[n]") { $0.count == 1 }
    let places = try module.sharedTensor("frod_s_indices.\(category)", [2, values.shape[0]])
    let indices = try module.indices(places, in: 0..<input)
    rows = Array(indices.prefix(values.shape[0]))
    columns = Array(indices.dropFirst(values.shape[0]))
  }

  /// The last two parts of the path; only the last where the other is a number. Source: model.py `_category_from_key`.
  private static func category(_ path: String) -> String {
    if path.hasSuffix(".attention.output.dense") || path == "attention.output.dense" { return "attention_output" }
    let parts = path.parts().suffix(2).map(String.init)
    return parts.count == 2 && Int(parts[0]) == nil ? parts.joined(separator: "_") : parts.last ?? path
  }

  var needsWholeWeight: Bool { true }
  var arithmeticOfPEFT: PEFTArithmetic { .roundedFactors }

  func makeChange<Scalar: FactorElement>(scale: Scalar) throws(TensorFileError) -> RowChange<Scalar> {
    let v = try v.matrix(Double.self)
    let (lambda, values) = (try lambda.values(Double.self), try values.values(Double.self))
    let (rows, columns, tensor) = (rows, columns, values)
    let (path, name) = (self.v.file.path, self.v.entry.name)
    return { (_: Range<Int>, weight: inout Matrix<Scalar>) throws(TensorFileError) in
      let original = Matrix(rows: weight.rows, columns: weight.columns, values: weight.values.map { Double($0) })
      guard let solved = Decompositions.solve(v, original.transposed) else {
        throw .notDecomposable(path: path, tensor: name)
      }
      var u = solved.transposed
      for column in 0..<u.columns {
        var squares = 0.0
        for row in 0..<u.rows { squares += u[row, column] * u[row, column] }
        let norm = squares.squareRoot()
        for row in 0..<u.rows { u[row, column] /= norm }
      }
      var middle = Matrix<Double>(rows: v.rows, columns: v.rows)
      for (index, value) in tensor.enumerated() { middle[rows[index], columns[index]] += value }
      for index in 0..<v.rows { middle[index, index] += lambda[index] }
      weight.values = u.times(middle).times(v, transposingOther: true).values.map { Scalar($0) }
    }
  }
}
