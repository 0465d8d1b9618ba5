internal import Glibc
internal import PEFT
public import TensorMath

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

  /// x `[tokens, in]` to `[tokens, out]`, apart from any sequence: an aLoRA has no token to act from, and does not act.
  public func callAsFunction(_ x: Matrix<Float>) -> Matrix<Float> { preconditionFailure("a subclass computes") }

  /// As `callAsFunction(_:)`, for the last tokens of a pass.
  func callAsFunction(_ x: Matrix<Float>, _ pass: Pass) -> Matrix<Float> { self(x) }
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

  init(_ weight: Parameter, typeName: String = "Embedding", padding: Int? = nil, scale: Float = 1, offset: Int = 0) {
    self.weight = weight
    self.scale = scale
    self.offset = offset
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

  /// The function that a key of config.json names, or `fallback`; `meaning` turns a name into the one that is meant.
  ///
  /// Throws `.configValue` for a name that is not known, or whose function has learnt parameters.
  init(
    _ key: String, _ config: ModelConfig, default fallback: String, meaning: (String) -> String = { $0 }
  ) throws(ModelError) {
    let name = try config.text(key, default: fallback)
    guard let found = ActivationFunction(meaning(name)), !found.isLearnt else {
      throw .configValue(
        path: config.path, key: key, expected: "one of \(ActivationFunction.fixedNames.joined(separator: ", "))",
        found: "\"\(name)\"")
    }
    function = ["silu", "swish"].contains(name) ? nil : found.single
    super.init(found.typeName, details: found.details)
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
