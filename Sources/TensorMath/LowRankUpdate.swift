internal import CKernels
internal import COpenBLAS

/// The two factors of ΔW = scale · left · right, laid out for repeated use on blocks of rows.
///
/// Shape: left `[rows, rank]`, right `[rank, columns]`, row-major.
/// Precision: f32 factors; the scale is folded into `left` with one rounding.
/// Cost: holds a packed copy of `left` and takes over `right`.
public struct LowRankUpdate: Sendable {
  /// Rows of W.
  public let rows: Int
  /// Columns of W.
  public let columns: Int
  /// The inner dimension.
  public let rank: Int

  private var packedLeft: [Float]
  private let right: [Float]
  /// The factors in f64, for ranks from `wideRank` on.
  private let wideLeft: [Double]
  private let wideRight: [Double]

  /// Blocks passed to `apply` must begin at a multiple of this many rows.
  public static let rowGroup = Int(kernels_row_group)

  /// From this rank on, the product is one `dgemm` on a widened block: panels no longer fit the first-level cache, and
  /// the error of so long a sum in f32 would be seen in the half formats.
  public static let wideRank = 96

  /// Traps if the arrays do not have the stated shapes.
  public init(left: [Float], right: [Float], rows: Int, columns: Int, rank: Int, scale: Float) {
    precondition(left.count == rows * rank, "left is not [rows, rank]")
    precondition(right.count == rank * columns, "right is not [rank, columns]")
    self.rows = rows
    self.columns = columns
    self.rank = rank
    if rank >= Self.wideRank {
      wideLeft = left.map { Double($0) * Double(scale) }
      wideRight = right.map { Double($0) }
      self.right = []
      packedLeft = []
      return
    }
    self.right = right
    wideLeft = []
    wideRight = []
    let groups = (rows + Self.rowGroup - 1) / Self.rowGroup
    packedLeft = [Float](repeating: 0, count: groups * Self.rowGroup * rank)
    // Soundness: `packedLeft` holds whole groups, as kernels_pack_left requires; the arrays outlive the call.
    packedLeft.withUnsafeMutableBufferPointer { packed in
      left.withUnsafeBufferPointer { source in
        guard let to = packed.baseAddress, let from = source.baseAddress else { return }
        kernels_pack_left(from, rows, rank, rank, scale, to)
      }
    }
  }

  /// W[firstRow...] += ΔW[firstRow...] in place, for as many whole rows as `block` holds.
  ///
  /// Precision: the product is summed in f32, added to W in f32, and rounded once to `format`; from rank 96 on summed and
  /// added in f64, and rounded by way of f32.
  /// Edge: rank zero leaves the block as it is, but for NaNs, which become quiet.
  /// Traps on f64 (see `LowRankUpdate64`), on a block that is no whole number of rows or reaches past the last row, and
  /// on a `firstRow` that is no multiple of `rowGroup`.
  /// Cost: one pass over the block; from rank 96 on a widened copy of it.
  /// Source: peft/tuners/lora/layer.py `Linear.merge`, `Linear.get_delta_weight`.
  public func apply(toRowsFrom firstRow: Int, of block: inout MutableRawSpan, format: FloatFormat) {
    let count = block.byteCount / max(1, columns * format.byteCount)
    precondition(block.byteCount == count * columns * format.byteCount, "block is not whole rows")
    precondition(firstRow % Self.rowGroup == 0, "block does not begin at a row group")
    precondition(firstRow >= 0 && firstRow + count <= rows, "block reaches past the last row")
    if rank >= Self.wideRank {
      applyWithBLAS(firstRow: firstRow, rowCount: count, block: &block, format: format)
      return
    }
    // Soundness: the block's extent was checked; groups before `firstRow` are whole, so the packed offset is exact.
    block.withUnsafeMutableBytes { bytes in
      packedLeft.withUnsafeBufferPointer { packed in
        right.withUnsafeBufferPointer { rightFloats in
          guard let w = bytes.baseAddress, let packed = packed.baseAddress, let r = rightFloats.baseAddress else {
            return
          }
          let l = packed + firstRow * rank
          switch format {
          case .bf16:
            kernels_update_bf16(w.assumingMemoryBound(to: UInt16.self), count, columns, l, r, rank)
          case .f16:
            kernels_update_f16(w.assumingMemoryBound(to: UInt16.self), count, columns, l, r, rank)
          case .f32:
            kernels_update_f32(w.assumingMemoryBound(to: Float.self), count, columns, l, r, rank)
          case .f64: preconditionFailure("f64 blocks take LowRankUpdate64")
          }
        }
      }
    }
  }

  private func applyWithBLAS(
    firstRow: Int, rowCount: Int, block: inout MutableRawSpan, format: FloatFormat
  ) {
    var sums = [Double](repeating: 0, count: rowCount * columns)
    var widened = sums.mutableSpan
    decode(block.bytes, from: format, into: &widened)
    // Soundness: `sums` and the two factors have the extents passed; cblas only reads and writes within them.
    sums.withUnsafeMutableBufferPointer { sums in
      wideLeft.withUnsafeBufferPointer { left in
        wideRight.withUnsafeBufferPointer { right in
          guard let w = sums.baseAddress, let l = left.baseAddress, let r = right.baseAddress else { return }
          cblas_dgemm(
            CblasRowMajor, CblasNoTrans, CblasNoTrans, blasint(rowCount), blasint(columns), blasint(rank), 1,
            l + firstRow * rank, blasint(rank), r, blasint(columns), 1, w, blasint(columns))
        }
      }
    }
    let rounded = sums.map { Float($0) }
    encode(rounded.span, to: format, into: &block)
  }
}

/// ΔW = scale · left · right in double precision, for f64 weights.
///
/// Shape: left `[rows, rank]`, right `[rank, columns]`, row-major. Precision: f64 throughout.
public struct LowRankUpdate64: Sendable {
  private let columns: Int
  private let rank: Int
  private let left: [Double]
  private let right: [Double]

  /// Traps if the arrays do not have the stated shapes.
  public init(left: [Double], right: [Double], rows: Int, columns: Int, rank: Int, scale: Double) {
    precondition(left.count == rows * rank, "left is not [rows, rank]")
    precondition(right.count == rank * columns, "right is not [rank, columns]")
    self.columns = columns
    self.rank = rank
    self.left = left.map { $0 * scale }
    self.right = right
  }

  /// W[firstRow...] += ΔW[firstRow...] in place, with one BLAS call (`dgemm`, beta 1).
  ///
  /// Traps on a block that is no whole number of rows or reaches past the last row.
  public func apply(toRowsFrom firstRow: Int, of block: inout MutableRawSpan) {
    let count = block.byteCount / max(1, columns * 8)
    precondition(block.byteCount == count * columns * 8, "block is not whole rows")
    precondition(firstRow >= 0 && (firstRow + count) * rank <= left.count, "block reaches past the last row")
    guard rank > 0, count > 0, columns > 0 else { return }
    // Soundness: extents were checked above.
    block.withUnsafeMutableBytes { bytes in
      left.withUnsafeBufferPointer { l in
        right.withUnsafeBufferPointer { r in
          guard let w = bytes.baseAddress, let l = l.baseAddress, let r = r.baseAddress else { return }
          cblas_dgemm(
            CblasRowMajor, CblasNoTrans, CblasNoTrans, blasint(count), blasint(columns), blasint(rank), 1,
            l + firstRow * rank, blasint(rank), r, blasint(columns), 1, w.assumingMemoryBound(to: Double.self),
            blasint(columns))
        }
      }
    }
  }
}
