internal import PEFT
internal import TensorFiles

/// `inspect --base`: the match table and the verdict. Returns the exit code.
func inspectMatch(_ adapter: String, _ base: String, _ console: Console, json: inout JSONValue) -> Int32 {
  do throws(AdapterError) {
    let match = try BaseMatch(base: base, adapter: adapter)
    json["base"] = .object([
      .init("path", .string(base)), .init("compatible", .bool(true)), .init("modules", .integer(match.moduleCount)),
      .init("matched", .integer(match.matchedCount)),
      .init(
        "tensors",
        .array(
          match.rows.map {
            .object([
              .init("name", .string($0.name)), .init("count", .integer($0.count)),
              .init("shape", .array($0.shape.map { .integer($0) })), .init("dtype", .string($0.dtype)),
              .init("change", .string($0.change)),
            ])
          })),
      .init("notes", .array(match.notes.map { .string($0) })),
    ])
    let rows = match.rows.map {
      [$0.name, "\($0.count)", $0.shape.map(String.init).joined(separator: "x"), $0.dtype, $0.change]
    }
    for line in table([["tensor of the base", "count", "shape", "dtype", "change"]] + rows) { console.line(line) }
    for note in match.notes { console.line("note: \(note)") }
    let isWhole = match.matchedCount == match.moduleCount
    console.line(
      isWhole
        ? "verdict: compatible, all \(countText(match.moduleCount, "module")) matched"
        : "verdict: compatible, \(match.matchedCount) of \(countText(match.moduleCount, "module")) matched")
    return 0
  } catch {
    let reason = ErrorText.text(error, of: CommandTable.commands.first { $0.name == "inspect" })
    json["base"] = .object([
      .init("path", .string(base)), .init("compatible", .bool(false)), .init("reason", .string(reason)),
    ])
    console.line("verdict: not compatible. \(reason)")
    return 1
  }
}

/// `inspect --stats`: norms, effective ranks and health.
///
/// A dash stands where the adapter alone does not tell, or where there is nothing to tell.
func inspectStatistics(_ statistics: ModuleStatistics, _ console: Console, json: inout JSONValue) {
  json["stats"] = .array(
    statistics.rows.map { row in
      .object([
        .init("module", .string(row.path)), .init("norm", numberOrNull(row.norm)),
        .init("relative_norm", numberOrNull(row.relativeNorm)),
        .init("effective_rank", .number(row.effectiveRank)),
        .init("health", .string(row.health == .unknown ? "unknown" : row.health.rawValue)),
        .init("singular_values", .array(row.singularValues.map { .number($0) })),
      ])
    })
  let rows = statistics.rows.map { row in
    [
      row.path, normText(row.norm),
    ] + (statistics.hasBase ? [normText(row.relativeNorm)] : []) + [
      row.singularValues.isEmpty ? "" : fixed(row.effectiveRank, 1),
      row.singularValues.first.map(scientific) ?? "", row.health.rawValue,
    ]
  }
  let header =
    ["module", "norm of change"] + (statistics.hasBase ? ["of the weight's"] : []) + [
      "eff. rank", "largest sv", "health",
    ]
  for line in table([header] + rows) { console.line(line) }
  if !statistics.hasBase, statistics.rows.contains(where: { $0.norm == nil && $0.health != .notFinite }) {
    console.note("note: a dash is what only the base can tell; give it with --base")
  }
}

private func numberOrNull(_ value: Double?) -> JSONValue {
  guard let value, value.isFinite else { return .null }
  return .number(value)
}

/// A norm with three digits, or a dash.
func normText(_ value: Double?) -> String { value.map(scientific) ?? "–" }

/// `inspect --for`: what blocks serving. Returns the exit code.
func inspectServing(_ check: ServingCheck, _ console: Console, json: inout JSONValue) -> Int32 {
  json["serving"] = .object([
    .init("server", .string(check.server.rawValue)), .init("version", .string(check.version)),
    .init("servable", .bool(check.blockers.isEmpty)),
    .init(
      "blockers",
      .array(
        check.blockers.map {
          .object([
            .init("feature", .string($0.feature)), .init("effect", .string($0.effect)), .init("cure", .string($0.cure)),
          ])
        })),
  ])
  if !check.blockers.isEmpty { console.line("\(check.server.rawValue) (\(check.version)):") }
  for blocker in check.blockers {
    console.line("\(blocker.feature): \(blocker.effect)")
    console.line("  cure: \(blocker.cure)")
  }
  if check.blockers.isEmpty {
    console.line("nothing is known to keep \(check.server.rawValue) (\(check.version)) from serving it")
  }
  return check.blockers.isEmpty ? 0 : 1
}
