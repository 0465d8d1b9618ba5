internal import CKernels

/// What is unusual in stored values.
public struct ValueScan: Sendable, Equatable {
  /// Infinities and NaNs.
  public var nonFiniteCount = 0
  /// True until a value other than zero is seen.
  public var isZero = true

  public init() {}

  /// Looks at more values. Cost: one pass. Traps if the bytes are no whole number of elements.
  public mutating func add(_ bytes: RawSpan, _ format: FloatFormat) {
    precondition(bytes.byteCount % format.byteCount == 0, "bytes are not whole elements")
    // Soundness: each buffer covers the span's bytes exactly; loads are of trivial types.
    bytes.withUnsafeBytes { raw in
      switch format {
      case .bf16: scan(raw, UInt16.self, exponent: 0x7F80)
      case .f16: scan(raw, UInt16.self, exponent: 0x7C00)
      case .f32: scan(raw, UInt32.self, exponent: 0x7F80_0000)
      case .f64: scan(raw, UInt64.self, exponent: 0x7FF0_0000_0000_0000)
      }
    }
  }

  private mutating func scan<Word: FixedWidthInteger & BitwiseCopyable>(
    _ raw: UnsafeRawBufferPointer, _ type: Word.Type, exponent: Word
  ) {
    var (count, union) = (0, Word(0))
    for word in raw.bindMemory(to: type) {
      count += word & exponent == exponent ? 1 : 0
      // Without the sign: negative zero is zero.
      union |= word << 1
    }
    nonFiniteCount += count
    isZero = isZero && union == 0
  }
}

/// True if no stored value is an infinity or a NaN.
///
/// Cost: one pass, at the speed of the cache. Traps if the bytes are no whole number of elements.
public func allFinite(_ bytes: RawSpan, _ format: FloatFormat) -> Bool {
  precondition(bytes.byteCount % format.byteCount == 0, "bytes are not whole elements")
  let count = bytes.byteCount / format.byteCount
  // Soundness: the buffer holds `count` elements of the format's width; the kernels only read.
  return bytes.withUnsafeBytes { raw in
    guard let base = raw.baseAddress else { return true }
    switch format {
    case .bf16: return kernels_all_finite_16(base.assumingMemoryBound(to: UInt16.self), count, 0x7F80) != 0
    case .f16: return kernels_all_finite_16(base.assumingMemoryBound(to: UInt16.self), count, 0x7C00) != 0
    case .f32: return kernels_all_finite_32(base.assumingMemoryBound(to: UInt32.self), count, 0x7F80_0000) != 0
    case .f64:
      return kernels_all_finite_64(base.assumingMemoryBound(to: UInt64.self), count, 0x7FF0_0000_0000_0000) != 0
    }
  }
}
