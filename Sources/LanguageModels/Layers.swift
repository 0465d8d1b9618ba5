internal import Glibc
internal import PEFT
public import TensorMath

/// A layer x ↦ x·Wᵀ + b, with an adapter or without.
public class LinearLayer: NetworkModule {
  public let inFeatures: Int
  public let outFeatures: Int

  init(
    _ typeName: String, inFeatures: Int, outFeatures: Int, details: String = "",
    parameters: [(name: String, parameter: NetworkParameter)] = [],
    _ children: [(name: String, module: NetworkModule)] = []
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
  public let weight: NetworkParameter
  public let bias: NetworkParameter?
  let isTransposed: Bool

  /// - Parameter isTransposed: true for a weight stored `[in, out]`.
  public init(_ weight: NetworkParameter, bias: NetworkParameter?, isTransposed: Bool = false) {
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

  public override func callAsFunction(_ x: Matrix<Float>) -> Matrix<Float> { product(x, roundsInputs: false) }

  override func callAsFunction(_ x: Matrix<Float>, _ pass: Pass) -> Matrix<Float> {
    product(x, roundsInputs: pass.roundsInputs)
  }

  private func product(_ x: Matrix<Float>, roundsInputs: Bool) -> Matrix<Float> {
    var y = weight.current.project(x, transposed: isTransposed, roundsInputs: roundsInputs)
    if let bias { y.addToRows(bias.vector) }
    return y
  }
}

/// Rows of a table by token.
public final class Embedding: NetworkModule {
  public let weight: NetworkParameter
  /// What each row is multiplied by.
  let scale: Float
  /// What is added to each index.
  let offset: Int
  /// torch's `padding_idx`.
  let padding: Int?

  /// - Parameters:
  ///   - padding: torch's `padding_idx`, which is printed.
  ///   - scale: what each row is multiplied by.
  ///   - offset: what is added to each index.
  public init(
    _ weight: NetworkParameter, typeName: String = "Embedding", padding: Int? = nil, scale: Float = 1, offset: Int = 0
  ) {
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
public class Norm: NetworkModule {
  /// What the norm computes with its parameters as they are now.
  var rule: RowNorm { preconditionFailure("a subclass has it") }

  /// The norm of each stretch of `width` columns; of each row if `width` is nil.
  func callAsFunction(_ x: Matrix<Float>, width: Int? = nil) -> Matrix<Float> { rule(x, width: width) }
}

/// x / √(mean x² + ε) · w, or · (1 + w) as Gemma has it.
public final class RMSNorm: Norm {
  private let weight: NetworkParameter
  private let epsilon: Float
  private let addsOne: Bool

  /// - Parameter addsOne: true if the factor is 1 + w.
  public init(_ typeName: String, _ weight: NetworkParameter, epsilon: Double, addsOne: Bool = false) {
    self.weight = weight
    self.epsilon = Float(epsilon)
    self.addsOne = addsOne
    super.init(typeName, details: "(\(weight.count),), eps=\(pythonNumber(epsilon))", parameters: [("weight", weight)])
  }

  override var rule: RowNorm {
    .rootMeanSquare(weight: weight.vector, plus: addsOne ? 1 : 0, epsilon: epsilon)
  }
}

/// (x - mean) / √(variance + ε) · w + b.
public final class LayerNorm: Norm {
  private let weight: NetworkParameter?
  private let bias: NetworkParameter?
  private let epsilon: Float

  /// - Parameter weight: nil for a norm without factors.
  public init(_ weight: NetworkParameter?, _ bias: NetworkParameter?, width: Int, epsilon: Double) {
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

  override var rule: RowNorm {
    .centred(weight: weight?.vector ?? [], bias: bias?.vector ?? [], epsilon: epsilon)
  }
}

/// A function of each element.
public final class ActivationLayer: NetworkModule {
  private let function: ActivationFunction

  /// The function that a key of config.json names, or `fallback`; `meaning` turns a name into the one that is meant.
  ///
  /// Throws `.configValue` for a name that is not known, or whose function has learnt parameters.
  public init(
    _ key: String, _ config: ModelConfig, default fallback: String, meaning: (String) -> String = { $0 }
  ) throws(ModelError) {
    let name = try config.text(key, default: fallback)
    guard let found = ActivationFunction(meaning(name)), !found.isLearnt else {
      throw .configValue(
        path: config.path, key: key, expected: "one of \(ActivationFunction.fixedNames.joined(separator: ", "))",
        found: "\"\(name)\"")
    }
    function = found
    super.init(found.typeName, details: found.details)
  }

  /// The function's kernel, which training needs; nil if there is none.
  var kernel: ActivationKernel? { function.kernel }

  func callAsFunction(_ x: Matrix<Float>) -> Matrix<Float> {
    var result = x
    // Tanh and erf are libm's here, as torch has them; SiLU's kernel is as exact.
    if kernel == .silu {
      ActivationKernel.silu.apply(to: &result)
      return result
    }
    let (columns, function) = (x.columns, function.single)
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
