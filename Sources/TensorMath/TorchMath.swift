/// The single-precision approximations that torch's vector code uses for normal random numbers: the Cephes library's
/// polynomials, with fused multiply-add.
///
/// Source: aten/src/ATen/native/cpu/avx_mathfun.h `log256_ps`, `sincos256_ps`; checked bit for bit in the tests.
enum TorchMath {
  /// The value of a polynomial, highest power first.
  private static func polynomial(_ coefficients: [Float], at x: Float) -> Float {
    coefficients.dropFirst().reduce(coefficients[0]) { $1.addingProduct($0, x) }
  }

  private static let logarithm: [Float] = [
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
    2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
  ]

  /// The natural logarithm of a positive number.
  static func log(_ value: Float) -> Float {
    let bits = max(value, Float(bitPattern: 0x0080_0000)).bitPattern
    var exponent = Float(Int32(bits >> 23) - 127) + 1
    var x = Float(bitPattern: bits & 0x007F_FFFF | 0x3F00_0000)
    if x < 0.707106781186547524 {
      exponent -= 1
      x = (x - 1) + x
    } else {
      x -= 1
    }
    let square = x * x
    var y = polynomial(logarithm, at: x) * x
    y = (exponent * -2.12194440e-4).addingProduct(y, square)
    y = y.addingProduct(-square, 0.5)
    return (x + y).addingProduct(exponent, 0.693359375)
  }

  /// Sine and cosine of an angle.
  static func sineAndCosine(_ angle: Float) -> (sine: Float, cosine: Float) {
    var x = abs(angle)
    // The octant, rounded up to an even number.
    let octant = (Int32(x * 1.27323954473516) + 1) & ~1
    let y = Float(octant)
    for part: Float in [-0.78515625, -2.4187564849853515625e-4, -3.77489497744594108e-8] { x.addProduct(y, part) }
    let square = x * x
    let first: [Float] = [2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2]
    let even = (-(square * 0.5)).addingProduct(polynomial(first, at: square) * square, square) + 1
    let second: [Float] = [-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1]
    let odd = x.addingProduct(polynomial(second, at: square) * square, x)
    let isPlain = octant & 2 == 0
    let sine = isPlain ? odd : even
    let cosine = isPlain ? even : odd
    return (
      (angle < 0) != (octant & 4 != 0) ? -sine : sine,
      (octant - 2) & 4 == 0 ? -cosine : cosine
    )
  }
}
