internal import PEFT
internal import TensorFiles

/// `peft-tool verify BASE ADAPTER... MERGED`
@Sendable func verifyCommand(_ invocation: Invocation, _ console: Console) async throws -> Int32 {
  let plan = try makePlan(invocation, sign: 1)
  let path = invocation.operands[invocation.operands.count - 1]
  let model: Checkpoint
  do throws(TensorFileError) {
    model = try Checkpoint(path: path)
  } catch {
    throw AdapterError.file(error)
  }
  let findings = try await MergeVerifier(plan, model: model, workers: try workerCount(invocation)).run()
  let wrong = findings.filter { !$0.agrees }
  if invocation.has("json") {
    console.json(
      .object([
        .init("agree", .bool(wrong.isEmpty)),
        .init(
          "tensors",
          .array(
            findings.map {
              .object([
                .init("name", .string($0.name)), .init("verdict", .string("\($0.verdict)")),
                .init("merged", .bool($0.isMerged)),
                .init("max", $0.largestDifference.isFinite ? .number($0.largestDifference) : .null),
              ])
            })),
      ]))
    return wrong.isEmpty ? 0 : 1
  }
  for finding in wrong { console.line(line(finding)) }
  let merged = findings.filter(\.isMerged)
  let copied = findings.filter { !$0.isMerged }
  console.line("\(merged.filter(\.agrees).count) of \(merged.count) merged tensors are what the merge makes them")
  console.line("\(copied.filter(\.agrees).count) of \(copied.count) other tensors are byte for byte the base's")
  return wrong.isEmpty ? 0 : 1
}

private func line(_ finding: MergeVerifier.Finding) -> String {
  switch finding.verdict {
  case .missing: "missing     \(finding.name)"
  case .unexpected: "unexpected  \(finding.name)"
  case .retyped: "retyped     \(finding.name)"
  default: "different   \(finding.name)  max \(scientific(finding.largestDifference))"
  }
}
