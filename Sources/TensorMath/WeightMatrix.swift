internal import CKernels

/// A weight as it is stored, f32, f16 or bf16, which products read in place.
///
/// Sendable: the memory is never written to, and `owner` keeps it alive.
public struct WeightMatrix: @unchecked Sendable {
  public let rows: Int
  public let columns: Int
  public let format: FloatFormat
  private let owner: AnyObject
  private let pointer: UnsafeRawPointer

  /// A view of memory that `owner` keeps. Traps on f64, which the kernels do not read.
  ///
  /// Soundness is the caller's: `pointer` leads to `rows × columns` elements, which stay as they are.
  public init(pointer: UnsafeRawPointer, rows: Int, columns: Int, format: FloatFormat, owner: AnyObject) {
    precondition(format != .f64, "f64 weights are narrowed first")
    self.rows = rows
    self.columns = columns
    self.format = format
    self.owner = owner
    self.pointer = pointer
  }

  /// A copy of values, in f32.
  public init(_ values: [Float], rows: Int, columns: Int) {
    precondition(values.count == rows * columns, "values are not [rows, columns]")
    let storage = values.withUnsafeBytes { ByteStorage($0) }
    self.init(pointer: storage.pointer, rows: rows, columns: columns, format: .f32, owner: storage)
  }

  /// A copy of stored values, row after row. Traps if there are not as many bytes as that takes, and on f64.
  public init(bytes: [UInt8], rows: Int, columns: Int, format: FloatFormat) {
    precondition(bytes.count == rows * columns * format.byteCount, "bytes are not [rows, columns]")
    let storage = bytes.withUnsafeBytes { ByteStorage($0) }
    self.init(pointer: storage.pointer, rows: rows, columns: columns, format: format, owner: storage)
  }

  /// One row in f32. Traps if there is no such row.
  public func row(_ index: Int) -> [Float] {
    precondition(index >= 0 && index < rows, "no such row")
    return floats(index * columns..<(index + 1) * columns)
  }

  /// All values in f32, row after row.
  public var values: [Float] { floats(0..<rows * columns) }

  private func floats(_ range: Range<Int>) -> [Float] {
    var result = [Float](repeating: 0, count: range.count)
    let bytes = UnsafeRawBufferPointer(
      start: pointer + range.lowerBound * format.byteCount, count: range.count * format.byteCount)
    var span = result.mutableSpan
    decode(bytes.bytes, from: format, into: &span)
    return result
  }

  var kernelFormat: Int32 { Int32(format == .f32 ? kernels_f32 : format == .f16 ? kernels_f16 : kernels_bf16) }
  var start: UnsafeRawPointer { pointer }

  /// x · Wᵀ for W `[out, in]`, or x · W for W `[in, out]` if `transposed`. x is `[tokens, in]`. Traps if the extents do not fit.
  ///
  /// Precision: sums in f32. With `roundsInputs`, x is rounded to bf16 beside a W `[out, in]` of bf16 where there are more than four
  /// tokens and the processor multiplies bf16.
  public func project(_ x: Matrix<Float>, transposed: Bool = false, roundsInputs: Bool = false) -> Matrix<Float> {
    let (out, input) = transposed ? (columns, rows) : (rows, columns)
    precondition(x.columns == input, "inputs do not fit")
    let count = x.rows * out
    // Soundness: the extents were checked, and the kernel writes every element.
    let values = [Float](unsafeUninitializedCapacity: count) { to, initialized in
      x.values.withUnsafeBufferPointer { from in
        guard count > 0, let from = from.baseAddress, let to = to.baseAddress else { return }
        kernels_project(kernelFormat, pointer, out, input, transposed ? 1 : 0, roundsInputs ? 0 : 1, from, x.rows, to)
      }
      initialized = count
    }
    return Matrix(rows: x.rows, columns: out, values: values)
  }
}

/// Bytes at an address of their own.
private final class ByteStorage {
  let pointer: UnsafeRawPointer

  init(_ bytes: UnsafeRawBufferPointer) {
    let memory = UnsafeMutableRawPointer.allocate(byteCount: max(1, bytes.count), alignment: 64)
    if let base = bytes.baseAddress { memory.copyMemory(from: base, byteCount: bytes.count) }
    pointer = UnsafeRawPointer(memory)
  }

  deinit { pointer.deallocate() }
}
