internal import Glibc

/// An activation function by transformers' name. Source: transformers/activations.py `ACT2FN`.
struct Activation: Sendable {
  let value: @Sendable (Double) -> Double

  private static let table: [String: @Sendable (Double) -> Double] = [
    "linear": { $0 },
    "relu": { max($0, 0) },
    "relu2": { max($0, 0) * max($0, 0) },
    "relu6": { min(max($0, 0), 6) },
    "leaky_relu": { $0 > 0 ? $0 : 0.01 * $0 },
    "elu": { $0 > 0 ? $0 : expm1($0) },
    "gelu": { 0.5 * $0 * (1 + erf($0 / 2.0.squareRoot())) },
    "gelu_new": gelu, "gelu_pytorch_tanh": gelu, "gelu_fast": gelu,
    "gelu_10": { min(max(0.5 * $0 * (1 + erf($0 / 2.0.squareRoot())), -10), 10) },
    "quick_gelu": { $0 / (1 + exp(-1.702 * $0)) },
    "silu": { $0 / (1 + exp(-$0)) },
    "swish": { $0 / (1 + exp(-$0)) },
    "mish": { $0 * tanh(log1p(exp($0))) },
    "sigmoid": { 1 / (1 + exp(-$0)) },
    "tanh": { tanh($0) },
    "hardswish": { $0 * min(max($0 + 3, 0), 6) / 6 },
    "laplace": { 0.5 * (1 + erf(($0 - 0.707107) / (0.282095 * 2.0.squareRoot()))) },
  ]

  private static let gelu: @Sendable (Double) -> Double = { x in
    0.5 * x * (1 + tanh((2 / Double.pi).squareRoot() * (x + 0.044715 * x * x * x)))
  }

  /// Names that are known.
  static var names: [String] { table.keys.sorted() }

  /// Nil for a name that is not known.
  init?(_ name: String) {
    guard let value = Self.table[name] else { return nil }
    self.value = value
  }
}
