/// One tensor of a file: what it is called, and where its bytes lie. A plain value; it reads nothing.
public struct TensorEntry: Sendable, Hashable {
  /// The key in the header.
  @ExactName public var name: String
  /// The element type.
  public let dtype: DType
  /// Extents, row-major; empty for a scalar.
  public let shape: [Int]
  /// The bytes in the file, counted from the file's beginning.
  public let byteRange: Range<Int>

  /// Number of elements. Cannot overflow: the header's check multiplied it out.
  public var elementCount: Int { shape.reduce(1, *) }

  /// Traps if the range does not hold exactly the shape's elements.
  public init(name: String, dtype: DType, shape: [Int], byteRange: Range<Int>) {
    precondition(
      shape.reduce(1, *) * dtype.bitCount == byteRange.count * 8, "byte range and shape disagree for \(name)")
    _name = ExactName(name)
    self.dtype = dtype
    self.shape = shape
    self.byteRange = byteRange
  }
}
