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

  /// Parts between the dots of a name. Modules of models lie in a dozen others; what lies deeper than this would only make
  /// all that looks at the modules around a tensor slow.
  package static let partLimit = 128

  /// Bytes of a tensor: no disk holds more, and thousands of tensors can be added up.
  package static let byteLimit = 1 << 50

  /// Elements of a shape that a file states; nil if they cannot be counted, or if a tensor without elements has such extents
  /// that any product of some of them could not: no other shape leaves a reader.
  ///
  /// The extents of a tensor with elements are bounded by the file's bytes. Those of an empty one are not, so that its greatest
  /// product is bounded here, by 2^24.
  package static func elementCount(_ shape: [Int]) -> Int? {
    guard let product = checkedProduct(shape.lazy.filter { $0 != 0 }) else { return nil }
    guard shape.contains(0) else { return product }
    return product <= 1 << 24 ? 0 : nil
  }

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
