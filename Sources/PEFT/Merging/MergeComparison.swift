internal import Glibc
internal import TensorFiles
internal import TensorMath

/// A laid-out file of a merge, and where its tensors lie in the model that is compared with it.
struct MergeComparison: Sendable {
  /// One tensor.
  struct Part: Sendable {
    let entry: TensorEntry
    let place: Checkpoint.Location?
    let bound: ElementBound
    /// The weight before the merge.
    let base: StoredTensor?
    let isMerged: Bool
  }

  /// In the order of their bytes.
  let parts: [Part]
  let model: Checkpoint
}

/// How far an element of a merge may be from what it should be.
///
/// Strict: one unit in the last place of the half formats, of the larger of the two values; 1e-6 of the tensor's largest
/// magnitude in f32 and f64.
///
/// As PEFT, in the half formats: one unit more of the weight before the merge and of its change, because PEFT rounds the
/// change before it adds it (`safe_merge`, embeddings, C3A, DELORA, FROD, PEANUT, SUPERTUNING), works in the weight's dtype
/// (ROAD), or rounds the weight when it takes a component out (PiSSA, OLoRA, KaSA). Where the merge decomposes the weight,
/// PEFT does so in f32: 1e-4 of the largest magnitude, and in the half formats one unit of it. Other rules than a LoRA's it
/// computes in f32 too, some in many steps (HRA's reflections, Cayley's series): 1e-5. Where PEFT multiplies factors
/// that it has rounded (FROD, RANDLORA, UNILORA, the bias of GLORA): four units of it in the half formats. It merges several
/// adapters one after the other and rounds each time: one unit of it for each after the first, in the half formats.
/// Source: peft/tuners/*/layer.py `merge`, `get_delta_weight`.
struct ElementBound: Sendable {
  private let dtype: DType
  private let rounding: MergeVerifier.Rounding
  private let arithmetic: [PEFTArithmetic]
  /// How many adapters change the tensor.
  private let adapterCount: Int
  /// True for a change by another rule than a LoRA's.
  private let isRule: Bool

  init(_ output: MatchedTensor, _ rounding: MergeVerifier.Rounding) {
    dtype = output.item.dtype
    self.rounding = rounding
    isRule = if case .rules = output.change { true } else { false }
    arithmetic =
      switch output.change {
      case .sums(let updates): updates.contains { $0.removal != nil } ? [.decomposed] : []
      case .rules(let change): change.rules.map(\.rule.arithmeticOfPEFT)
      case .biasRule(let change): [change.rule.biasArithmeticOfPEFT]
      default: []
      }
    adapterCount =
      switch output.change {
      case .sums(let updates): updates.map { Set($0.terms.map(\.owner.adapter)).count }.max() ?? 1
      case .rules(let change): Set(change.owners.map(\.adapter)).count
      case .biases(let addends): addends.count
      default: 1
      }
  }

  /// What each element may differ by.
  func allowed(_ expected: Double, _ found: Double, before: Double?) -> Double {
    guard isHalf else { return 0 }
    let unit = unit(max(abs(expected), abs(found)))
    guard rounding == .peft, let before else { return unit }
    return unit + self.unit(abs(before)) + self.unit(abs(expected - before))
  }

  /// What the greatest difference beyond that may be, as a share of the tensor's largest magnitude.
  var share: Double {
    guard rounding == .peft else { return isHalf ? 0 : 1e-6 }
    let isDecomposed = arithmetic.contains(.decomposed)
    guard isHalf else { return isDecomposed ? 1e-4 : isRule ? 1e-5 : 1e-6 }
    let units = arithmetic.contains(.roundedFactors) ? 4 : isDecomposed ? 1 : 0
    return Double(units + max(0, adapterCount - 1)) * unit(1)
  }

  private var isHalf: Bool { dtype == .bf16 || dtype == .f16 }

  /// The spacing of the dtype's values at a magnitude.
  func unit(_ magnitude: Double) -> Double {
    let (fraction, least): (Int, Int) =
      switch dtype {
      case .bf16: (7, -126)
      case .f16: (10, -14)
      case .f32: (23, -126)
      default: (52, -1022)
      }
    let exponent = magnitude == 0 || !magnitude.isFinite ? least : max(Int(magnitude.exponent), least)
    return Double(sign: .plus, exponent: exponent - fraction, significand: 1)
  }
}

/// What has been seen of one tensor.
struct MergeTally: Sendable {
  var isIdentical = true
  /// False if an element of a merged tensor is an infinity or a NaN.
  var isFinite = true
  var largestDifference = 0.0
  var largestMagnitude = 0.0
  /// Largest difference in units in the last place, of the larger value.
  var largestUnits = 0.0
  /// The most that an element differs beyond what it may.
  var excess = 0.0

  func joined(with other: MergeTally) -> MergeTally {
    MergeTally(
      isIdentical: isIdentical && other.isIdentical, isFinite: isFinite && other.isFinite,
      largestDifference: max(largestDifference, other.largestDifference),
      largestMagnitude: max(largestMagnitude, other.largestMagnitude),
      largestUnits: max(largestUnits, other.largestUnits), excess: max(excess, other.excess))
  }

  func isWithin(_ bound: ElementBound) -> Bool { excess <= bound.share * largestMagnitude }

  /// Looks at one element.
  mutating func add(_ expected: Double, _ found: Double, before: Double?, _ bound: ElementBound) {
    if expected.isFinite { largestMagnitude = max(largestMagnitude, abs(expected)) }
    if expected == found || (expected.isNaN && found.isNaN) { return }
    let difference = abs(expected - found)
    guard difference.isFinite else {
      (largestDifference, largestUnits, excess) = (.infinity, .infinity, .infinity)
      return
    }
    largestDifference = max(largestDifference, difference)
    largestUnits = max(largestUnits, difference / bound.unit(max(abs(expected), abs(found))))
    let before = before.flatMap { $0.isFinite ? $0 : nil }
    excess = max(excess, difference - bound.allowed(expected, found, before: before))
  }
}

/// Takes what a merge would write and compares it with the model. One task's own; not Sendable.
final class ComparingSink: TensorSink {
  private let comparison: MergeComparison
  var tallies: [ExactName: MergeTally] = [:]
  /// What the model holds; kept, since a fresh buffer for every step costs as much as the comparison.
  private var found: [UInt8] = []
  private var source: [UInt8] = []

  init(_ comparison: MergeComparison) { self.comparison = comparison }

  func copy(_ range: Range<Int>, from file: OpenFile, to byteOffset: Int) throws(TensorFileError) {
    let step = 1 << 18
    var bytes: [UInt8] = []
    swap(&bytes, &source)
    defer { swap(&bytes, &source) }
    for start in stride(from: 0, to: range.count, by: step) {
      let end = min(start + step, range.count)
      try file.read(range.lowerBound + start..<range.lowerBound + end, into: &bytes)
      try write(bytes.span.bytes, at: byteOffset + start)
    }
  }

  /// The bytes may cover several tensors: neighbours are copied together.
  func write(_ source: RawSpan, at byteOffset: Int) throws(TensorFileError) {
    let parts = comparison.parts
    var index = parts.partitioningIndex { $0.entry.byteRange.upperBound > byteOffset }
    var position = byteOffset
    let end = byteOffset + source.byteCount
    while position < end && index < parts.count {
      let entry = parts[index].entry
      let upper = min(end, entry.byteRange.upperBound)
      if let place = parts[index].place, upper > position {
        let offset = position - entry.byteRange.lowerBound
        let start = place.entry.byteRange.lowerBound + offset
        try comparison.model.shards[place.shard].file.read(start..<start + upper - position, into: &found)
        try compare(source.extracting(position - byteOffset..<upper - byteOffset), at: offset, parts[index])
      }
      position = max(position, upper)
      index += 1
    }
  }

  /// Compares with as many bytes of `found`; `offset` is where they begin in the tensor.
  private func compare(_ expected: RawSpan, at offset: Int, _ part: MergeComparison.Part) throws(TensorFileError) {
    var tally = tallies[part.entry.name] ?? MergeTally()
    let count = expected.byteCount
    let isSame = expected.withUnsafeBytes { a in
      found.withUnsafeBytes { b in a.baseAddress.map { memcmp($0, b.baseAddress!, count) == 0 } ?? true }
    }
    let format = part.entry.dtype.format
    if part.isMerged, let format, !allFinite(expected, format) { tally.isFinite = false }
    if !isSame {
      tally.isIdentical = false
      if let format {
        let before = try weight(part, offset / format.byteCount, count / format.byteCount)
        let expected = Double.decoded(expected.withUnsafeBytes { Array($0) }, format)
        for (index, (x, y)) in zip(expected, Double.decoded(found, format)).enumerated() {
          tally.add(x, y, before: before?[index], part.bound)
        }
      } else {
        (tally.largestDifference, tally.excess) = (.infinity, .infinity)
      }
    }
    tallies[part.entry.name] = tally
  }

  /// Elements of the weight before the merge.
  private func weight(_ part: MergeComparison.Part, _ first: Int, _ count: Int) throws(TensorFileError) -> [Double]? {
    guard let base = part.base, let format = base.entry.dtype.format else { return nil }
    let start = base.entry.byteRange.lowerBound + first * format.byteCount
    return Double.decoded(try base.file.bytes(start..<start + count * format.byteCount), format)
  }
}

extension Array {
  /// The first index whose element satisfies a predicate that is false before it and true from it on.
  fileprivate func partitioningIndex(_ predicate: (Element) -> Bool) -> Int {
    var (low, high) = (0, count)
    while low < high {
      let middle = (low + high) / 2
      if predicate(self[middle]) { high = middle } else { low = middle + 1 }
    }
    return low
  }
}
