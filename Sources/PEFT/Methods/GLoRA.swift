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
    merging: .rule { module throws(AdapterError) in try GLoRARule(module) },
    start: .modules([.linear], freshGLoRA))
}

/// Source: peft/tuners/glora/layer.py `GloraLayer.update_layer`, `GloraLoraPath`, `GloraVectorPath`, `GloraScalarPath`.
private func freshGLoRA(_ module: FreshModule, _ source: inout FreshSource) throws(AdapterError) -> [FreshTensor] {
  let rank = try module.rank()
  let (output, input) = (module.output, module.input)
  let isNeutral = module.startsNeutral()
  var tensors: [FreshTensor] = []
  /// - Parameter shape: of the matrix that the path makes; of a vector where it has one extent.
  func append(_ name: String, _ kind: JSONValue, _ shape: [Int], isUsed: Bool = true) throws(AdapterError) {
    switch kind {
    case .string("lora") where isUsed && shape.count == 2:
      let up = try source.uniform("glora_\(name).Xu", [rank, shape[1]], fanIn: shape[1])
      let (down, downShape) = ("glora_\(name).Xd", [shape[0], rank])
      tensors.append(isNeutral ? try source.filled(down, downShape) : try source.uniform(down, downShape, fanIn: rank))
      tensors.append(up)
    case .string("vector") where isUsed:
      let vector = shape.count == 1 ? shape : [shape[0], 1]
      tensors.append(
        isNeutral
          ? try source.filled("glora_\(name).X", vector)
          : try source.uniform("glora_\(name).X", vector, fanIn: vector.last ?? 1))
    case .string("constant") where isUsed && name != "C":
      tensors.append(
        isNeutral
          ? try source.filled("glora_\(name).X", [1]) : try source.normal("glora_\(name).X", [1], deviation: 0.02))
    default:
      // Nothing, stored as zeros in the weight's dtype.
      let dtype = module.base.checkpoint[module.module.weightName]?.entry.dtype ?? .f32
      let count = try source.count("glora_\(name).zeros", shape)
      tensors.append(
        FreshTensor(
          name: "glora_\(name).zeros", shape: shape,
          values: .bytes([UInt8](repeating: 0, count: count * dtype.bitCount / 8), dtype)))
    }
  }
  let (both, third, biases) = (
    module.setting("config_A_B"), module.setting("config_C"), module.setting("config_D_E")
  )
  try append("A", both, [output, input])
  try append("B", both, [output, input])
  try append("C", third, [input, 1], isUsed: module.hasBias)
  try append("D", biases, [output], isUsed: module.hasBias)
  try append("E", biases, [output], isUsed: module.hasBias)
  return tensors
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
