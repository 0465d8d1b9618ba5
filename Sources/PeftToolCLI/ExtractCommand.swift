internal import PEFT
internal import TensorFiles

let extractEntry = Command(
  name: "extract", summary: "make a LoRA of the difference of two models",
  operands: [
    Operand(name: "BASE", summary: "directory, index or file of the model that was trained from", isModel: true),
    Operand(name: "FINETUNED", summary: "directory, index or file of the model that training made", isModel: true),
    Operand(name: "OUT", summary: "directory to be made"),
  ],
  flags: [
    RankFlags.rank, RankFlags.energy, RankFlags.ratio, RankFlags.frobenius,
    Flag(
      "with-embeddings", "store changed embeddings and heads in full",
      detail:
        "As modules_to_save; so is what a vocabulary has grown by. A head that is tied to the embedding goes with "
        + "it."),
    Flag("with-norms", "store changed norms in full", detail: "As modules_to_save."),
    Flag("with-biases", "store changed biases in full", detail: "With bias \"all\"."),
    CommandTable.forceFlag, WorkbenchCommands.decomposersFlag, CommandTable.jsonFlag,
  ],
  detail: """
    Writes the best approximation of each weight's change by fewer ranks as B·A, alpha = rank, in f32; weights that are equal are left \
    out. 'peft-tool merge BASE OUT' gives FINETUNED back to the error that is printed by module and in all; what differs and is not \
    carried, such as norms without --with-norms, is listed and is part of that error.

    A change of stored weights holds the rounding of FINETUNED to its dtype. The floor is the greatest singular value that such \
    rounding alone has; a rule other than --rank alone keeps nothing below it, and a share of the energy is one of what is left \
    without it. --energy 1 keeps all that is above the floor.

    Large weights are decomposed by a subspace that random vectors begin, the same in every run; the error is at most 0.5 % above the \
    least, as far as the steps tell, and what is printed is measured.
    """,
  run: extractCommand,
  needsOne: [RankFlags.rank, RankFlags.energy, RankFlags.ratio, RankFlags.frobenius].map(\.name))

/// `peft-tool extract BASE FINETUNED OUT`
@Sendable private func extractCommand(_ invocation: Invocation, _ console: Console) async throws -> Int32 {
  let started = Clock.seconds
  let output = invocation.operands[2]
  var options = AdapterExtraction.Options()
  options.savesEmbeddings = invocation.has("with-embeddings")
  options.savesNorms = invocation.has("with-norms")
  options.savesBiases = invocation.has("with-biases")
  let extraction = try AdapterExtraction(
    base: invocation.operands[0], tuned: invocation.operands[1],
    rule: try RankFlags.rule(invocation) ?? RankRule(.energy(1)), options: options)
  let report = try await extraction.write(
    to: output, replacing: invocation.has("force"), workers: try workerCount(invocation))
  let seconds = Clock.seconds - started
  if invocation.has("json") {
    console.json(report.json(output, seconds: seconds))
  } else {
    for line in report.lines { console.line(line) }
    for note in report.notes { console.note("note: \(note)") }
    console.report(
      "wrote \(output): \(countText(report.modules.count, "module")) in \(fixed(seconds, 2)) s, peak memory "
        + bytesText(peakResidentBytes))
  }
  return 0
}

extension ExtractionReport.Other.Kind {
  /// What would carry it.
  fileprivate var remedy: String {
    switch self {
    case .embedding, .head: "--with-embeddings"
    case .norm: "--with-norms"
    case .bias: "--with-biases"
    case .rounding: "below the floor"
    case .other: "nothing"
    }
  }
}

extension ExtractionReport {
  fileprivate var lines: [String] {
    var rows = [["module", "rank", "kept energy", "error", "σ₁", "σ last", "floor", "above floor"]]
    for module in modules {
      rows.append([
        module.path, "\(module.rank) of \(module.extent)", percent(module.energy), errorText(module.error),
        scientific(module.greatest), scientific(module.least), scientific(module.floor), "\(module.signalRank)",
      ])
    }
    var lines = rows.count > 1 ? table(rows) : []
    for (title, isSaved) in [("stored in full", true), ("not carried", false)] {
      let found = others.filter { $0.isSaved == isSaved }
      guard !found.isEmpty else { continue }
      lines += table(
        [[title, "‖change‖", isSaved ? "" : "carried by"]]
          + found.map { [$0.name, scientific($0.squares.squareRoot()), isSaved ? "" : $0.kind.remedy] })
    }
    let signal = modules.reduce(0) { $0 + $1.signalRank }
    lines.append(
      "\(countText(unchanged, "tensor")) unchanged; of \(countText(modules.reduce(0) { $0 + $1.rank }, "rank")) "
        + "\(grouped(signal)) above the floor of the fine-tuned weights' rounding")
    lines.append(
      "in all: \(percent(energy)) of the energy kept, error \(errorText(error)) of the change's norm, what is not carried counted"
    )
    return lines
  }

  fileprivate func json(_ output: String, seconds: Double) -> JSONValue {
    func number(_ value: Double) -> JSONValue { value.isFinite ? .number(value) : .null }
    return .object([
      .init("output", .string(output)), .init("error", number(error)), .init("energy", number(energy)),
      .init("norm", number(squares.squareRoot())),
      .init(
        "modules",
        .array(
          modules.map { module in
            .object([
              .init("module", .string(module.path)), .init("rank", .integer(module.rank)),
              .init("extent", .integer(module.extent)), .init("error", number(module.error)),
              .init("energy", number(module.energy)), .init("norm", number(module.squares.squareRoot())),
              .init("greatest", number(module.greatest)), .init("least", number(module.least)),
              .init("floor", number(module.floor)), .init("above_floor", .integer(module.signalRank)),
            ])
          })),
      .init(
        "others",
        .array(
          others.map { other in
            .object([
              .init("name", .string(other.name)), .init("kind", .string(other.kind.rawValue)),
              .init("norm", number(other.squares.squareRoot())), .init("saved", .bool(other.isSaved)),
            ])
          })),
      .init("unchanged", .integer(unchanged)), .init("notes", .array(notes.map { .string($0) })),
      .init("seconds", .number(seconds)), .init("peak_memory_bytes", .integer(peakResidentBytes)),
    ])
  }
}
