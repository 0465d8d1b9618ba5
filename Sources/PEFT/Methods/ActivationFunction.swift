internal import Glibc
package import TensorMath

/// A function of each element, by transformers' name: the one table of what a model's configuration and an adapter's may name.
///
/// Precision: each function is computed in the precision that it is given, with that precision's libm, in the order of operations
/// that torch has. Source: transformers/activations.py `ACT2CLS`.
package struct ActivationFunction: Sendable {
  /// What PyTorch prints for the module, its details apart.
  package let typeName: String
  package let details: String
  /// True if a module of a model learns parameters of its own, which a checkpoint holds. PEFT's adapters use it as it is when new.
  package let isLearnt: Bool
  /// The kernel that computes it and its slope, where there is one.
  package let kernel: ActivationKernel?
  package let single: @Sendable (Float) -> Float
  package let double: @Sendable (Double) -> Double

  private init(
    _ typeName: String, details: String = "", isLearnt: Bool = false, kernel: ActivationKernel? = nil,
    _ single: @escaping @Sendable (Float) -> Float,
    _ double: @escaping @Sendable (Double) -> Double
  ) {
    self.typeName = typeName
    self.details = details
    self.isLearnt = isLearnt
    self.kernel = kernel
    self.single = single
    self.double = double
  }

  private static let table: [String: ActivationFunction] = [
    "gelu": ActivationFunction("GELUActivation", kernel: .gelu, gelu, gelu),
    "gelu_10": ActivationFunction("ClippedGELUActivation", clippedGELU, clippedGELU),
    "gelu_accurate": ActivationFunction("AccurateGELUActivation", kernel: .tanhGELU, tanhGELU, tanhGELU),
    "gelu_fast": ActivationFunction("FastGELUActivation", fastGELU, fastGELU),
    "gelu_new": ActivationFunction("NewGELUActivation", kernel: .tanhGELU, tanhGELU, tanhGELU),
    "gelu_python": ActivationFunction("GELUActivation", kernel: .gelu, gelu, gelu),
    "gelu_python_tanh": ActivationFunction("GELUTanh", kernel: .tanhGELU, tanhGELU, tanhGELU),
    "gelu_pytorch_tanh": ActivationFunction("GELUTanh", kernel: .tanhGELU, tanhGELU, tanhGELU),
    "hardswish": ActivationFunction("Hardswish", hardSwish, hardSwish),
    "laplace": ActivationFunction("LaplaceActivation", laplace, laplace),
    "leaky_relu": ActivationFunction("LeakyReLU", details: "negative_slope=0.01", leakyReLU, leakyReLU),
    "linear": ActivationFunction("LinearActivation", { $0 }, { $0 }),
    "mish": ActivationFunction("MishActivation", mish, mish),
    "prelu": ActivationFunction("PReLU", details: "num_parameters=1", isLearnt: true, freshPReLU, freshPReLU),
    "quick_gelu": ActivationFunction("QuickGELUActivation", kernel: .quickGELU, quickGELU, quickGELU),
    "relu": ActivationFunction("ReLU", kernel: .relu, relu, relu),
    "relu2": ActivationFunction("ReLUSquaredActivation", squaredReLU, squaredReLU),
    "relu6": ActivationFunction("ReLU6", relu6, relu6),
    "sigmoid": ActivationFunction("Sigmoid", sigmoid, sigmoid),
    "silu": ActivationFunction("SiLUActivation", kernel: .silu, silu, silu),
    "sqrtsoftplus": ActivationFunction("SqrtSoftplusActivation", rootSoftplus, rootSoftplus),
    "swish": ActivationFunction("SiLU", kernel: .silu, silu, silu),
    "tanh": ActivationFunction(
      "Tanh", kernel: .tanh, { Float.hyperbolicTangent($0) }, { Double.hyperbolicTangent($0) }),
    "xielu": ActivationFunction("XIELUActivation", isLearnt: true, freshXIELU, freshXIELU),
  ]

  /// Names that are known, in order.
  package static let names = table.keys.sorted()
  /// Names whose functions have no parameters of their own.
  package static let fixedNames = names.filter { table[$0]?.isLearnt == false }

  /// Nil for a name that is not known.
  package init?(_ name: String) {
    guard let found = Self.table[name] else { return nil }
    self = found
  }

  // MARK: The functions

  private static func gelu<Scalar: Transcendental>(_ x: Scalar) -> Scalar {
    0.5 * x * (1 + Scalar.errorFunction(x * 0.70710678118654752440))
  }

  private static func clippedGELU<Scalar: Transcendental>(_ x: Scalar) -> Scalar { min(max(gelu(x), -10), 10) }

  private static func tanhGELU<Scalar: Transcendental>(_ x: Scalar) -> Scalar {
    0.5 * x * (1 + Scalar.hyperbolicTangent(0.79788456080286535588 * (x + 0.044715 * x * x * x)))
  }

  private static func fastGELU<Scalar: Transcendental>(_ x: Scalar) -> Scalar {
    0.5 * x * (1 + Scalar.hyperbolicTangent(x * 0.7978845608 * (1 + 0.044715 * x * x)))
  }

  private static func sigmoid<Scalar: Transcendental>(_ x: Scalar) -> Scalar { 1 / (1 + Scalar.exponential(-x)) }
  private static func quickGELU<Scalar: Transcendental>(_ x: Scalar) -> Scalar { x * sigmoid(1.702 * x) }
  private static func silu<Scalar: Transcendental>(_ x: Scalar) -> Scalar { x / (1 + Scalar.exponential(-x)) }
  private static func relu<Scalar: Transcendental>(_ x: Scalar) -> Scalar { max(x, 0) }
  private static func squaredReLU<Scalar: Transcendental>(_ x: Scalar) -> Scalar { relu(x) * relu(x) }
  private static func relu6<Scalar: Transcendental>(_ x: Scalar) -> Scalar { min(max(x, 0), 6) }
  private static func leakyReLU<Scalar: Transcendental>(_ x: Scalar) -> Scalar { x > 0 ? x : 0.01 * x }
  private static func hardSwish<Scalar: Transcendental>(_ x: Scalar) -> Scalar { x * min(max(x + 3, 0), 6) / 6 }

  private static func mish<Scalar: Transcendental>(_ x: Scalar) -> Scalar {
    x * Scalar.hyperbolicTangent(Scalar.logarithmOfOnePlus(Scalar.exponential(x)))
  }

  private static func rootSoftplus<Scalar: Transcendental>(_ x: Scalar) -> Scalar {
    (x > 20 ? x : Scalar.logarithmOfOnePlus(Scalar.exponential(x))).squareRoot()
  }

  private static func laplace<Scalar: Transcendental>(_ x: Scalar) -> Scalar {
    0.5 * (1 + Scalar.errorFunction((x - 0.707107) / 0.39894257487763823))
  }

  /// As torch initialises it.
  private static func freshPReLU<Scalar: Transcendental>(_ x: Scalar) -> Scalar { x > 0 ? x : 0.25 * x }

  /// As transformers initialises it: the parameters are those that its bf16 arithmetic gives.
  private static func freshXIELU<Scalar: Transcendental>(_ x: Scalar) -> Scalar {
    let (alpha, beta, epsilon): (Scalar, Scalar, Scalar) = (0.80078125, 0.5, -9.98377799987793e-07)
    return x > 0
      ? alpha * x * x + beta * x : (Scalar.exponentialMinusOne(min(x, epsilon)) - x) * alpha + beta * x
  }
}

/// What libm computes in both precisions.
private protocol Transcendental: BinaryFloatingPoint, ExpressibleByFloatLiteral {
  static func exponential(_ x: Self) -> Self
  static func exponentialMinusOne(_ x: Self) -> Self
  static func logarithmOfOnePlus(_ x: Self) -> Self
  static func errorFunction(_ x: Self) -> Self
  static func hyperbolicTangent(_ x: Self) -> Self
}

extension Float: Transcendental {
  fileprivate static func exponential(_ x: Float) -> Float { expf(x) }
  fileprivate static func exponentialMinusOne(_ x: Float) -> Float { expm1f(x) }
  fileprivate static func logarithmOfOnePlus(_ x: Float) -> Float { log1pf(x) }
  fileprivate static func errorFunction(_ x: Float) -> Float { erff(x) }
  fileprivate static func hyperbolicTangent(_ x: Float) -> Float { tanhf(x) }
}

extension Double: Transcendental {
  fileprivate static func exponential(_ x: Double) -> Double { exp(x) }
  fileprivate static func exponentialMinusOne(_ x: Double) -> Double { expm1(x) }
  fileprivate static func logarithmOfOnePlus(_ x: Double) -> Double { log1p(x) }
  fileprivate static func errorFunction(_ x: Double) -> Double { erf(x) }
  fileprivate static func hyperbolicTangent(_ x: Double) -> Double { tanh(x) }
}
