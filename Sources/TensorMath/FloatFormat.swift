/// A floating-point storage format that the kernels compute on.
public enum FloatFormat: Sendable, Hashable {
  /// bfloat16: the upper half of an IEEE 754 single.
  case bf16
  /// IEEE 754 half precision.
  case f16
  /// IEEE 754 single precision.
  case f32
  /// IEEE 754 double precision.
  case f64

  /// Bytes of one element.
  public var byteCount: Int {
    switch self {
    case .bf16, .f16: 2
    case .f32: 4
    case .f64: 8
    }
  }
}
