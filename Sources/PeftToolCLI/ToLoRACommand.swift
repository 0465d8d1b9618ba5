internal import PEFT
internal import TensorFiles

/// `peft-tool to-lora ADAPTER OUT`
@Sendable func toLoRACommand(_ invocation: Invocation, _ console: Console) async throws -> Int32 {
  let started = Clock.seconds
  let output = invocation.operands[1]
  let conversion = try LoRAConversion(
    StoredAdapter(directory: invocation.operands[0]), base: invocation.value("base"),
    rule: try RankFlags.rule(invocation), ignoredConfigKeys: Set(invocation.all("ignore-config-key")))
  let report = try await conversion.write(
    to: output, replacing: invocation.has("force"), workers: try workerCount(invocation))
  console.report(report, of: output, seconds: Clock.seconds - started, asJSON: invocation.has("json"))
  return 0
}
