internal import PEFT
internal import TensorFiles
internal import Training

/// `peft-tool merge BASE ADAPTER... OUT`
@Sendable func mergeCommand(_ invocation: Invocation, _ console: Console) async throws -> Int32 {
  try await merge(invocation, console, unmerges: false)
}

/// `peft-tool unmerge MERGED ADAPTER... OUT`
@Sendable func unmergeCommand(_ invocation: Invocation, _ console: Console) async throws -> Int32 {
  try await merge(invocation, console, unmerges: true)
}

/// An adapter's directory, and the weight after its last colon, if the whole is no directory.
///
/// Throws `.badWeight` for an infinity or a NaN.
func adapterInput(_ word: String) throws(UsageError) -> MergePlan.Input {
  guard FileSystem.kind(word) == nil, let colon = word.lastIndex(of: ":"),
    let weight = Double(word[word.index(after: colon)...])
  else { return MergePlan.Input(word) }
  let directory = String(word[..<colon])
  guard weight.isFinite else {
    throw .badWeight(adapter: directory, found: String(word[word.index(after: colon)...]))
  }
  return MergePlan.Input(directory, weight: weight)
}

/// The plan that the operands and options of merge, unmerge and verify describe.
func makePlan(_ invocation: Invocation, unmerges: Bool = false) throws -> MergePlan {
  var options = MergeOptions()
  options.ignoredConfigKeys = Set(invocation.all("ignore-config-key"))
  options.allowMissing = invocation.has("allow-missing")
  options.allowUntargeted = invocation.has("allow-untargeted")
  options.allowRepeated = invocation.has("allow-repeated")
  options.allowNonFinite = invocation.has("allow-non-finite")
  options.replaceOutput = invocation.has("force")
  options.durable = invocation.has("fsync")
  if let size = invocation.value("max-shard-size") {
    guard let bytes = parseBytes(size) else { throw AdapterError.shardSize(found: size) }
    options.maxShardBytes = bytes
  }
  let inputs = try invocation.operands.dropFirst().dropLast().map { try adapterInput($0) }
  let base = invocation.operands[0]
  return unmerges
    ? try MergePlan(unmerging: base, adapters: inputs, options: options)
    : try MergePlan(base: base, adapters: inputs, options: options)
}

/// `--threads`, or two.
func workerCount(_ invocation: Invocation) throws(UsageError) -> Int { try invocation.integer("threads") ?? 2 }

/// A plan's document with what carrying it out took.
func outcomeJSON(_ plan: JSONValue, seconds: Double, notFinite: [String]) -> JSONValue {
  var json = plan
  json["seconds"] = .number(seconds)
  json["peak_memory_bytes"] = .integer(peakResidentBytes)
  json["not_finite"] = .array(notFinite.map { .string($0) })
  return json
}

private func merge(_ invocation: Invocation, _ console: Console, unmerges: Bool) async throws -> Int32 {
  let started = Clock.seconds
  let workers = try workerCount(invocation)
  let output = invocation.operands[invocation.operands.count - 1]
  let ranks = console.ranks
  if !ranks.isAlone, let flag = ["part", "finish"].first(where: invocation.has) {
    throw UsageError.notForRanks(flag: flag)
  }
  let plan = try ranks.together { try makePlan(invocation, unmerges: unmerges) }
  let merger = Merger(plan, workers: workers)
  let part = invocation.value("part").flatMap { MergePart($0) }
  if invocation.has("dry-run") {
    let more = try PartPreview(part, isLast: invocation.has("finish"), merger, output)
    if part == nil, !invocation.has("finish") { try ranks.together { try merger.check(output: output) } }
    invocation.has("json")
      ? console.json(more.adding(to: planJSON(plan, workers)))
      : planLines(plan, workers, output, more).forEach(console.line)
    return 0
  }
  let bar = ProgressBar(console)
  if let part {
    let outcome = try await merger.run(part, to: output) { progress in
      bar.update(done: progress.writtenBytes, total: progress.totalBytes)
    }
    bar.finish()
    report(part, outcome, plan, seconds: Clock.seconds - started, console, asJSON: invocation.has("json"))
    return 0
  }
  let outcome =
    invocation.has("finish")
    ? try merger.finish(output)
    : try await merger.run(to: output, sharedBy: ranks) { progress in
      bar.update(done: progress.writtenBytes, total: progress.totalBytes)
    }
  bar.finish()
  let seconds = Clock.seconds - started
  if invocation.has("json") {
    console.json(outcomeJSON(planJSON(plan, workers), seconds: seconds, notFinite: outcome.nonFiniteTensors))
    return 0
  }
  console.report(accounting(plan))
  for note in plan.notes { console.note("note: \(note)") }
  if let first = outcome.nonFiniteTensors.first {
    let more = outcome.nonFiniteTensors.count - 1
    console.note(
      "note: '\(first)'\(more == 0 ? " holds" : " and \(countText(more, "more tensor")) hold") values that are infinite or "
        + "not a number")
  } else if case .lastMerge(let copies)? = plan.restoration {
    console.report(
      "each element\(copies.isEmpty ? "" : " of the other tensors") is within one unit in the last place of what it was "
        + "before the merge, counted at the larger of its merged and restored values")
  }
  let rate = Double(plan.dataBytes) / 1e9 / max(seconds, 1e-9)
  console.report(
    "wrote \(output): \(countText(plan.tensorCount, "tensor")), \(bytesText(plan.dataBytes)) in "
      + "\(fixed(seconds, 2)) s (\(fixed(rate, 2)) GB/s), peak memory \(bytesText(peakResidentBytes))")
  return 0
}

private func accounting(_ plan: MergePlan) -> String {
  var parts = ["\(plan.mergedCount) of \(plan.moduleCount) adapter modules matched"]
  if plan.replacedCount > 0 { parts.append("\(countText(plan.replacedCount, "tensor")) replaced") }
  if plan.addedCount > 0 { parts.append("\(countText(plan.addedCount, "tensor")) added") }
  return parts.joined(separator: ", ")
}

private func planLines(_ plan: MergePlan, _ workers: Int, _ output: String, _ more: PartPreview) -> [String] {
  let rows = [
    ["tensors", "\(plan.tensorCount), of which \(plan.mergedCount) are merged (\(bytesText(plan.mergedBytes)))"],
    ["peak memory", "about \(bytesText(plan.predictedPeakBytes(workers: workers))) beyond the program's own 10 MB"],
    ["disk needed", bytesText(plan.diskBytes)],
    ["shards", plan.shardNames.joined(separator: ", ")],
    ["output", "\(output) (nothing was written)"],
  ]
  return [accounting(plan)] + table(rows + more.rows) + plan.notes.map { "note: \($0)" }
}

private func planJSON(_ plan: MergePlan, _ workers: Int) -> JSONValue {
  .object([
    .init("adapter_modules", .integer(plan.moduleCount)),
    .init("matched", .integer(plan.mergedCount)),
    .init("replaced", .integer(plan.replacedCount)),
    .init("added", .integer(plan.addedCount)),
    .init("tensors", .integer(plan.tensorCount)),
    .init("data_bytes", .integer(plan.dataBytes)),
    .init("merged_bytes", .integer(plan.mergedBytes)),
    .init("disk_bytes", .integer(plan.diskBytes)),
    .init("predicted_peak_bytes", .integer(plan.predictedPeakBytes(workers: workers))),
    .init("restoration", restorationText(plan.restoration).map { .string($0) } ?? .null),
    .init("shards", .array(plan.shardNames.map { .string($0) })),
    .init("notes", .array(plan.notes.map { .string($0) })),
  ])
}

private func restorationText(_ restoration: Restoration?) -> String? {
  switch restoration {
  case .lastMerge?: "last-merge"
  case .amongOthers?: "among-others"
  case .incompleteRecord?: "incomplete-record"
  case .unrecorded?: "unrecorded"
  case nil: nil
  }
}
