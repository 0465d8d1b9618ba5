internal import CKernels

/// Which elements of a matrix dropout keeps: a bit for each.
///
/// Source: torch `nn.Dropout` on the CPU: x · Bernoulli(1 - p) / (1 - p), two words of the generator for each element.
public struct DropoutMask: Sendable {
  private let bits: [UInt64]
  private let scale: Float

  /// Draws a mask for rows of `columns` elements; `rows` says for each row of the padded batch, in memory's order, whether it is held.
  /// Rows that are not held are passed over in the generator.
  public init(
    probability: Double, rows: [Bool], columns: Int, from generator: inout TorchGenerator
  ) {
    scale = Float(1 / (1 - probability))
    bits = Self.bits(probability, rows: rows, columns, &generator)
  }

  /// Bits of the rows that are held, one after the other. Where all is dropped torch draws nothing.
  static func bits(
    _ probability: Double, rows: [Bool], _ columns: Int, _ generator: inout TorchGenerator
  ) -> [UInt64] {
    let held = rows.count { $0 }
    var bits = [UInt64](repeating: 0, count: (held * columns + 63) / 64)
    guard probability < 1 else { return bits }
    var place = 0
    var start = 0
    while start < rows.count {
      var end = start
      while end < rows.count, rows[end] == rows[start] { end += 1 }
      let count = (end - start) * columns
      if rows[start] {
        generator.drawBits(count, probability: 1 - probability, into: &bits, from: place)
        place += count
      } else {
        generator.skipDraws(count)
      }
      start = end
    }
    return bits
  }

  /// x with dropped elements zero and the others scaled. Traps if the mask is shorter.
  public func callAsFunction(_ x: LentMatrix, in workspace: Workspace) -> LentMatrix {
    let result = workspace.matrix(x.rows, x.columns)
    precondition(bits.count * 64 >= x.count, "the mask does not fit")
    nonisolated(unsafe) let (from, to) = (x.pointer, result.pointer)
    Parallel.forEachPiece(of: x.count, size: 1 << 14) { start, count in
      kernels_keep(from + start, bits, start, scale, to + start, count)
    }
    return result
  }
}

extension TorchGenerator {
  /// Draws whether each of `count` elements is kept, and sets the bits from `start` on.
  mutating func drawBits(_ count: Int, probability: Double, into bits: inout [UInt64], from start: Int) {
    precondition(start >= 0 && start + count <= bits.count * 64, "the bits do not fit")
    let limit = UInt64((probability * 0x1p53).rounded(.up))
    // The kernel begins at a whole word of bits.
    var rest = count
    var place = start
    while rest > 0 && place % 64 != 0 {
      if nextLongBits() & (1 << 53 - 1) < limit { bits[place / 64] |= 1 << UInt64(place % 64) }
      (place, rest) = (place + 1, rest - 1)
    }
    guard rest > 0 else { return }
    bits.withUnsafeMutableBufferPointer { bits in
      guard let to = bits.baseAddress else { return }
      draws(rest, limit: limit, into: to + place / 64)
    }
  }

  /// Passes over the draws for `count` elements.
  mutating func skipDraws(_ count: Int) { draws(count, limit: 0, into: nil) }
}
