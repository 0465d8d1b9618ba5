/// Multiplies stored values and stores the products in another format, or the same.
///
/// Precision: products in f64, each rounded once to nearest, ties to even. Overflow becomes infinity.
/// - Parameter destination: its first bytes become the products; traps if it is too short for them.
/// Returns true if all products are finite and none was rounded after the multiplication in f64.
/// Memory: some thousand numbers.
public func rescale(
  _ source: RawSpan, from format: FloatFormat, by factor: Double, to other: FloatFormat, into destination: inout [UInt8]
) -> Bool {
  let count = source.byteCount / format.byteCount
  precondition(
    count * format.byteCount == source.byteCount && destination.count >= count * other.byteCount,
    "rescale: the destination is too short")
  let block = min(max(count, 1), 4096)
  var products = [Double](repeating: 0, count: block)
  var singles = [Float](repeating: 0, count: block)
  var rounded = 0
  // Soundness: both lengths were checked above; a block is never longer than its arrays, and no memory moves during the calls.
  source.withUnsafeBytes { from in
    destination.withUnsafeMutableBytes { to in
      products.withUnsafeMutableBufferPointer { products in
        singles.withUnsafeMutableBufferPointer { singles in
          guard let from = from.baseAddress, let to = to.baseAddress, let singles = singles.baseAddress else { return }
          for first in stride(from: 0, to: count, by: block) {
            let length = min(block, count - first)
            let place = from + first * format.byteCount
            if format == .f64 {
              for index in 0..<length {
                products[index] = place.loadUnaligned(fromByteOffset: index * 8, as: Double.self) * factor
              }
            } else {
              decode(place, from: format, into: singles, length)
              for index in 0..<length { products[index] = Double(singles[index]) * factor }
            }
            let target = to + first * other.byteCount
            if other == .f64 {
              for index in 0..<length {
                target.storeBytes(of: products[index], toByteOffset: index * 8, as: Double.self)
                rounded += products[index].isFinite ? 0 : 1
              }
              continue
            }
            for index in 0..<length { singles[index] = singleToRound(products[index], to: other) }
            encode(singles, to: other, into: target, length)
            if other != .f32 { decode(UnsafeRawPointer(target), from: other, into: singles, length) }
            // An infinity less itself is no number either.
            for index in 0..<length { rounded += products[index] - Double(singles[index]) == 0 ? 0 : 1 }
          }
        }
      }
    }
  }
  return rounded == 0
}

/// A number in f64 as the f32 that rounds to a narrower format as the number itself would: to odd where it is between two.
private func singleToRound(_ value: Double, to format: FloatFormat) -> Float {
  let single = Float(value)
  guard format != .f32, Double(single) != value, single.isFinite, single.bitPattern & 1 == 0 else { return single }
  // The neighbour on the value's side has an odd last bit, and keeps ties from being seen where there is none.
  return Double(single) < value ? single.nextUp : single.nextDown
}
