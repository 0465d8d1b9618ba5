internal import PEFT
internal import TensorFiles

/// `peft-tool combine ADAPTER... OUT`
@Sendable func combineCommand(_ invocation: Invocation, _ console: Console) async throws -> Int32 {
  let started = Clock.seconds
  var options = AdapterCombination.Options()
  options.rule = try RankFlags.rule(invocation)
  options.isPlain = invocation.has("plain")
  options.averagesSaved = invocation.has("average-saved")
  options.ignoredConfigKeys = Set(invocation.all("ignore-config-key"))
  var adapters: [(adapter: StoredAdapter, weight: Double)] = []
  for word in invocation.operands.dropLast() {
    let input = try adapterInput(word)
    adapters.append((try StoredAdapter(directory: input.directory), input.weight))
  }
  let output = invocation.operands[invocation.operands.count - 1]
  let combination = try AdapterCombination(adapters, options: options)
  let report = try await combination.write(
    to: output, replacing: invocation.has("force"), workers: try workerCount(invocation))
  console.report(report, of: output, seconds: Clock.seconds - started, asJSON: invocation.has("json"))
  return 0
}
