internal import PEFT
internal import TensorFiles

/// `peft-tool verify BASE ADAPTER... MERGED`
@Sendable func verifyCommand(_ invocation: Invocation, _ console: Console) async throws -> Int32 {
  let report = try ReportFile(invocation)
  let plan = try makePlan(invocation)
  let path = invocation.operands[invocation.operands.count - 1]
  let model: Checkpoint
  do throws(TensorFileError) {
    model = try Checkpoint(path: path)
  } catch {
    throw AdapterError.file(error)
  }
  let verifier = MergeVerifier(
    plan, model: model, rounding: invocation.has("as-peft") ? .peft : .strict, workers: try workerCount(invocation))
  let findings = try await verifier.run()
  let isWhole = FileSystem.kind(path) == .directory || model.index != nil
  let files = try verifier.fileDifferences(directory: isWhole ? model.directory : nil)
  let wrong = findings.filter { !$0.agrees }
  let agrees = wrong.isEmpty && !files.contains(where: \.decides)
  let merged = findings.filter(\.isMerged)
  let copied = findings.filter { !$0.isMerged }
  let lines = [
    "\(merged.filter(\.agrees).count) of \(merged.count) merged tensors are what the merge makes them",
    "\(copied.filter(\.agrees).count) of \(copied.count) other tensors are byte for byte the base's",
  ]
  try report?.write(
    VerificationPage(
      model: FileSystem.lastComponent(path), findings: findings, files: files, lines: lines, agrees: agrees
    ).page, console)
  if invocation.has("json") {
    console.json(answer(findings, files, agrees))
    return agrees ? 0 : 1
  }
  for finding in wrong { console.line(line(finding)) }
  for line in lines { console.line(line) }
  for difference in files { console.line(line(difference)) }
  if !merged.isEmpty, wrong.contains(where: { $0.verdict == .different && $0.isMerged }), !invocation.has("as-peft") {
    console.note("note: a model that PEFT merged may differ by PEFT's own roundings; --as-peft allows for them")
  }
  return agrees ? 0 : 1
}

private func answer(
  _ findings: [MergeVerifier.Finding], _ files: [FileDifference], _ agrees: Bool
) -> JSONValue {
  .object([
    .init("agree", .bool(agrees)),
    .init(
      "tensors",
      .array(
        findings.map {
          .object([
            .init("name", .string($0.name)), .init("verdict", .string("\($0.verdict)")),
            .init("merged", .bool($0.isMerged)),
            .init("max", $0.largestDifference.isFinite ? .number($0.largestDifference) : .null),
            .init("ulp", $0.largestUnits.isFinite ? .number($0.largestUnits) : .null),
          ])
        })),
    .init(
      "files",
      .array(
        files.map {
          .object([
            .init("subject", .string($0.subject.rawValue)), .init("file", .string($0.file)),
            .init("message", .string($0.message)), .init("decides", .bool($0.decides)),
          ])
        })),
  ])
}

private func line(_ finding: MergeVerifier.Finding) -> String {
  switch finding.verdict {
  case .missing: "missing     \(finding.name)"
  case .unexpected: "unexpected  \(finding.name)"
  case .retyped: "retyped     \(finding.name)"
  case .notFinite: "not finite  \(finding.name)  the merge itself is infinite or not a number there"
  default:
    "different   \(finding.name)  max \(scientific(finding.largestDifference))"
      + (finding.largestUnits.isFinite && finding.largestUnits > 0 ? ", \(unitsText(finding.largestUnits)) ulp" : "")
  }
}

private func unitsText(_ units: Double) -> String { units < 1e6 ? numberText(units) : scientific(units) }

private func line(_ difference: FileDifference) -> String {
  let kind = difference.subject == .record ? "metadata" : difference.subject.rawValue
  return (difference.decides ? "different   " : "note        ") + "\(kind) of \(difference.file): \(difference.message)"
}
