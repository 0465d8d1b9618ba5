import TensorMath
import TestSupport
import Testing

/// Multiplying stored values.
@Suite struct RescaleTests {
  private func encoded(_ values: [Float], _ format: FloatFormat) -> [UInt8] {
    var bytes = [UInt8](repeating: 0, count: values.count * format.byteCount)
    var span = bytes.mutableSpan
    var raw = span.mutableBytes
    encode(values.span, to: format, into: &raw)
    return bytes
  }

  private func decoded(_ bytes: [UInt8], _ format: FloatFormat) -> [Double] {
    var values = [Double](repeating: 0, count: bytes.count / format.byteCount)
    var span = values.mutableSpan
    decode(bytes.span.bytes, from: format, into: &span)
    return values
  }

  /// All values of a half format, with the next one above and below each.
  @Test(arguments: [FloatFormat.bf16, .f16], [0.3, 1 + 0x1p-9, -1.000488311, 0x1p-3, 7])
  func productsAreRoundedOnceToTheNearestValueTiesToEven(format: FloatFormat, factor: Double) {
    let patterns = (0..<UInt16.max).flatMap { [UInt8(truncatingIfNeeded: $0), UInt8($0 >> 8)] }
    let values = decoded(patterns, format)
    var made = [UInt8](repeating: 0, count: patterns.count)
    let isExact = rescale(patterns.span.bytes, from: format, by: factor, to: format, into: &made)
    #expect(!isExact)
    let results = decoded(made, format)
    var checked = 0
    for (index, value) in values.enumerated() where value.isFinite {
      let (product, result) = (value * factor, results[index])
      guard result.isFinite else { continue }
      let pattern = UInt16(made[2 * index]) | UInt16(made[2 * index + 1]) << 8
      for neighbour in [pattern &+ 1, pattern &- 1] where neighbour & 0x7FFF != 0x7FFF {
        let other = decoded([UInt8(truncatingIfNeeded: neighbour), UInt8(neighbour >> 8)], format)[0]
        guard other.isFinite else { continue }
        let (near, far) = (abs(result - product), abs(other - product))
        #expect(near < far || (near == far && (pattern & 1 == 0 || other == result)), "\(value) · \(factor)")
      }
      checked += 1
    }
    #expect(checked > 30_000)
  }

  @Test func onlyWhatLosesNothingCountsAsExact() {
    func isExact(_ values: [Float], _ from: FloatFormat, _ factor: Double, _ to: FloatFormat) -> Bool {
      var made = [UInt8](repeating: 0xFF, count: values.count * to.byteCount + 3)
      let isExact = rescale(encoded(values, from).span.bytes, from: from, by: factor, to: to, into: &made)
      // What lies behind the products is left alone.
      #expect(made.suffix(3) == [0xFF, 0xFF, 0xFF])
      return isExact
    }
    let values = (0..<9000).map { Float($0 % 251) / 256 - 0.5 }
    #expect(isExact(values, .bf16, 0.5, .bf16) && isExact(values, .f16, -2, .f16) && isExact(values, .bf16, 1, .f32))
    #expect(isExact(values, .f32, 3, .f64) && isExact([], .f32, 0.3, .f32))
    #expect(!isExact(values, .bf16, 0.3, .f32))
    // At the end of the range, and what is no number.
    #expect(!isExact([0x1p-24], .f16, 0.5, .f16) && !isExact([40000], .f16, 2, .f16))
    #expect(!isExact([.nan], .f32, 1, .f32) && !isExact([.infinity], .bf16, 0.5, .f32))
    #expect(!isExact([.infinity], .f32, 1, .f64))
  }
}
