package import TensorFiles
package import TensorMath

extension DType {
  /// The kernels' format of a computable dtype; nil for the others.
  package var format: FloatFormat? {
    switch self {
    case .bf16: .bf16
    case .f16: .f16
    case .f32: .f32
    case .f64: .f64
    default: nil
    }
  }
}

/// Where the bytes of a merge go: a file, or a comparison with one.
protocol TensorSink {
  func copy(_ range: Range<Int>, from source: OpenFile, to byteOffset: Int) throws(TensorFileError)
  func write(_ source: RawSpan, at byteOffset: Int) throws(TensorFileError)
}

extension OpenFile: TensorSink {}

/// The pieces of work of one output file. Each writes its own bytes, so any task may do any piece.
enum MergeWork: Sendable {
  /// Bytes taken over as they are, and where the first goes.
  case copy(source: OpenFile, range: Range<Int>, target: Int)
  /// Part of a tensor, computed.
  case compute(TensorPiece)

  /// Bytes of a weight that are held and written at once: half a second-level cache.
  static let blockBytes = 256 << 10
  /// Bytes in a piece: large enough that reading the factors again costs nothing, small enough to share out.
  static let pieceBytes = 16 << 20

  /// Bytes that the piece writes.
  var byteCount: Int {
    switch self {
    case .copy(_, let range, _): range.count
    case .compute(let piece): piece.byteCount
    }
  }

  /// The pieces of a file, in the order of their bytes. Neighbouring copies from one file are joined.
  static func pieces(_ tensors: [MatchedTensor], layout: SafetensorsLayout) -> [MergeWork] {
    var pieces: [MergeWork] = []
    var pending: (source: OpenFile, range: Range<Int>, target: Int)?
    func flush() {
      guard let run = pending else { return }
      pending = nil
      pieces += copies(run.range, of: run.source, to: run.target)
    }
    for (tensor, placed) in zip(tensors, layout.entries) {
      let target = placed.byteRange.lowerBound
      guard tensor.change.isUnchanged else {
        flush()
        pieces += TensorCutter.pieces(of: tensor, to: target)
        continue
      }
      let (file, range) = (tensor.source.file, tensor.source.entry.byteRange)
      if let run = pending, run.source === file, run.range.upperBound == range.lowerBound {
        pending?.range = run.range.lowerBound..<range.upperBound
      } else {
        flush()
        pending = (file, range, target)
      }
    }
    flush()
    return pieces
  }

  /// The pieces of one tensor that is written alone, and where its first byte goes.
  static func pieces(
    _ tensor: MatchedTensor
  ) throws(TensorFileError) -> (pieces: [MergeWork], byteOffset: Int) {
    let layout = try SafetensorsLayout(path: "", items: [tensor.item])
    return (pieces([tensor], layout: layout), layout.header.count)
  }

  /// Copies of at most `pieceBytes` each.
  static func copies(_ range: Range<Int>, of source: OpenFile, to target: Int) -> [MergeWork] {
    stride(from: range.lowerBound, to: range.upperBound, by: pieceBytes).map { start in
      .copy(
        source: source, range: start..<min(start + pieceBytes, range.upperBound),
        target: target + start - range.lowerBound)
    }
  }

  /// Rows of about `bytes`, in whole groups, as the kernels take them.
  static func rowsPerStep(bytes: Int, rowBytes: Int) -> Int {
    max(1, bytes / max(1, rowBytes) / LowRankUpdate.rowGroup) * LowRankUpdate.rowGroup
  }

  /// Does the piece, writing into `file`.
  ///
  /// Throws `.system`, `.shortRead`, what the sink throws, and `.resultNotFinite` unless the scratch's check is lenient.
  func perform(into file: some TensorSink, scratch: inout MergeScratch) throws(TensorFileError) {
    switch self {
    case .copy(let source, let range, let target): try file.copy(range, from: source, to: target)
    case .compute(let piece): try piece.perform(into: file, scratch: &scratch)
    }
  }
}
