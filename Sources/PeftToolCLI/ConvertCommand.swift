internal import PEFT
internal import TensorFiles

/// `peft-tool convert MODEL OUT`
@Sendable func convertCommand(_ invocation: Invocation, _ console: Console) async throws -> Int32 {
  let (source, output) = (invocation.operands[0], invocation.operands[1])
  if FileSystem.kind(FileSystem.join(source, PeftConfig.fileName)) == .file,
    FileSystem.kind(FileSystem.join(source, "config.json")) != .file
  {
    let adapter = try StoredAdapter(directory: source)
    try adapter.save(to: output, replacing: invocation.has("force"))
    let count = adapter.weights.entries.count
    if invocation.has("json") {
      console.json(converted(output, .adapter, tensors: count, leftOut: []))
      return 0
    }
    console.report("wrote \(output): a \(adapter.config.peftType.rawValue) adapter, \(countText(count, "tensor"))")
    return 0
  }
  var options = MergeOptions()
  options.replaceOutput = invocation.has("force")
  if let size = invocation.value("max-shard-size") {
    guard let bytes = parseBytes(size) else { throw AdapterError.shardSize(found: size) }
    options.maxShardBytes = bytes
  }
  let plan = try MergePlan(converting: source, options: options)
  let bar = ProgressBar(console)
  try await Merger(plan, workers: try workerCount(invocation)).run(to: output) { progress in
    bar.update(done: progress.writtenBytes, total: progress.totalBytes)
  }
  bar.finish()
  if invocation.has("json") {
    console.json(converted(output, .model, tensors: plan.tensorCount, leftOut: plan.notes))
    return 0
  }
  for note in plan.notes { console.report("left out: \(note)") }
  console.report(
    "wrote \(output): \(countText(plan.tensorCount, "tensor")), \(bytesText(plan.dataBytes))")
  return 0
}

private enum Converted: String { case adapter, model }

private func converted(_ output: String, _ kind: Converted, tensors: Int, leftOut: [String]) -> JSONValue {
  .object([
    .init("output", .string(output)), .init("kind", .string(kind.rawValue)), .init("tensors", .integer(tensors)),
    .init("left_out", .array(leftOut.map { .string($0) })),
  ])
}
