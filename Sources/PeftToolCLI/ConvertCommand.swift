internal import PEFT

/// `peft-tool convert MODEL OUT`
@Sendable func convertCommand(_ invocation: Invocation, _ console: Console) async throws -> Int32 {
  var options = MergeOptions()
  options.replaceOutput = invocation.has("force")
  if let size = invocation.value("max-shard-size") {
    guard let bytes = parseBytes(size) else { throw AdapterError.shardSize(found: size) }
    options.maxShardBytes = bytes
  }
  let plan = try MergePlan(converting: invocation.operands[0], options: options)
  let bar = ProgressBar(console)
  try await Merger(plan, workers: try workerCount(invocation)).run(to: invocation.operands[1]) { progress in
    bar.update(done: progress.writtenBytes, total: progress.totalBytes)
  }
  bar.finish()
  for note in plan.notes { console.line("left out: \(note)") }
  console.line(
    "wrote \(invocation.operands[1]): \(countText(plan.tensorCount, "tensor")), \(bytesText(plan.dataBytes))")
  return 0
}
