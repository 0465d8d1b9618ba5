internal import TensorFiles
internal import TensorMath

/// The factors of the best approximation of a change that is long to compute, in a file without a name until all ranks are known.
struct KeptFactors: Sendable {
  private let file: OpenFile
  private let byteOffset: Int
  private let output: Int
  private let input: Int
  let rank: Int
  /// Of the change that they approximate.
  let singularValues: [Double]

  /// ‖ΔW‖².
  var squares: Double { singularValues.reduce(0) { $0 + $1 * $1 } }
  /// ‖B·A - ΔW‖².
  var lostSquares: Double { singularValues.dropFirst(rank).reduce(0) { $0 + $1 * $1 } }

  /// B and A, with zeros for the ranks beyond their own. Throws `.file`.
  func factors(rank wanted: Int) throws(AdapterError) -> (b: Matrix<Double>, a: Matrix<Double>) {
    let counts = (output * rank, rank * input)
    let bytes = try asAdapterError { () throws(TensorFileError) in
      try file.bytes(byteOffset..<byteOffset + 8 * (counts.0 + counts.1))
    }
    let values = Double.decoded(bytes, .f64)
    let b = Matrix(rows: output, columns: rank, values: Array(values.prefix(counts.0)))
    let a = Matrix(rows: rank, columns: input, values: Array(values.dropFirst(counts.0)))
    guard wanted > rank else { return (b, a) }
    return (
      .sideBySide([b, Matrix(rows: output, columns: wanted - rank)], rows: output),
      .stacked([a, Matrix(rows: wanted - rank, columns: input)], columns: input)
    )
  }

  /// Where one task keeps factors.
  struct Store: Sendable {
    private var file: OpenFile?
    private var end = 0

    /// Throws `.file`.
    mutating func keep(
      _ b: Matrix<Double>, _ a: Matrix<Double>, singularValues: [Double]
    ) throws(AdapterError) -> KeptFactors {
      do throws(TensorFileError) {
        let file: OpenFile
        if let known = self.file { file = known } else { file = try .temporary(named: "the factors that are kept") }
        self.file = file
        let start = end
        try file.write(b.values.span.bytes, at: start)
        try file.write(a.values.span.bytes, at: start + 8 * b.values.count)
        end += 8 * (b.values.count + a.values.count)
        return KeptFactors(
          file: file, byteOffset: start, output: b.rows, input: a.columns, rank: a.rows, singularValues: singularValues)
      } catch {
        throw .file(error)
      }
    }
  }
}
