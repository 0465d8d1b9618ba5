/// Copies rows that lie one after another into a table of longer rows.
///
/// - Parameters:
///   - source: whole rows.
///   - width: bytes of a row.
///   - byteOffset: where the first row's copy begins.
///   - stride: bytes from one row of the table to the next.
/// Traps if the rows do not fit. Cost: one pass.
package func copyRows(
  _ source: RawSpan, width: Int, into table: inout [UInt8], at byteOffset: Int, stride: Int
) {
  guard source.byteCount > 0 else { return }
  let rows = source.byteCount / width
  precondition(
    rows * width == source.byteCount && byteOffset >= 0 && stride >= width
      && byteOffset + (rows - 1) * stride + width <= table.count, "rows past the end of the table")
  // Soundness: the lengths were checked above, and neither memory moves during the calls.
  source.withUnsafeBytes { from in
    table.withUnsafeMutableBytes { to in
      var (from, to) = (from.baseAddress!, to.baseAddress! + byteOffset)
      if width % 16 == 0, width <= 256 {
        // Factors have short rows, for which calls cost more than the bytes.
        for _ in 0..<rows {
          for place in Swift.stride(from: 0, to: width, by: 16) {
            to.storeBytes(
              of: from.loadUnaligned(fromByteOffset: place, as: SIMD16<UInt8>.self), toByteOffset: place,
              as: SIMD16<UInt8>.self)
          }
          from += width
          to += stride
        }
        return
      }
      for _ in 0..<rows {
        to.copyMemory(from: from, byteCount: width)
        from += width
        to += stride
      }
    }
  }
}
