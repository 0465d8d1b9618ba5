internal import PEFT
internal import TensorFiles

let mergeModelsEntry = Command(
  name: "merge-models", summary: "make one model out of several by a recipe",
  operands: [
    Operand(name: "RECIPE", summary: "YAML file in the form of mergekit's"),
    Operand(name: "OUT", summary: "directory to be made"),
  ],
  flags: [
    Flag(
      "dry-run", letter: "n", "show the plan and write nothing",
      detail: "Reads the recipe, finds every tensor's sources and parameters, checks shapes, space and places."),
    CommandTable.forceFlag,
    Flag(
      "random-seed", value: "N", "seed of the methods that draw: dare and della",
      detail: "The draws are torch's, in the order in which mergekit makes them.", default: "0",
      takes: .integer(0...Int(UInt32.max))),
    Flag(
      "max-shard-size", value: "SIZE", "write shards of at most SIZE, such as 5GB", detail: "A tensor is never split.",
      default: "5GB"),
    Flag(
      "allow-non-finite", "go on where a result is infinite or not a number",
      detail: "The tensors that hold such values are named in the answer.", remedy: .allowNonFinite),
    Flag("fsync", "wait until the output is on the disk before it gets its name"),
    CommandTable.threadsFlag("tensors at work at once"),
    CommandTable.jsonFlag,
  ],
  detail: """
    Methods: \(RecipeMethod.allCases.map(\.rawValue).joined(separator: ", ")). Slices, parameters as lists over the layers and by \
    filters of names, base_model, dtype, out_dtype, and models as base+adapter are as in mergekit; a key that is not known is an \
    error. Tensors are read in stretches, computed in f32 with sums in f64, and rounded once.

    OUT gets the configuration and side files of the base model, or of the recipe's first, and the recipe itself. It appears \
    whole or not at all.
    """,
  run: mergeModelsCommand)

/// `peft-tool merge-models RECIPE OUT`
@Sendable private func mergeModelsCommand(_ invocation: Invocation, _ console: Console) async throws -> Int32 {
  let started = Clock.seconds
  let workers = try workerCount(invocation)
  let output = invocation.operands[1]
  var options = RecipePlan.Options()
  options.replaceOutput = invocation.has("force")
  options.durable = invocation.has("fsync")
  options.allowNonFinite = invocation.has("allow-non-finite")
  if let size = invocation.value("max-shard-size") {
    guard let bytes = parseBytes(size) else { throw AdapterError.shardSize(found: size) }
    options.maxShardBytes = bytes
  }
  options.seed = UInt64(try invocation.integer("random-seed") ?? 0)
  let downloads = DownloadLines(console)
  let hub = Hub(isOffline: invocation.has("offline"))
  let plan = try RecipePlan(MergeRecipe(path: invocation.operands[0]), options: options) {
    word throws(AdapterError) in
    guard let repository = try ModelWord.repository(word, hub) else { return word }
    return try hub.directory(of: repository) { downloads.update($0) }
  }
  let merger = RecipeMerger(plan, workers: workers)
  if invocation.has("dry-run") {
    try merger.check(output: output)
    guard !invocation.has("json") else {
      console.json(planJSON(plan))
      return 0
    }
    let rows = [
      ["tensors", "\(plan.tensorCount), of which \(plan.mixedCount) are computed"],
      ["disk needed", bytesText(plan.diskBytes)], ["shards", plan.shardNames.joined(separator: ", ")],
      ["output", "\(output) (nothing was written)"],
    ]
    for line in [summary(plan)] + table(rows) + plan.notes.map({ "note: \($0)" }) { console.line(line) }
    return 0
  }
  let bar = ProgressBar(console)
  let outcome = try await merger.run(to: output) { progress in
    bar.update(done: progress.writtenBytes, total: progress.totalBytes)
  }
  bar.finish()
  let seconds = Clock.seconds - started
  if invocation.has("json") {
    console.json(outcomeJSON(planJSON(plan), seconds: seconds, notFinite: outcome.nonFiniteTensors))
    return 0
  }
  console.report(summary(plan))
  for note in plan.notes { console.note("note: \(note)") }
  for name in outcome.nonFiniteTensors {
    console.note("note: '\(name)' holds values that are infinite or not a number")
  }
  console.report(
    "wrote \(output): \(countText(plan.tensorCount, "tensor")), \(bytesText(plan.dataBytes)) in "
      + "\(fixed(seconds, 2)) s, peak memory \(bytesText(peakResidentBytes))")
  return 0
}

private func summary(_ plan: RecipePlan) -> String {
  "\(plan.recipe.method.rawValue) of \(countText(plan.recipe.models.count, "model"))"
    + (plan.layerCount.map { ", \(countText($0, "layer"))" } ?? "")
    + ", \(countText(plan.mixedCount, "tensor")) computed, \(plan.tensorCount - plan.mixedCount) copied"
}

private func planJSON(_ plan: RecipePlan) -> JSONValue {
  .object([
    .init("method", .string(plan.recipe.method.rawValue)),
    .init("models", .array(plan.recipe.models.map { .string($0.description) })),
    .init("layers", plan.layerCount.map { .integer($0) } ?? .null),
    .init("tensors", .integer(plan.tensorCount)),
    .init("computed", .integer(plan.mixedCount)),
    .init("data_bytes", .integer(plan.dataBytes)),
    .init("disk_bytes", .integer(plan.diskBytes)),
    .init("shards", .array(plan.shardNames.map { .string($0) })),
    .init("notes", .array(plan.notes.map { .string($0) })),
  ])
}
