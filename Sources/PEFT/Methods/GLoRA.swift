internal import TensorFiles
internal import TensorMath

extension AdapterMethod {
  /// GLoRA: W' = W + W∘A + B and b' = b + b∘D + E + W·C, each of A to E a product, a vector, a number or nothing.
  ///
  /// Source: peft/tuners/glora/layer.py `GloraLinear.merge`.
  static let gLoRA = AdapterMethod(
    type: PeftType(rawValue: "GLORA"),
    defaults: """
      {"bias": "none", "config_A_B": "lora", "config_C": "lora", "config_D_E": "constant", \
      "init_weights": true, "modules_to_save": null, "r": 8, "target_modules": null}
      """,
    prefixes: ["glora_"], buffers: ["zeros"],
    merging: .rule { module throws(AdapterError) in try GLoRARule(module) })
}

private struct GLoRARule: WeightRule {
  /// One of the five, as a matrix `[rows, columns]`.
  private struct Path: Sendable {
    let rows: Int
    let columns: Int
    /// A product's factors, or one tensor that is spread over the matrix; neither for nothing.
    var factors: (d: StoredTensor, u: StoredTensor)?
    var spread: StoredTensor?

    init(_ module: MethodModule, _ name: String, rows: Int, columns: Int) throws(AdapterError) {
      self.rows = rows
      self.columns = columns
      if module.tensors["\(name).Xd"] != nil {
        let d = try module.tensor("\(name).Xd", "[\(rows), r]") { $0.count == 2 && $0[0] == rows }
        factors = (d, try module.tensor("\(name).Xu", [d.shape[1], columns]))
      } else if module.tensors["\(name).X"] != nil {
        spread = try module.tensor("\(name).X", [1], [rows, 1], [rows])
      } else {
        _ = try module.tensor("\(name).zeros", [rows, columns], [rows])
      }
    }

    /// Some rows of the matrix; nil for nothing.
    func matrix<Scalar: FactorElement>(_ type: Scalar.Type) throws(TensorFileError) -> Matrix<Scalar>? {
      if let factors { return try factors.d.matrix(type).times(try factors.u.matrix(type)) }
      guard let values = try spread?.values(type) else { return nil }
      var result = Matrix<Scalar>(rows: rows, columns: columns)
      for row in 0..<rows {
        for column in 0..<columns { result[row, column] = values[values.count == 1 ? 0 : row] }
      }
      return result
    }
  }

  private let a: Path
  private let b: Path
  private let c: Path
  private let d: Path
  private let e: Path

  init(_ module: MethodModule) throws(AdapterError) {
    let (output, input) = (module.shape.output, module.shape.input)
    a = try Path(module, "glora_A", rows: output, columns: input)
    b = try Path(module, "glora_B", rows: output, columns: input)
    c = try Path(module, "glora_C", rows: input, columns: 1)
    d = try Path(module, "glora_D", rows: output, columns: 1)
    e = try Path(module, "glora_E", rows: output, columns: 1)
  }

  var changesBias: Bool { true }
  var biasArithmeticOfPEFT: PEFTArithmetic { .roundedFactors }

  func makeChange<Scalar: FactorElement>(scale: Scalar) throws(TensorFileError) -> RowChange<Scalar> {
    let (a, b) = (try a.matrix(Scalar.self), try b.matrix(Scalar.self))
    return { rows, block in
      if let a { block.add(elementwise: block, a.rows(rows), scale: 1) }
      if let b { block.add(b.rows(rows), scale: 1) }
    }
  }

  func changedBias(
    _ bias: [Double], weight: () throws(TensorFileError) -> Matrix<Double>
  ) throws(TensorFileError) -> [Double] {
    var result = bias
    if let d = try d.matrix(Double.self) {
      for index in bias.indices { result[index] += bias[index] * d.values[index] }
    }
    if let e = try e.matrix(Double.self) { for index in bias.indices { result[index] += e.values[index] } }
    if let c = try c.matrix(Double.self) {
      let product = try weight().times(c)
      for index in bias.indices { result[index] += product.values[index] }
    }
    return result
  }
}
