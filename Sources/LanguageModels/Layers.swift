internal import Glibc
public import Numerics

/// A layer x ↦ x·Wᵀ + b, with an adapter or without.
public class LinearLayer: Module {
  public let inFeatures: Int
  public let outFeatures: Int

  init(
    _ typeName: String, inFeatures: Int, outFeatures: Int, details: String = "",
    parameters: [(name: String, parameter: Parameter)] = [], _ children: [(name: String, module: Module)] = []
  ) {
    self.inFeatures = inFeatures
    self.outFeatures = outFeatures
    super.init(typeName, details: details, parameters: parameters, children)
  }

  /// x `[tokens, in]` to `[tokens, out]`.
  public func callAsFunction(_ x: Matrix<Float>) -> Matrix<Float> { preconditionFailure("a subclass computes") }
}

/// A linear layer as the checkpoint holds it: torch's `Linear`, or transformers' `Conv1D` with W stored `[in, out]`.
public final class Linear: LinearLayer {
  public let weight: Parameter
  public let bias: Parameter?
  let isTransposed: Bool

  init(_ weight: Parameter, bias: Parameter?, isTransposed: Bool = false) {
    self.weight = weight
    self.bias = bias
    self.isTransposed = isTransposed
    let (rows, columns) = (weight.stored.rows, weight.stored.columns)
    let (input, output) = isTransposed ? (rows, columns) : (columns, rows)
    super.init(
      isTransposed ? "Conv1D" : "Linear", inFeatures: input, outFeatures: output,
      details: isTransposed
        ? "nf=\(output), nx=\(input)"
        : "in_features=\(input), out_features=\(output), bias=\(bias == nil ? "False" : "True")",
      parameters: [("weight", weight)] + (bias.map { [("bias", $0)] } ?? []))
  }

  public override func callAsFunction(_ x: Matrix<Float>) -> Matrix<Float> {
    var y = weight.current.project(x, transposed: isTransposed)
    if let bias { y.addToRows(bias.vector) }
    return y
  }
}

/// Rows of a table by token.
public final class Embedding: Module {
  public let weight: Parameter
  /// What each row is multiplied by.
  let scale: Float
  /// What is added to each index.
  let offset: Int
  /// torch's `padding_idx`.
  let padding: Int?

  init(_ weight: Parameter, typeName: String = "Embedding", padding: Int? = nil, scale: Float = 1, offset: Int = 0) {
    self.weight = weight
    self.scale = scale
    self.offset = offset
    self.padding = padding
    super.init(
      typeName,
      details: "\(weight.stored.rows), \(weight.stored.columns)" + (padding.map { ", padding_idx=\($0)" } ?? ""),
      parameters: [("weight", weight)])
  }

  /// Rows that can be looked up.
  var count: Int { weight.current.rows - offset }

  /// `[tokens, width]`. Traps on an index outside, which the model checks before.
  func callAsFunction(_ indices: [Int]) -> Matrix<Float> {
    var values: [Float] = []
    values.reserveCapacity(indices.count * weight.current.columns)
    for index in indices { values += weight.current.row(index + offset) }
    if scale != 1 { for index in values.indices { values[index] *= scale } }
    return Matrix(rows: indices.count, columns: weight.current.columns, values: values)
  }
}

/// A norm of each row.
public class Norm: Module {
  func callAsFunction(_ x: Matrix<Float>) -> Matrix<Float> { preconditionFailure("a subclass computes") }
}

/// x / √(mean x² + ε) · w, or · (1 + w) as Gemma has it.
public final class RMSNorm: Norm {
  let weight: Parameter
  let epsilon: Float
  let addsOne: Bool

  init(_ typeName: String, _ weight: Parameter, epsilon: Double, addsOne: Bool = false) {
    self.weight = weight
    self.epsilon = Float(epsilon)
    self.addsOne = addsOne
    super.init(typeName, details: "(\(weight.count),), eps=\(pythonNumber(epsilon))", parameters: [("weight", weight)])
  }

  override func callAsFunction(_ x: Matrix<Float>) -> Matrix<Float> {
    normalised(x, width: x.columns)
  }

  /// The norm of each piece of `width` columns.
  func normalised(_ x: Matrix<Float>, width: Int) -> Matrix<Float> {
    var result = x
    let factors = addsOne ? weight.vector.map { $0 + 1 } : weight.vector
    let (columns, epsilon) = (x.columns, epsilon)
    result.values.withUnsafeMutableBufferPointer { values in
      factors.withUnsafeBufferPointer { factors in
        // Soundness: each task changes its own row.
        nonisolated(unsafe) let (values, factors) = (values, factors)
        Parallel.forEach(x.rows) { row in
          for start in stride(from: row * columns, to: (row + 1) * columns, by: width) {
            var sums = SIMD8<Float>()
            for index in stride(from: 0, to: width & ~7, by: 8) {
              for lane in 0..<8 { sums[lane] += values[start + index + lane] * values[start + index + lane] }
            }
            var sum = sums.sum()
            for index in width & ~7..<width { sum += values[start + index] * values[start + index] }
            let factor = 1 / (sum / Float(width) + epsilon).squareRoot()
            for index in 0..<width { values[start + index] *= factor * factors[index] }
          }
        }
      }
    }
    return result
  }
}

/// (x - mean) / √(variance + ε) · w + b.
public final class LayerNorm: Norm {
  let weight: Parameter?
  let bias: Parameter?
  let epsilon: Float

  init(_ weight: Parameter?, _ bias: Parameter?, width: Int, epsilon: Double) {
    self.weight = weight
    self.bias = bias
    self.epsilon = Float(epsilon)
    let isAffine = weight == nil ? "False" : "True"
    super.init(
      "LayerNorm",
      details: "(\(width),), eps=\(pythonNumber(epsilon)), elementwise_affine=\(isAffine)"
        + (weight == nil ? "" : ", bias=\(bias == nil ? "False" : "True")"),
      parameters: (weight.map { [("weight", $0)] } ?? []) + (bias.map { [("bias", $0)] } ?? []))
  }

  override func callAsFunction(_ x: Matrix<Float>) -> Matrix<Float> {
    var result = x
    let (factors, shifts) = (weight?.vector, bias?.vector)
    result.values.withUnsafeMutableBufferPointer { values in
      for start in stride(from: 0, to: values.count, by: x.columns) {
        var sum: Float = 0
        for index in start..<start + x.columns { sum += values[index] }
        let mean = sum / Float(x.columns)
        var squares: Float = 0
        for index in start..<start + x.columns { squares += (values[index] - mean) * (values[index] - mean) }
        let factor = 1 / (squares / Float(x.columns) + epsilon).squareRoot()
        for index in 0..<x.columns {
          let scaled = (values[start + index] - mean) * factor
          values[start + index] = scaled * (factors?[index] ?? 1) + (shifts?[index] ?? 0)
        }
      }
    }
    return result
  }
}

/// A function of each element.
public final class Activation: Module {
  /// Nil for SiLU, which has a kernel of its own.
  private let function: (@Sendable (Float) -> Float)?

  private init(_ typeName: String, _ function: (@Sendable (Float) -> Float)?) {
    self.function = function
    super.init(typeName)
  }

  /// The function of a name in config.json. Throws `.configValue`. Source: transformers/activations.py `ACT2FN`.
  static func named(_ key: String, _ config: ModelConfig, default fallback: String) throws(ModelError) -> Activation {
    let name = try config.text(key, default: fallback)
    switch name {
    case "silu", "swish": return Activation("SiLUActivation", nil)
    case "relu": return Activation("ReLU") { max($0, 0) }
    case "gelu": return Activation("GELUActivation") { 0.5 * $0 * (1 + erff($0 * 0.70710678)) }
    case "gelu_new": return Activation("NewGELUActivation", tanhGELU)
    case "gelu_pytorch_tanh": return Activation("GELUTanh", tanhGELU)
    case "tanh": return Activation("Tanh") { tanhf($0) }
    default:
      throw .configValue(
        path: config.path, key: key, expected: "silu, relu, gelu, gelu_new, gelu_pytorch_tanh or tanh",
        found: "\"\(name)\"")
    }
  }

  private static let tanhGELU: @Sendable (Float) -> Float = { x in
    0.5 * x * (1 + tanhf(0.7978845608 * (x + 0.044715 * x * x * x)))
  }

  func callAsFunction(_ x: Matrix<Float>) -> Matrix<Float> {
    var result = x
    guard let function else {
      applySiLU(&result)
      return result
    }
    let columns = x.columns
    result.values.withUnsafeMutableBufferPointer { values in
      // Soundness: each task changes its own row.
      nonisolated(unsafe) let values = values
      Parallel.forEach(x.rows) { row in
        for index in row * columns..<(row + 1) * columns { values[index] = function(values[index]) }
      }
    }
    return result
  }
}

extension Matrix<Float> {
  /// Adds a vector to each row.
  mutating func addToRows(_ vector: [Float]) {
    precondition(vector.count == columns, "the vector does not fit")
    let columns = columns
    values.withUnsafeMutableBufferPointer { values in
      vector.withUnsafeBufferPointer { vector in
        for start in stride(from: 0, to: values.count, by: Swift.max(1, columns)) {
          for index in 0..<columns { values[start + index] += vector[index] }
        }
      }
    }
  }

  /// Multiplies by another matrix of the same extents, element by element.
  mutating func multiply(by other: Matrix) {
    precondition(other.values.count == values.count, "extents differ")
    values.withUnsafeMutableBufferPointer { values in
      other.values.withUnsafeBufferPointer { other in
        for index in 0..<values.count { values[index] *= other[index] }
      }
    }
  }
}

/// A number as Python prints it, for the few that stand in a model's tree.
func pythonNumber(_ value: Double) -> String {
  guard value != 0, abs(value) < 1e-4 else { return "\(value)" }
  var (mantissa, exponent) = (value, 0)
  while abs(mantissa) < 1 { (mantissa, exponent) = (mantissa * 10, exponent + 1) }
  let rounded = (mantissa * 1e9).rounded() / 1e9
  let digits = rounded == rounded.rounded() ? "\(Int(rounded))" : "\(rounded)"
  return "\(digits)e-" + (exponent < 10 ? "0" : "") + "\(exponent)"
}
