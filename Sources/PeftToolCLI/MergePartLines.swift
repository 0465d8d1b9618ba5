internal import PEFT
internal import TensorFiles
internal import Training

/// What `--dry-run` tells beside the plan where a merge is done in parts.
struct PartPreview {
  private(set) var rows: [[String]] = []
  private var members: [JSONValue.Member] = []

  /// Checks a part, or that all parts are there. Throws as `Merger.run` and `Merger.finish`.
  init(_ part: MergePart?, isLast: Bool, _ merger: Merger, _ output: String) throws {
    if let part {
      try merger.check(part, to: output)
      let (bytes, files) = try merger.preview(of: part)
      let what = "\(bytesText(bytes))\(files.isEmpty ? "" : " of \(files.joined(separator: ", "))")"
      rows = [["part \(part.number) of \(part.count)", what]]
      members = partMembers(part)
      members += [.init("part_bytes", .integer(bytes)), .init("part_files", .array(files.map { .string($0) }))]
    } else if isLast {
      let count = try merger.checkParts(of: output).count
      rows = [["parts", "all \(count) are done"]]
      members = [.init("parts", .integer(count))]
    }
  }

  /// A plan's document with it.
  func adding(to plan: JSONValue) -> JSONValue {
    var json = plan
    for member in members { json[member.key] = member.value }
    return json
  }
}

private func partMembers(_ part: MergePart) -> [JSONValue.Member] {
  [.init("part", .integer(part.number)), .init("parts", .integer(part.count))]
}

/// Says what a part of a merge wrote.
func report(
  _ part: MergePart, _ outcome: Merger.PartOutcome, _ plan: MergePlan, seconds: Double, _ console: Console, asJSON: Bool
) {
  guard !asJSON else {
    let answer = JSONValue.object(
      partMembers(part) + [
        .init("part_bytes", .integer(outcome.writtenBytes)), .init("data_bytes", .integer(plan.dataBytes)),
        .init("staging", .string(outcome.staging)),
      ])
    return console.json(outcomeJSON(answer, seconds: seconds, notFinite: outcome.nonFiniteTensors))
  }
  console.report(
    "part \(part.number) of \(part.count): wrote \(bytesText(outcome.writtenBytes)) of \(bytesText(plan.dataBytes)) in "
      + "\(fixed(seconds, 2)) s; they wait in \(outcome.staging) for --finish")
}

extension Merger {
  /// Merges as `run(to:)`; of several ranks each does its part, and the first finishes. The others' outcome is empty.
  ///
  /// Where a rank fails, nothing is left behind; where one is killed, the parts stay, and the same merge begins anew.
  func run(
    to output: String, sharedBy ranks: any Ranks, progress: @escaping @Sendable (Progress) -> Void
  ) async throws -> Outcome {
    guard let part = MergePart(number: ranks.rank + 1, of: ranks.count), !ranks.isAlone else {
      return try await run(to: output, progress: progress)
    }
    do {
      _ = try await ranks.awaitTogether { try await run(part, to: output, progress: progress) }
      return try ranks.together { ranks.isFirst ? try finish(output) : Outcome(nonFiniteTensors: []) }
    } catch {
      if ranks.isFirst { discardParts(of: output, count: ranks.count) }
      throw error
    }
  }
}
