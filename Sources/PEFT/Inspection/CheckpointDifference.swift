public import TensorFiles
internal import TensorMath

/// How one tensor differs between two checkpoints.
public struct TensorDifference: Sendable {
  /// What was found.
  public enum Finding: Sendable, Equatable {
    /// Only in the second.
    case added
    /// Only in the first.
    case removed
    /// Another shape or dtype.
    case retyped
    /// Equal, byte for byte.
    case identical
    /// Other values.
    case changed(largest: Double, rootMeanSquare: Double, magnitude: Double)
  }

  public let name: String
  public let finding: Finding

  /// Largest difference over the largest magnitude of the first; 0 if identical, infinite if not comparable.
  public var relative: Double {
    switch finding {
    case .identical: 0
    case .changed(let largest, _, let magnitude): magnitude > 0 ? largest / magnitude : largest
    default: .infinity
    }
  }
}

/// Two checkpoints, compared tensor by tensor in bounded memory.
public struct CheckpointDifference: Sendable {
  /// One finding a name, in the natural order of names.
  public let tensors: [TensorDifference]

  /// Reads both. Throws `.file`.
  public init(_ first: Checkpoint, _ second: Checkpoint) throws(AdapterError) {
    var tensors: [TensorDifference] = []
    for name in Set(exactly: first.names).union(Set(exactly: second.names)).map(\.text).sorted(by: naturallyPrecedes) {
      let finding: TensorDifference.Finding
      switch (first[name], second[name]) {
      case (let old?, let new?):
        finding = try asAdapterError { () throws(TensorFileError) in
          try Self.compare(
            first.shards[old.shard].file, old.entry, second.shards[new.shard].file, new.entry)
        }
      case (nil, _): finding = .added
      default: finding = .removed
      }
      tensors.append(TensorDifference(name: name, finding: finding))
    }
    self.tensors = tensors
  }

  private static func compare(
    _ firstFile: OpenFile, _ first: TensorEntry, _ secondFile: OpenFile, _ second: TensorEntry
  ) throws(TensorFileError) -> TensorDifference.Finding {
    guard first.shape == second.shape, first.dtype == second.dtype else { return .retyped }
    let step = 1 << 20
    var isIdentical = true
    var (largest, squares, magnitude) = (0.0, 0.0, 0.0)
    for start in stride(from: 0, to: first.byteRange.count, by: step) {
      let count = min(step, first.byteRange.count - start)
      let a = try firstFile.bytes(first.byteRange.lowerBound + start..<first.byteRange.lowerBound + start + count)
      let b = try secondFile.bytes(
        second.byteRange.lowerBound + start..<second.byteRange.lowerBound + start + count)
      isIdentical = isIdentical && a == b
      guard let format = first.dtype.format else { continue }
      let (x, y) = (values(a, format), values(b, format))
      for index in x.indices {
        let difference = abs(x[index] - y[index])
        // Two NaNs count as equal; a NaN on one side only as an infinite difference.
        if difference.isNaN && !(x[index].isNaN && y[index].isNaN) && x[index] != y[index] { largest = .infinity }
        if difference > largest { largest = difference }
        if !difference.isNaN { squares += difference * difference }
        magnitude = max(magnitude, abs(x[index]))
      }
    }
    if isIdentical { return .identical }
    guard first.dtype.format != nil else {
      return .changed(largest: .infinity, rootMeanSquare: .infinity, magnitude: 0)
    }
    return .changed(
      largest: largest, rootMeanSquare: (squares / Double(max(1, first.elementCount))).squareRoot(),
      magnitude: magnitude)
  }

  private static func values(_ bytes: [UInt8], _ format: FloatFormat) -> [Double] {
    var values = [Double](repeating: 0, count: bytes.count / format.byteCount)
    var span = values.mutableSpan
    decode(bytes.span.bytes, from: format, into: &span)
    return values
  }
}
