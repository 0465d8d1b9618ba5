public import TensorFiles
internal import TensorMath

/// Recomputes a merge and compares it with a model that claims to be its result, in bounded memory. Writes nothing.
public struct MergeVerifier: Sendable {
  /// What was found of one tensor.
  public struct Finding: Sendable {
    /// The kinds of agreement, and of its lack.
    public enum Verdict: Sendable, Equatable {
      /// The same bytes.
      case identical
      /// Merged values within what the verifier's rounding explains.
      case withinRounding
      /// Merged values that are infinite or not a number, in a plan that does not allow them.
      case notFinite
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
    /// Largest difference in units in the last place, of the larger of the two values.
    public let largestUnits: Double

    /// True if the tensor is what the merge makes it.
    public var agrees: Bool { verdict == .identical || verdict == .withinRounding }
  }

  /// How far merged values may be from what they should be.
  public enum Rounding: Sendable, Equatable {
    /// What another order of sums explains: a neighbour for the half formats, 1e-6 of the tensor's largest magnitude for
    /// f32 and f64.
    case strict
    /// What PEFT's own way of merging explains beside: see `ElementBound`.
    case peft
  }

  public let plan: MergePlan
  public let model: Checkpoint
  public let rounding: Rounding
  public let workers: Int

  public init(_ plan: MergePlan, model: Checkpoint, rounding: Rounding = .strict, workers: Int = 2) {
    self.plan = plan
    self.model = model
    self.rounding = rounding
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
    var jobs: [WorkQueue<MergeComparison, MergeWork>.Job] = []
    var known: Set<ExactName> = []
    let shards = comparedShards()
    for shard in shards {
      var kept: [MatchedTensor] = []
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
      let layout = try SafetensorsLayout(path: shard.name, items: kept.map(\.item))
      let parts = zip(kept, layout.entries).map { output, entry in
        MergeComparison.Part(
          entry: entry, place: nameInModel(output.item.name).flatMap { model[$0] },
          bound: ElementBound(output, rounding), base: output.changesSource ? output.source : nil,
          isMerged: isMerged(output))
      }
      let comparison = MergeComparison(parts: parts, model: model)
      jobs.append(WorkQueue.Job(target: comparison, pieces: MergeWork.pieces(kept, layout: layout)))
    }
    let tallies = try await tally(WorkQueue(jobs))
    for output in shards.flatMap(\.outputs) {
      if let tally = tallies[output.item.name] { findings.append(finding(output, tally)) }
    }
    findings += model.names.filter { !known.contains($0) }.map {
      Finding(
        name: $0, verdict: .unexpected, isMerged: false, largestDifference: .infinity, largestUnits: .infinity)
    }
    return findings.sorted { naturallyPrecedes($0.name, $1.name) }
  }

  /// What was seen, by the names of the plan's tensors.
  private func tally(_ queue: WorkQueue<MergeComparison, MergeWork>) async throws -> [ExactName: MergeTally] {
    let blas = SingleThreadedBLAS()
    defer { blas.end() }
    return try await withThrowingTaskGroup(of: [ExactName: MergeTally].self) { group in
      for _ in 0..<workers {
        group.addTask {
          var scratch = MergeScratch(allowsNonFinite: true)
          var tallies: [ExactName: MergeTally] = [:]
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
      var all: [ExactName: MergeTally] = [:]
      for try await part in group { all.merge(part) { $0.joined(with: $1) } }
      return all
    }
  }

  /// The model's name of a tensor of the plan, with or without the model type's prefix; nil if it has none such.
  func nameInModel(_ name: String) -> String? {
    if model[name] != nil { return name }
    guard let prefix = plan.base.family?.prefix else { return nil }
    let added = "\(prefix).\(name)"
    if model[added] != nil { return added }
    let removed = name.hasPrefix("\(prefix).") ? String(name.dropFirst(prefix.count + 1)) : name
    return model[removed] != nil ? removed : nil
  }

  private func finding(_ output: MatchedTensor, _ verdict: Finding.Verdict) -> Finding {
    Finding(
      name: output.item.name, verdict: verdict, isMerged: isMerged(output), largestDifference: .infinity,
      largestUnits: .infinity)
  }

  private func finding(_ output: MatchedTensor, _ tally: MergeTally) -> Finding {
    let isMerged = isMerged(output)
    let verdict: Finding.Verdict =
      if isMerged, !tally.isFinite, !plan.options.allowNonFinite {
        .notFinite
      } else if tally.isIdentical {
        .identical
      } else {
        isMerged && tally.isWithin(ElementBound(output, rounding)) ? .withinRounding : .different
      }
    return Finding(
      name: output.item.name, verdict: verdict, isMerged: isMerged, largestDifference: tally.largestDifference,
      largestUnits: tally.largestUnits)
  }

  func isMerged(_ output: MatchedTensor) -> Bool { !output.change.isUnchanged }
}
