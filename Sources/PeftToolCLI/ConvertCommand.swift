internal import PEFT
internal import TensorFiles

/// `peft-tool convert MODEL OUT`
@Sendable func convertCommand(_ invocation: Invocation, _ console: Console) async throws -> Int32 {
  let source = invocation.operands[0]
  if let target = invocation.value("to").flatMap(AdapterDialect.init) {
    return try convertAdapter(source, to: target, invocation, console)
  }
  guard let output = invocation.operands.dropFirst().first else { throw missingOutput }
  if invocation.value("dtype") != nil { return try convertAdapter(source, to: .peft, invocation, console) }
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

private var missingOutput: UsageError { .operandCount(command: "convert", expected: ["MODEL", "OUT"], found: 1) }

private func convertAdapter(
  _ source: String, to target: AdapterDialect, _ invocation: Invocation, _ console: Console
) throws -> Int32 {
  var options = AdapterConversion.Options()
  options.base = invocation.value("base")
  options.component = invocation.value("component")
  options.imageModel = invocation.value("image-model").flatMap(ImageModel.init)
  options.dtype = invocation.value("dtype").flatMap { DType(rawValue: $0.uppercased()) }
  let conversion = try AdapterConversion(source, options: options)
  if invocation.has("check") {
    let obstacles = conversion.obstacles(to: target)
    if invocation.has("json") {
      console.json(
        .object([
          .init("from", .string(conversion.source.rawValue)), .init("to", .string(target.rawValue)),
          .init("obstacles", .array(obstacles.map(json))),
        ]))
    } else {
      for obstacle in obstacles {
        console.line("\(obstacle.what): \(obstacle.reason)")
        console.line("  cure: \(obstacle.cure)")
      }
      if obstacles.isEmpty {
        console.line("everything can be carried from \(conversion.source.rawValue) to \(target.rawValue)")
      }
    }
    return obstacles.isEmpty ? 0 : 1
  }
  guard let output = invocation.operands.dropFirst().first else { throw missingOutput }
  let report = try conversion.write(target, to: output, replacing: invocation.has("force"))
  if invocation.has("json") {
    console.json(
      .object([
        .init("output", .string(report.file)), .init("kind", .string(Converted.adapter.rawValue)),
        .init("from", .string(conversion.source.rawValue)), .init("to", .string(target.rawValue)),
        .init("tensors", .integer(report.tensorCount)), .init("notes", .array(report.notes.map { .string($0) })),
      ]))
    return 0
  }
  for note in report.notes { console.report(note) }
  console.report(
    "wrote \(report.file): \(conversion.source.rawValue) to \(target.rawValue), \(countText(report.tensorCount, "tensor"))"
      + (report.notes.isEmpty && options.dtype == nil ? ", bit for bit" : ""))
  return 0
}

private func json(_ obstacle: ConversionObstacle) -> JSONValue {
  .object([
    .init("what", .string(obstacle.what)), .init("reason", .string(obstacle.reason)),
    .init("cure", .string(obstacle.cure)),
  ])
}
