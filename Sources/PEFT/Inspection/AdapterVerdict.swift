/// Whether an adapter is fit for use, and why.
public struct AdapterVerdict: Sendable {
  /// The kinds of answer.
  public enum Kind: String, Sendable {
    /// Everything is finite, and every module changes something.
    case healthy
    /// Some modules change nothing.
    case partlyUntrained = "partly untrained"
    /// No module changes anything.
    case untrained
    /// Values that are not finite, tensors that do not fit together, or a base that the adapter does not fit.
    case broken
    /// Nothing is wrong, but only the base, or a run, tells whether it changes something.
    case undecided
  }

  public let kind: Kind
  /// Why, the weightiest first; never empty.
  public let reasons: [String]
  /// What is worth a look, but decides nothing.
  public let remarks: [String]

  /// - Parameters:
  ///   - statistics: nil if they could not be taken.
  ///   - failure: why they could not.
  ///   - mismatch: why the adapter does not fit the base that was given.
  public init(
    statistics: ModuleStatistics?, validation: Validation, failure: String? = nil, mismatch: String? = nil
  ) {
    let rows = statistics?.rows ?? []
    func paths(_ health: ModuleStatistics.Health) -> [String] { rows.filter { $0.health == health }.map(\.path) }
    let (infinite, untrained, unknown) = (paths(.notFinite), paths(.untrained), paths(.unknown))
    let wrong = validation.findings.filter { $0.decides && $0.code != "not-finite" }
    remarks = Self.listed(validation.findings.filter { !$0.decides && $0.code != "zero-B" })
    var faults = mismatch.map { ["It does not fit the base: \($0)"] } ?? []
    if !infinite.isEmpty {
      faults.append("Values of \(Self.some(infinite, of: rows.count)) are infinite or no numbers.")
    } else if let finding = validation.findings.first(where: { $0.code == "not-finite" }) {
      faults.append("\(finding.place): \(finding.message).")
    }
    faults += Self.listed(wrong)
    if faults.isEmpty, let failure { faults.append(failure) }
    guard faults.isEmpty else {
      (kind, reasons) = (.broken, faults)
      return
    }
    let known = rows.count - unknown.count
    switch (untrained.count, unknown.count) {
    case (1..., 0) where untrained.count == rows.count:
      (kind, reasons) = (
        .untrained, ["None of \(Self.count(rows.count)) changes anything: the adapter is as it was started."]
      )
    case (1..., _):
      (kind, reasons) = (.partlyUntrained, ["\(Self.some(untrained, of: rows.count)) change nothing."])
    case (0, 0) where !rows.isEmpty:
      (kind, reasons) = (.healthy, ["All values are finite, and all of \(Self.count(rows.count)) change something."])
    default:
      let open = known > 0 ? "\(unknown.count) of \(Self.count(rows.count))" : "the adapter"
      (kind, reasons) = (
        .undecided,
        [
          "All values are finite. Whether \(open) changes anything, "
            + (statistics?.hasBase == true
              ? "only a run of the model tells." : "only the base tells: give it with --base.")
        ]
      )
    }
  }

  private static func count(_ count: Int) -> String { "\(grouped(count)) module\(count == 1 ? "" : "s")" }

  private static func some(_ paths: [String], of count: Int) -> String {
    let named = paths.prefix(3).map { "'\($0)'" }.joined(separator: ", ")
    return "\(grouped(paths.count)) of \(Self.count(count)) (\(named)\(paths.count > 3 ? ", …" : ""))"
  }

  /// Findings one by one, and from the eleventh on their number.
  private static func listed(_ findings: [Validation.Finding]) -> [String] {
    findings.prefix(10).map { "\($0.place): \($0.message)" }
      + (findings.count > 10 ? ["\(grouped(findings.count - 10)) more: peft-tool validate lists them."] : [])
  }
}

extension Validation.Finding {
  /// False for what an adapter works in spite of: PEFT passes over it, or only the files' form is unusual.
  var decides: Bool {
    !["zero-B", "not-targeted", "missing-target", "foreign-name", "metadata", "configuration"].contains(code)
  }
}
