internal import TensorFiles
internal import TensorMath

/// Reads stretches of one tensor of a recipe's model into a block.
///
/// Memory: a stretch; of a tensor that an adapter changes, up to 16 MiB, or all of it in f32 where its rule needs the whole.
struct RecipeTensorReader {
  private let source: RecipeModel.Source
  private var bytes: [UInt8] = []
  /// The pieces of the merge of a changed tensor, with the element that each begins with.
  private let pieces: [(first: Int, work: MergeWork)]
  private let offset: Int
  private var scratch = MergeScratch(allowsNonFinite: true)
  /// The piece that was computed last.
  private var held: (first: Int, sink: MemorySink)?

  init(_ source: RecipeModel.Source) throws(TensorFileError) {
    self.source = source
    guard case .merged(let output) = source else {
      (pieces, offset) = ([], 0)
      return
    }
    // In f32 nothing is rounded before the mix.
    let (works, byteOffset) = try MergeWork.pieces(output.converted(to: .f32))
    offset = byteOffset
    var first = 0
    pieces = works.map { work in
      defer { first += work.byteCount / 4 }
      return (first, work)
    }
  }

  /// Fills a slot with those elements. Throws `.system`, `.shortRead`.
  mutating func read(_ elements: Range<Int>, into block: inout MixingBlock, slot: Int) throws(TensorFileError) {
    switch source {
    case .stored(let file, let entry):
      guard let format = entry.dtype.format else { return }
      let start = entry.byteRange.lowerBound
      try file.read(
        start + elements.lowerBound * format.byteCount..<start + elements.upperBound * format.byteCount, into: &bytes)
      block.set(slot, bytes.span.bytes, format)
    case .merged:
      var values: [UInt8] = []
      values.reserveCapacity(elements.count * 4)
      for (first, work) in pieces where first < elements.upperBound && first + work.byteCount / 4 > elements.lowerBound
      {
        let sink = try computed(first, work)
        let part = elements.clamped(to: first..<first + work.byteCount / 4)
        values += sink.bytes[(part.lowerBound - first) * 4..<(part.upperBound - first) * 4]
      }
      block.set(slot, values.span.bytes, .f32)
    }
  }

  private mutating func computed(_ first: Int, _ work: MergeWork) throws(TensorFileError) -> MemorySink {
    if let held, held.first == first { return held.sink }
    let sink = MemorySink(byteCount: work.byteCount)
    sink.offset = offset + first * 4
    try work.perform(into: sink, scratch: &scratch)
    held = (first, sink)
    return sink
  }
}
