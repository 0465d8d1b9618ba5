internal import PEFT
internal import TensorFiles

/// The options that say what ranks a result has: one rule, and `--rank` as its bound or alone.
enum RankFlags {
  static let rank = Flag(
    "rank", letter: "r", value: "N", "give every module this rank",
    detail: "With one of the rules below it is the greatest rank that the rule may choose.", remedy: .giveRanks)
  static let energy = Flag(
    "energy", value: "P", "keep the fewest directions with this share of each change's sum of squares",
    detail: "From 0 to 1; 0.9 keeps an error of at most the root of 0.1 of the change.")
  static let ratio = Flag(
    "sv-ratio", value: "X", "keep singular values greater than the greatest divided by X", excludes: "energy")
  static let cumulative = Flag(
    "sv-cumulative", value: "P", "keep the fewest singular values with this share of their sum", excludes: "energy")
  static let frobenius = Flag(
    "sv-fro", value: "P", "keep the fewest singular values with this share of the root of their sum of squares",
    excludes: "energy")

  static let all = [rank, energy, ratio, cumulative, frobenius]

  /// The rule that was given; nil if there is none. Throws `UsageError`.
  static func rule(_ invocation: Invocation) throws(UsageError) -> RankRule? {
    let rank = try invocation.integer("rank")
    if let rank, !(1...LoRAScaling.greatestRank).contains(rank) {
      throw .badValue(
        flag: "rank", found: "\(rank)", expected: "a whole number from 1 to \(LoRAScaling.greatestRank)")
    }
    var choices: [(flag: Flag, choice: RankRule.Choice)] = []
    for flag in [energy, ratio, cumulative, frobenius] {
      guard let value = try invocation.number(flag.name) else { continue }
      if flag.name == ratio.name {
        guard value >= 1 else { throw .badValue(flag: flag.name, found: "\(value)", expected: "a number from 1") }
        choices.append((flag, .ratio(value)))
      } else {
        guard value > 0, value <= 1 else {
          throw .badValue(flag: flag.name, found: "\(value)", expected: "a number above 0 and at most 1")
        }
        let choice: RankRule.Choice =
          flag.name == energy.name
          ? .energy(value) : flag.name == cumulative.name ? .cumulative(value) : .frobenius(value)
        choices.append((flag, choice))
      }
    }
    guard choices.count <= 1 else {
      throw .conflict(choices.map { .init(flag: $0.flag.name, summary: $0.flag.summary) })
    }
    guard let rule = choices.first?.choice else { return rank.map { RankRule(.fixed($0)) } }
    return RankRule(rule, limit: rank)
  }
}

/// `peft-tool resize ADAPTER OUT`
@Sendable func resizeCommand(_ invocation: Invocation, _ console: Console) async throws -> Int32 {
  let started = Clock.seconds
  guard var rule = try RankFlags.rule(invocation) else {
    throw UsageError.oneNeeded(
      command: "resize",
      RankFlags.all.map { .init(flag: $0.name, summary: $0.summary) })
  }
  rule.countsAsKohya = invocation.has("as-kohya")
  let output = invocation.operands[1]
  let (replacing, workers) = (invocation.has("force"), try workerCount(invocation))
  let ignored = Set(invocation.all("ignore-config-key"))
  let parts = try StoredAdapter.all(at: invocation.operands[0]).map { component, adapter in
    (component: component ?? "", resize: try AdapterResize(adapter, rule: rule, ignoredConfigKeys: ignored))
  }
  let report =
    parts.count == 1
    ? try await parts[0].resize.write(to: output, replacing: replacing, workers: workers)
    : try await AdapterResize.write(
      parts, from: invocation.operands[0], to: output, replacing: replacing, workers: workers)
  console.report(report, of: output, seconds: Clock.seconds - started, asJSON: invocation.has("json"))
  return 0
}

extension Console {
  /// Prints what the workbench made of an adapter, by module and in all.
  func report(_ report: WorkbenchReport, of output: String, seconds: Double, asJSON: Bool) {
    guard !asJSON else { return json(report.json(output, seconds: seconds)) }
    var rows = [["module", "rank", "kept energy", "error", "Σσ kept", "σ₁/σ last"]]
    for module in report.modules {
      rows.append([
        module.path, module.fromRank == module.rank ? "\(module.rank)" : "\(module.fromRank) → \(module.rank)",
        percent(module.energy), errorText(module.error), module.keptSum.map(percent) ?? "",
        module.spread.map { numberText($0) } ?? "",
      ])
    }
    if rows.count > 1 { table(rows).forEach(line) }
    line(
      "in all: \(percent(report.energy)) of the energy kept, error \(errorText(report.error)) of the change's norm")
    for note in report.notes { self.note("note: \(note)") }
    self.report(
      "wrote \(output): \(countText(report.modules.count, "module")) in \(fixed(seconds, 2)) s, peak memory "
        + bytesText(peakResidentBytes))
  }
}

func percent(_ share: Double) -> String { "\(fixed(100 * share, 4)) %" }

func errorText(_ error: Double) -> String { error == 0 ? "0" : scientific(error) }

extension WorkbenchReport {
  fileprivate func json(_ output: String, seconds: Double) -> JSONValue {
    .object([
      .init("output", .string(output)), .init("error", Self.number(error)), .init("energy", .number(energy)),
      .init(
        "modules",
        .array(
          modules.map { module in
            .object([
              .init("module", .string(module.path)), .init("from_rank", .integer(module.fromRank)),
              .init("rank", .integer(module.rank)), .init("error", Self.number(module.error)),
              .init("energy", .number(module.energy)),
              .init("norm", module.squares.map { .number($0.squareRoot()) } ?? .null),
              .init("kept_sum", module.keptSum.map { .number($0) } ?? .null),
              .init("greatest", module.greatest.map { .number($0) } ?? .null),
              .init("spread", module.spread.map { .number($0) } ?? .null),
            ])
          })),
      .init("notes", .array(notes.map { .string($0) })), .init("seconds", .number(seconds)),
      .init("peak_memory_bytes", .integer(peakResidentBytes)),
    ])
  }

  private static func number(_ value: Double) -> JSONValue { value.isFinite ? .number(value) : .null }
}
