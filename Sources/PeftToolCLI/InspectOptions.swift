internal import PEFT
internal import TensorFiles

/// A base that an adapter was held against.
struct InspectedBase {
  let path: String
  /// How it fits; nil if it does not.
  let fit: BaseMatch?
  /// Why it does not fit.
  let reason: String?

  init(_ base: String, adapter: String) {
    path = base
    do throws(AdapterError) {
      fit = try BaseMatch(base: base, adapter: adapter)
      reason = nil
    } catch {
      fit = nil
      reason = ErrorText.text(error, of: CommandTable.commands.first { $0.name == "inspect" })
    }
  }
}

/// `inspect --base`: the match table and the verdict. Returns the exit code.
func inspectMatch(_ base: InspectedBase, _ console: Console, json: inout JSONValue) -> Int32 {
  guard let match = base.fit else {
    let reason = base.reason ?? ""
    json["base"] = .object([
      .init("path", .string(base.path)), .init("compatible", .bool(false)), .init("reason", .string(reason)),
    ])
    console.line("verdict: not compatible. \(reason)")
    return 1
  }
  json["base"] = .object([
    .init("path", .string(base.path)), .init("compatible", .bool(true)), .init("modules", .integer(match.moduleCount)),
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
}

/// `inspect --compare`: how alike two adapters' changes are.
func inspectComparison(
  _ comparison: AdapterComparison, with other: String, _ console: Console, json: inout JSONValue
) {
  func overlap(_ overlap: AdapterComparison.Overlap?) -> JSONValue {
    guard let overlap else { return .null }
    return .object([.init("value", .number(overlap.value)), .init("chance", .number(overlap.chance))])
  }
  func names(_ paths: [String]) -> JSONValue { .array(paths.map { .string($0) }) }
  json["comparison"] = .object([
    .init("with", .string(other)), .init("cosine", numberOrNull(comparison.cosine)),
    .init("relative_difference", numberOrNull(comparison.relativeDifference)),
    .init("undetermined", .integer(comparison.undeterminedCount)),
    .init(
      "modules",
      .array(
        comparison.rows.map { row in
          .object([
            .init("module", .string(row.path)), .init("cosine", numberOrNull(row.cosine)),
            .init("relative_difference", numberOrNull(row.relativeDifference)),
            .init("column_overlap", overlap(row.columns)), .init("row_overlap", overlap(row.rows)),
          ])
        })),
    .init("only_in_first", names(comparison.onlyInFirst)), .init("only_in_second", names(comparison.onlyInSecond)),
  ])
  func text(_ overlap: AdapterComparison.Overlap?) -> String {
    overlap.map { "\(fixed($0.value, 3)) (\(fixed($0.chance, 3)))" } ?? "–"
  }
  let rows = comparison.rows.map {
    [$0.path, cosineText($0.cosine), normText($0.relativeDifference), text($0.columns), text($0.rows)]
  }
  let header = ["module of both", "cosine", "difference", "overlap out (chance)", "overlap in (chance)"]
  if !rows.isEmpty { for line in table([header] + rows) { console.line(line) } }
  for (paths, name) in [(comparison.onlyInFirst, "this adapter"), (comparison.onlyInSecond, "the other")] {
    for path in paths.prefix(20) { console.line("only in \(name): \(path)") }
    if paths.count > 20 { console.line("only in \(name): \(grouped(paths.count - 20)) more") }
  }
  console.line(
    "in all: cosine \(cosineText(comparison.cosine)), difference \(normText(comparison.relativeDifference)) of this adapter's change"
  )
  if comparison.undeterminedCount > 0 {
    console.note(
      "note: \(countText(comparison.undeterminedCount, "module")) could not be compared"
        + (comparison.hasBase ? "" : "; what only the base can tell, --base gives"))
  }
}

private func cosineText(_ value: Double?) -> String { value.map { fixed($0, 4) } ?? "–" }

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
