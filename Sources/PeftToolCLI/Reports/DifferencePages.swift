internal import PEFT

/// `diff --report`: two checkpoints beside each other.
struct DifferencePage {
  let first: String
  let second: String
  let difference: CheckpointDifference
  let tolerance: Double

  var page: Page {
    let tensors = difference.tensors
    let differing = tensors.filter { $0.relative > tolerance }
    let identical = tensors.filter { $0.finding == .identical }.count
    let word = differing.isEmpty ? (identical == tensors.count ? "Identical" : "Alike") : "Different"
    var reasons = [DifferenceText.summary(difference, tolerance)]
    if let largest = DifferenceText.largest(difference) { reasons.append(largest) }
    var page = Page(
      title: "\(first) and \(second)",
      verdict: Page.Verdict(tone: differing.isEmpty ? .good : .bad, word: word, reasons: reasons),
      figures: [
        Page.Figure(value: grouped(tensors.count), name: "tensors"),
        Page.Figure(value: grouped(identical), name: "identical"),
        Page.Figure(value: grouped(differing.count), name: "different"),
      ])
    guard identical < tensors.count else { return page }
    let map = HeatMap(
      id: "difference-map", grid: ModuleGrid(tensors.map(\.name)), scale: .size,
      marks: [.nothing: "identical", .unknown: "in one only, or of another shape or dtype", .notFinite: "not finite"]
    ) { indices in Self.cell(indices.map { tensors[$0] }) }
    page.add(
      "Where they differ", id: "differences",
      "<p>The largest difference of two elements, as a share of the tensor's largest magnitude.</p>" + map.html)
    page.add(
      "The greatest differences", id: "greatest",
      Page.table(
        ["tensor", "finding", "of the largest", "largest", "rms"],
        differing.sorted { $0.relative > $1.relative }.prefix(200).map(Self.row),
        caption: "\(grouped(min(200, differing.count))) of \(grouped(differing.count)) tensors that differ"))
    return page
  }

  private static func cell(_ tensors: [TensorDifference]) -> HeatMap.Cell {
    let several = tensors.count > 1 ? "\(tensors.count) tensors, " : ""
    if tensors.allSatisfy({ $0.finding == .identical }) {
      return HeatMap.Cell(mark: .nothing, text: "\(several)identical")
    }
    for tensor in tensors {
      switch tensor.finding {
      case .added: return HeatMap.Cell(mark: .unknown, text: "\(several)only in the second")
      case .removed: return HeatMap.Cell(mark: .unknown, text: "\(several)only in the first")
      case .retyped: return HeatMap.Cell(mark: .unknown, text: "\(several)another shape or dtype")
      case .identical, .changed: continue
      }
    }
    let relative = tensors.map(\.relative).max() ?? 0
    guard relative.isFinite else { return HeatMap.Cell(mark: .notFinite, text: "\(several)not finite") }
    return HeatMap.Cell(
      value: relative, text: "\(several)largest difference \(shortText(relative)) of the largest magnitude")
  }

  private static func row(_ tensor: TensorDifference) -> [String] {
    guard case .changed(let largest, let rms, _) = tensor.finding else {
      return [tensor.name, DifferenceText.status(tensor.finding), "–", "–", "–"]
    }
    return [
      tensor.name, DifferenceText.status(tensor.finding), shortText(tensor.relative), shortText(largest),
      shortText(rms),
    ]
  }
}

/// `verify --report`: a model beside the merge that it claims to be.
struct VerificationPage {
  let model: String
  let findings: [MergeVerifier.Finding]
  let files: [FileDifference]
  /// What `verify` prints, line by line.
  let lines: [String]
  let agrees: Bool

  var page: Page {
    let merged = findings.filter(\.isMerged)
    var page = Page(
      title: "Merge \(model)",
      verdict: Page.Verdict(
        tone: agrees ? .good : .bad, word: agrees ? "It is the merge" : "It is not the merge", reasons: lines,
        remarks: files.filter { !$0.decides }.prefix(20).map { "\($0.file): \($0.message)" }),
      figures: [
        Page.Figure(value: grouped(merged.count), name: "merged tensors"),
        Page.Figure(value: grouped(findings.count - merged.count), name: "other tensors"),
        Page.Figure(value: grouped(findings.filter { !$0.agrees }.count), name: "that do not agree"),
      ])
    let all = findings
    let map = HeatMap(
      id: "verification-map", grid: ModuleGrid(findings.map(\.name)), scale: .size,
      marks: [
        .nothing: "agrees to the bit", .unknown: "missing, unexpected, or of another shape or dtype",
        .notFinite: "not finite",
      ]
    ) { indices in Self.cell(indices.map { all[$0] }) }
    page.add(
      "Distance from the merge", id: "distance",
      "<p>The largest difference of two elements, in units in the last place of the larger.</p>" + map.html)
    let wrong = findings.filter { !$0.agrees }
    if !wrong.isEmpty {
      page.add(
        "Tensors that do not agree", id: "wrong",
        Page.table(
          ["tensor", "finding", "largest", "ulp"],
          wrong.prefix(200).map {
            [$0.name, "\($0.verdict)", shortText($0.largestDifference), shortText($0.largestUnits)]
          },
          caption: "\(grouped(min(200, wrong.count))) of \(grouped(wrong.count))"))
    }
    let deciding = files.filter(\.decides)
    if !deciding.isEmpty {
      page.add(
        "Beside the tensors", id: "files",
        Page.table(
          ["file", "difference"], deciding.prefix(100).map { [$0.file, $0.message] },
          caption: "\(grouped(min(100, deciding.count))) of \(grouped(deciding.count))"))
    }
    return page
  }

  private static func cell(_ findings: [MergeVerifier.Finding]) -> HeatMap.Cell {
    let several = findings.count > 1 ? "\(findings.count) tensors, " : ""
    if findings.contains(where: { $0.verdict == .notFinite }) {
      return HeatMap.Cell(mark: .notFinite, text: "\(several)not finite")
    }
    if let other = findings.first(where: { [.missing, .unexpected, .retyped].contains($0.verdict) }) {
      return HeatMap.Cell(mark: .unknown, text: "\(several)\(other.verdict)")
    }
    let units = findings.map(\.largestUnits).max() ?? 0
    if units == 0, findings.allSatisfy(\.agrees) {
      return HeatMap.Cell(mark: .nothing, text: "\(several)agrees to the bit")
    }
    guard units.isFinite else { return HeatMap.Cell(mark: .notFinite, text: "\(several)not finite, or other bytes") }
    let verdict = findings.allSatisfy(\.agrees) ? "within rounding" : "different"
    return HeatMap.Cell(value: units, text: "\(several)\(verdict), \(shortText(units)) ulp")
  }
}
