internal import Glibc
internal import Numerics
public import TensorFiles

/// Recomputes a merge and compares it with a model that claims to be its result, in bounded memory. Writes nothing.
public struct MergeVerifier: Sendable {
  /// What was found of one tensor.
  public struct Finding: Sendable {
    /// The kinds of agreement, and of its lack.
    public enum Verdict: Sendable, Equatable {
      /// The same bytes.
      case identical
      /// Merged values within what another order of sums explains: a neighbour for the half formats, 1e-6 of the largest
      /// magnitude for f32 and f64.
      case withinRounding
      /// Merged values further apart, or a copied tensor with other bytes.
      case different
      /// Only in the plan.
      case missing
      /// Only in the model.
      case unexpected
      /// Another shape or dtype.
      case retyped
    }

    public let name: String
    public let verdict: Verdict
    /// True for a tensor that the merge changes.
    public let isMerged: Bool
    /// Largest difference of two values.
    public let largestDifference: Double

    /// True if the tensor is what the merge makes it.
    public var agrees: Bool { verdict == .identical || verdict == .withinRounding }
  }

  public let plan: MergePlan
  public let model: Checkpoint
  public let workers: Int

  public init(_ plan: MergePlan, model: Checkpoint, workers: Int = 2) {
    self.plan = plan
    self.model = model
    self.workers = max(1, workers)
  }

  /// One finding a tensor, in the natural order of names.
  ///
  /// Names of the model may have the model type's prefix where the plan's do not, or the reverse.
  /// Throws `AdapterError.file`, `CancellationError`.
  public func run() async throws -> [Finding] {
    do {
      return try await compare()
    } catch let error as TensorFileError {
      throw AdapterError.file(error)
    }
  }

  private func compare() async throws -> [Finding] {
    var findings: [Finding] = []
    var jobs: [WorkQueue<Comparison>.Job] = []
    var known: Set<ExactName> = []
    for shard in plan.shards {
      var kept: [MergePlan.Output] = []
      for output in shard.outputs {
        guard let name = nameInModel(output.item.name), let entry = model[name]?.entry else {
          findings.append(finding(output, .missing))
          continue
        }
        known.insert(name)
        guard entry.shape == output.item.shape, entry.dtype == output.item.dtype else {
          findings.append(finding(output, .retyped))
          continue
        }
        kept.append(output)
      }
      guard !kept.isEmpty else { continue }
      let reduced = MergePlan.Shard(name: shard.name, outputs: kept, metadata: shard.metadata)
      let layout = try SafetensorsLayout(path: shard.name, items: kept.map(\.item))
      let places = kept.map { nameInModel($0.item.name).flatMap { model[$0] } }
      let comparison = Comparison(entries: layout.entries, places: places, model: model)
      jobs.append(WorkQueue.Job(target: comparison, pieces: MergeWork.pieces(reduced, layout: layout)))
    }
    let tallies = try await tally(WorkQueue(jobs))
    for output in plan.shards.flatMap(\.outputs) {
      if let tally = tallies[output.item.name] { findings.append(finding(output, tally)) }
    }
    findings += model.names.filter { !known.contains($0) }.map {
      Finding(name: $0, verdict: .unexpected, isMerged: false, largestDifference: .infinity)
    }
    return findings.sorted { naturallyPrecedes($0.name, $1.name) }
  }

  private func tally(_ queue: WorkQueue<Comparison>) async throws -> [ExactName: Tally] {
    ComputeBackend.useOneThreadInsideBLAS()
    return try await withThrowingTaskGroup(of: [ExactName: Tally].self) { group in
      for _ in 0..<workers {
        group.addTask {
          var scratch = MergeScratch()
          var tallies: [ExactName: Tally] = [:]
          while let job = queue.nextJob() {
            let sink = ComparingSink(job.target)
            while let piece = job.takePiece() {
              try Task.checkCancellation()
              try piece.perform(into: sink, scratch: &scratch)
            }
            tallies.merge(sink.tallies) { $0.joined(with: $1) }
          }
          return tallies
        }
      }
      var all: [ExactName: Tally] = [:]
      for try await part in group { all.merge(part) { $0.joined(with: $1) } }
      return all
    }
  }

  private func nameInModel(_ name: String) -> String? {
    if model[name] != nil { return name }
    guard let prefix = plan.base.family?.prefix else { return nil }
    let added = "\(prefix).\(name)"
    if model[added] != nil { return added }
    let removed = name.hasPrefix("\(prefix).") ? String(name.dropFirst(prefix.count + 1)) : name
    return model[removed] != nil ? removed : nil
  }

  private func finding(_ output: MergePlan.Output, _ verdict: Finding.Verdict) -> Finding {
    Finding(name: output.item.name, verdict: verdict, isMerged: isMerged(output), largestDifference: .infinity)
  }

  private func finding(_ output: MergePlan.Output, _ tally: Tally) -> Finding {
    let isMerged = isMerged(output)
    let verdict: Finding.Verdict =
      tally.isIdentical
      ? .identical : isMerged && tally.isWithinRounding(output.item.dtype) ? .withinRounding : .different
    return Finding(
      name: output.item.name, verdict: verdict, isMerged: isMerged, largestDifference: tally.largestDifference)
  }

  private func isMerged(_ output: MergePlan.Output) -> Bool {
    if case .copy = output.source { false } else { true }
  }
}

/// Where the tensors of a laid-out file lie in the model.
private struct Comparison: Sendable {
  let entries: [TensorEntry]
  let places: [Checkpoint.Location?]
  let model: Checkpoint
}

/// What has been seen of one tensor.
private struct Tally: Sendable {
  var isIdentical = true
  var largestDifference = 0.0
  var largestMagnitude = 0.0
  /// Largest difference in units of the half format's spacing at the larger value.
  var largestUnits = 0.0

  func joined(with other: Tally) -> Tally {
    Tally(
      isIdentical: isIdentical && other.isIdentical,
      largestDifference: max(largestDifference, other.largestDifference),
      largestMagnitude: max(largestMagnitude, other.largestMagnitude),
      largestUnits: max(largestUnits, other.largestUnits))
  }

  func isWithinRounding(_ dtype: DType) -> Bool {
    switch dtype {
    case .bf16, .f16: largestUnits <= 1
    default: largestDifference <= 1e-6 * largestMagnitude
    }
  }

  mutating func add(_ x: Double, _ y: Double, _ dtype: DType) {
    if x == y || (x.isNaN && y.isNaN) { return }
    let difference = abs(x - y)
    largestDifference = difference.isNaN ? .infinity : max(largestDifference, difference)
    guard dtype == .bf16 || dtype == .f16 else { return }
    let (fraction, least) = dtype == .bf16 ? (7, -126) : (10, -14)
    let size = max(abs(x), abs(y))
    let exponent = size == 0 || !size.isFinite ? least : max(Int(size.exponent), least)
    let unit = Double(sign: .plus, exponent: exponent - fraction, significand: 1)
    largestUnits = difference.isNaN ? .infinity : max(largestUnits, difference / unit)
  }
}

/// Takes what a merge would write and compares it with the model. One task's own; not Sendable.
private final class ComparingSink: TensorSink {
  private let comparison: Comparison
  var tallies: [ExactName: Tally] = [:]
  /// What the model holds; kept, since a fresh buffer for every step costs as much as the comparison.
  private var found: [UInt8] = []
  private var source: [UInt8] = []

  init(_ comparison: Comparison) { self.comparison = comparison }

  func copy(_ range: Range<Int>, from file: File, to byteOffset: Int) throws(TensorFileError) {
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
    let entries = comparison.entries
    var index = entries.partitioningIndex { $0.byteRange.upperBound > byteOffset }
    var position = byteOffset
    let end = byteOffset + source.byteCount
    while position < end && index < entries.count {
      let entry = entries[index]
      let upper = min(end, entry.byteRange.upperBound)
      if let place = comparison.places[index], upper > position {
        let start = place.entry.byteRange.lowerBound + position - entry.byteRange.lowerBound
        try comparison.model.shards[place.shard].file.read(start..<start + upper - position, into: &found)
        compare(source.extracting(position - byteOffset..<upper - byteOffset), entry)
      }
      position = max(position, upper)
      index += 1
    }
  }

  /// Compares with as many bytes of `found`.
  private func compare(_ expected: RawSpan, _ entry: TensorEntry) {
    var tally = tallies[entry.name] ?? Tally()
    let count = expected.byteCount
    let isSame = expected.withUnsafeBytes { a in
      found.withUnsafeBytes { b in a.baseAddress.map { memcmp($0, b.baseAddress!, count) == 0 } ?? true }
    }
    if !isSame {
      tally.isIdentical = false
      if let format = entry.dtype.format {
        let expected = expected.withUnsafeBytes { Array($0) }
        for (x, y) in zip(Double.decoded(expected, format), Double.decoded(found, format)) {
          tally.add(x, y, entry.dtype)
          tally.largestMagnitude = max(tally.largestMagnitude, abs(x))
        }
      } else {
        tally.largestDifference = .infinity
      }
    }
    tallies[entry.name] = tally
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
