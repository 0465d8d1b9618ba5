public import TensorFiles
public import TensorMath

/// How a method changes one weight, seen as a matrix `[out, in]`; a kernel's extents count as inputs.
public protocol WeightRule: Sendable {
  /// True if rows of the result depend on other rows of the weight.
  var needsWholeWeight: Bool { get }
  /// True if the rule adds a ΔW that does not depend on the weight, so that it can have a weight of its own.
  var isAdditive: Bool { get }
  /// What PEFT's own way of computing the change is like.
  var arithmeticOfPEFT: PEFTArithmetic { get }
  /// The same of the bias.
  var biasArithmeticOfPEFT: PEFTArithmetic { get }
  /// False if the weight stays as it is.
  var changesWeight: Bool { get }
  /// True if the rule changes the layer's bias, where there is one.
  var changesBias: Bool { get }
  /// What the rule adds to the layer's bias, one an output. The layer must have one then.
  var addedBias: StoredTensor? { get }

  /// Reads the adapter's tensors and returns what changes rows of the weight in place.
  ///
  /// - Parameter scale: multiplies ΔW of an additive rule; 1 for all others.
  func makeChange<Scalar: FactorElement>(scale: Scalar) throws(TensorFileError) -> RowChange<Scalar>

  /// The new bias. Only where `changesBias` is true.
  /// - Parameter weight: reads the weight before the change.
  func changedBias(
    _ bias: [Double], weight: () throws(TensorFileError) -> Matrix<Double>
  ) throws(TensorFileError) -> [Double]
}

/// How PEFT computes a change, beside what it rounds to the weight's dtype element by element.
public enum PEFTArithmetic: Sendable {
  /// Nothing more.
  case rounded
  /// A decomposition of the weight in f32.
  case decomposed
  /// Products of factors that have been rounded to the weight's dtype.
  case roundedFactors
}

/// Changes the rows of a range in place; the block holds just these rows.
public typealias RowChange<Scalar: FactorElement> = (Range<Int>, inout Matrix<Scalar>) throws(TensorFileError) -> Void

extension WeightRule {
  public var needsWholeWeight: Bool { false }
  public var isAdditive: Bool { false }
  public var arithmeticOfPEFT: PEFTArithmetic { .rounded }
  public var biasArithmeticOfPEFT: PEFTArithmetic { .rounded }
  public var changesWeight: Bool { true }
  public var changesBias: Bool { false }
  public var addedBias: StoredTensor? { nil }

  public func changedBias(
    _ bias: [Double], weight: () throws(TensorFileError) -> Matrix<Double>
  ) throws(TensorFileError) -> [Double] { bias }
}

/// A rule that adds a product of two factors: ΔW = scale · left · right.
public protocol LowRankRule: WeightRule {
  /// left `[out, r]` and right `[r, in]`, in the precision asked for.
  func factors<Scalar: FactorElement>(
    _ type: Scalar.Type
  ) throws(TensorFileError) -> (left: Matrix<Scalar>, right: Matrix<Scalar>)
}

extension LowRankRule {
  public var isAdditive: Bool { true }

  public func makeChange<Scalar: FactorElement>(scale: Scalar) throws(TensorFileError) -> RowChange<Scalar> {
    let (left, right) = try factors(Scalar.self)
    return { rows, block in block.add(left.rows(rows), times: right, scale: scale) }
  }
}

/// left · right, of which some rows are wanted at a time.
struct RowProduct<Scalar: FactorElement> {
  private let left: Matrix<Scalar>
  private let right: Matrix<Scalar>
  /// The own kernel, which is faster than BLAS for few ranks in f32.
  private let kernel: LowRankUpdate?

  init(_ left: Matrix<Scalar>, _ right: Matrix<Scalar>) {
    self.left = left
    self.right = right
    kernel =
      if let left = left as? Matrix<Float>, let right = right as? Matrix<Float>, right.rows < LowRankUpdate.wideRank {
        LowRankUpdate(
          left: left.values, right: right.values, rows: left.rows, columns: right.columns, rank: right.rows, scale: 1)
      } else { nil }
  }

  /// Some rows of the product.
  func rows(_ range: Range<Int>) -> Matrix<Scalar> {
    guard let kernel, range.lowerBound % LowRankUpdate.rowGroup == 0 else { return left.rows(range).times(right) }
    var values = [Scalar](repeating: 0, count: range.count * right.columns)
    var span = values.mutableSpan
    var bytes = span.mutableBytes
    kernel.apply(toRowsFrom: range.lowerBound, of: &bytes, format: .f32)
    return Matrix(rows: range.count, columns: right.columns, values: values)
  }
}

/// A tensor of an adapter's file, read on demand.
public struct StoredTensor: Sendable {
  let file: OpenFile
  public let entry: TensorEntry

  public var shape: [Int] { entry.shape }

  /// All values in their order.
  public func values<Scalar: FactorElement>(_ type: Scalar.Type = Scalar.self) throws(TensorFileError) -> [Scalar] {
    guard let format = entry.dtype.format else { return [] }
    return Scalar.decoded(try file.bytes(entry.byteRange), format)
  }

  /// The values as a matrix of that many rows. Traps if they do not fill it.
  public func matrix<Scalar: FactorElement>(
    rows: Int, _ type: Scalar.Type = Scalar.self
  ) throws(TensorFileError) -> Matrix<Scalar> {
    let values = try values(type)
    return Matrix(
      rows: rows, columns: rows == 0 ? shape.dropFirst().reduce(1, *) : values.count / rows, values: values)
  }

  /// The tensor's last extents as a matrix: `[a, b, c]` is `[a·b, c]`.
  public func matrix<Scalar: FactorElement>(_ type: Scalar.Type = Scalar.self) throws(TensorFileError) -> Matrix<Scalar>
  {
    Matrix(rows: shape.dropLast().reduce(1, *), columns: shape.last ?? 1, values: try values(type))
  }

  /// Whole numbers of any integer dtype; nil if one does not lie in `range`.
  public func integers(in range: Range<Int>) throws(TensorFileError) -> [Int]? {
    let bytes = try file.bytes(entry.byteRange)
    let width = entry.dtype.bitCount / 8
    let isSigned = [.i8, .i16, .i32, .i64].contains(entry.dtype)
    var result: [Int] = []
    result.reserveCapacity(entry.elementCount)
    for start in stride(from: 0, to: bytes.count, by: width) {
      var word = UInt64(0)
      for index in 0..<width { word |= UInt64(bytes[start + index]) << (8 * index) }
      let shift = 64 - 8 * width
      let value = isSigned ? Int(Int64(bitPattern: word << shift) >> shift) : Int(truncatingIfNeeded: word)
      guard range.contains(value) else { return nil }
      result.append(value)
    }
    return result
  }
}
