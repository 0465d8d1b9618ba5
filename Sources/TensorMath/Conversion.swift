internal import CKernels

/// Widens or narrows `source` to f32.
///
/// Precision: exact from bf16, f16 and f32; from f64 one rounding to nearest, ties to even.
/// Edge: a NaN stays a NaN; `source` must be aligned for its element. Traps if `source` does not hold exactly `destination.count` elements.
/// Cost: one pass.
public func decode(
  _ source: RawSpan, from format: FloatFormat, into destination: inout MutableSpan<Float>
) {
  let count = destination.count
  precondition(source.byteCount == count * format.byteCount, "decode: source and destination differ in length")
  // Soundness: both lengths were checked above, and the spans keep their memory alive during the calls.
  source.withUnsafeBytes { bytes in
    destination.withUnsafeMutableBufferPointer { floats in
      guard let from = bytes.baseAddress, let to = floats.baseAddress else { return }
      decode(from, from: format, into: to, count)
    }
  }
}

/// As `decode`, for memory that the caller knows to be long enough.
func decode(_ from: UnsafeRawPointer, from format: FloatFormat, into to: UnsafeMutablePointer<Float>, _ count: Int) {
  switch format {
  case .bf16: kernels_bf16_to_f32(from.assumingMemoryBound(to: UInt16.self), to, count)
  case .f16: kernels_f16_to_f32(from.assumingMemoryBound(to: UInt16.self), to, count)
  case .f32: to.update(from: from.assumingMemoryBound(to: Float.self), count: count)
  case .f64:
    let doubles = from.assumingMemoryBound(to: Double.self)
    for index in 0..<count { to[index] = Float(doubles[index]) }
  }
}

/// Rounds f32 values to `format`, to nearest, ties to even.
///
/// Edge: overflow becomes infinity, a NaN a quiet NaN. Traps if `destination` does not hold exactly `source.count`
/// elements. Cost: one pass.
public func encode(
  _ source: Span<Float>, to format: FloatFormat, into destination: inout MutableRawSpan
) {
  let count = source.count
  precondition(destination.byteCount == count * format.byteCount, "encode: source and destination differ in length")
  // Soundness: as in `decode`.
  source.withUnsafeBufferPointer { floats in
    destination.withUnsafeMutableBytes { bytes in
      guard let from = floats.baseAddress, let to = bytes.baseAddress else { return }
      encode(from, to: format, into: to, count)
    }
  }
}

/// As `encode`, for memory that the caller knows to be long enough.
func encode(_ from: UnsafePointer<Float>, to format: FloatFormat, into to: UnsafeMutableRawPointer, _ count: Int) {
  switch format {
  case .bf16: kernels_f32_to_bf16(from, to.assumingMemoryBound(to: UInt16.self), count)
  case .f16: kernels_f32_to_f16(from, to.assumingMemoryBound(to: UInt16.self), count)
  case .f32: to.assumingMemoryBound(to: Float.self).update(from: from, count: count)
  case .f64:
    let doubles = to.assumingMemoryBound(to: Double.self)
    for index in 0..<count { doubles[index] = Double(from[index]) }
  }
}

/// Widens `source` to f64. Exact from every format. Otherwise as the f32 form.
public func decode(
  _ source: RawSpan, from format: FloatFormat, into destination: inout MutableSpan<Double>
) {
  precondition(
    source.byteCount == destination.count * format.byteCount,
    "decode: source and destination differ in length")
  if format == .f64 {
    for index in 0..<destination.count {
      destination[index] = source.unsafeLoadUnaligned(
        fromByteOffset: index * 8, as: Double.self)
    }
    return
  }
  var floats = [Float](repeating: 0, count: destination.count)
  var span = floats.mutableSpan
  decode(source, from: format, into: &span)
  for index in 0..<destination.count { destination[index] = Double(floats[index]) }
}

/// The nearest bf16 value, ties to even. Infinities stay; NaNs stay NaNs.
public func roundedToBF16(_ value: Float) -> Float {
  kernels_bf16_to_f32_reference(kernels_f32_to_bf16_reference(value))
}
