internal import PEFT
internal import TensorFiles

/// `peft-tool merge BASE ADAPTER... OUT`
@Sendable func mergeCommand(_ invocation: Invocation, _ console: Console) async throws -> Int32 {
  try await merge(invocation, console, sign: 1)
}

/// `peft-tool unmerge MERGED ADAPTER... OUT`
@Sendable func unmergeCommand(_ invocation: Invocation, _ console: Console) async throws -> Int32 {
  try await merge(invocation, console, sign: -1)
}

/// An adapter's directory, and the weight after its last colon, if the whole is no directory.
func adapterInput(_ word: String, sign: Double) -> MergePlan.Input {
  if FileSystem.kind(word) == nil, let colon = word.lastIndex(of: ":"),
    let weight = Double(word[word.index(after: colon)...]), weight.isFinite
  {
    return MergePlan.Input(String(word[..<colon]), weight: sign * weight)
  }
  return MergePlan.Input(word, weight: sign)
}

/// The plan that the operands and options of merge, unmerge and verify describe.
func makePlan(_ invocation: Invocation, sign: Double) throws -> MergePlan {
  var options = MergeOptions()
  options.ignoredConfigKeys = Set(invocation.all("ignore-config-key"))
  options.allowMissing = invocation.has("allow-missing")
  options.allowUntargeted = invocation.has("allow-untargeted")
  options.allowRepeated = invocation.has("allow-repeated")
  options.replaceOutput = invocation.has("force")
  options.durable = invocation.has("fsync")
  if let size = invocation.value("max-shard-size") {
    guard let bytes = parseBytes(size) else { throw AdapterError.shardSize(found: size) }
    options.maxShardBytes = bytes
  }
  let inputs = invocation.operands.dropFirst().dropLast().map { adapterInput($0, sign: sign) }
  return try MergePlan(base: invocation.operands[0], adapters: inputs, options: options)
}

/// `--threads`, or two.
func workerCount(_ invocation: Invocation) throws(UsageError) -> Int {
  let workers = try invocation.integer("threads") ?? 2
  guard (1...256).contains(workers) else {
    throw .badValue(flag: "threads", found: "\(workers)", expected: "a number from 1 to 256")
  }
  return workers
}

private func merge(_ invocation: Invocation, _ console: Console, sign: Double) async throws -> Int32 {
  let started = Clock.seconds
  let workers = try workerCount(invocation)
  let output = invocation.operands[invocation.operands.count - 1]
  let plan = try makePlan(invocation, sign: sign)
  let merger = Merger(plan, workers: workers)
  if invocation.has("dry-run") {
    try merger.check(output: output)
    invocation.has("json")
      ? console.json(planJSON(plan, workers)) : planLines(plan, workers, output).forEach(console.line)
    return 0
  }
  let bar = ProgressBar(console)
  try await merger.run(to: output) { progress in
    bar.update(done: progress.writtenBytes, total: progress.totalBytes)
  }
  bar.finish()
  let seconds = Clock.seconds - started
  if invocation.has("json") {
    var json = planJSON(plan, workers)
    json["seconds"] = .number(seconds)
    json["peak_memory_bytes"] = .integer(peakResidentBytes)
    console.json(json)
    return 0
  }
  console.line(accounting(plan))
  for note in plan.notes { console.note("note: \(note)") }
  if sign < 0 { console.line("each element is within one unit in the last place of what it was before the merge") }
  let rate = Double(plan.dataBytes) / 1e9 / max(seconds, 1e-9)
  console.line(
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

private func planLines(_ plan: MergePlan, _ workers: Int, _ output: String) -> [String] {
  let rows = [
    ["tensors", "\(plan.tensorCount), of which \(plan.mergedCount) are merged (\(bytesText(plan.mergedBytes)))"],
    ["peak memory", "about \(bytesText(plan.predictedPeakBytes(workers: workers))) beyond the program's own 10 MB"],
    ["disk needed", bytesText(plan.diskBytes)],
    ["shards", plan.shardNames.joined(separator: ", ")],
    ["output", "\(output) (nothing was written)"],
  ]
  return [accounting(plan)] + table(rows) + plan.notes.map { "note: \($0)" }
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
    .init("shards", .array(plan.shardNames.map { .string($0) })),
    .init("notes", .array(plan.notes.map { .string($0) })),
  ])
}
