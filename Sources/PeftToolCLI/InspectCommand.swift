internal import PEFT
internal import TensorFiles

/// `peft-tool inspect ADAPTER`
@Sendable func inspectCommand(_ invocation: Invocation, _ console: Console) async throws -> Int32 {
  let report = try ReportFile(invocation)
  let directory = invocation.operands[0]
  let summary = try AdapterSummary(directory: directory)
  var json = summary.json
  var code: Int32 = 0
  // With --json the lines for people go nowhere.
  let lines =
    invocation.has("json") ? Console(output: { _ in }, error: console.error, showsProgress: false) : console
  printSummary(summary, lines)
  // A base that does not fit is judged below, and the adapter is shown without it.
  let match = invocation.value("base").map { InspectedBase($0, adapter: directory) }
  let base = match?.fit == nil ? nil : match?.path
  var statistics: ModuleStatistics?
  if invocation.has("stats") {
    let found = try await ModuleStatistics(directory: directory, base: base)
    lines.line("")
    inspectStatistics(found, lines, json: &json)
    statistics = found
  }
  var comparison: (other: String, values: AdapterComparison)?
  if let other = invocation.value("compare") {
    let found = try await AdapterComparison(directory, other, base: base)
    lines.line("")
    inspectComparison(found, with: other, lines, json: &json)
    comparison = (other, found)
  }
  if let match {
    lines.line("")
    code = max(code, inspectMatch(match, lines, json: &json))
  }
  if let name = invocation.value("for") {
    guard let server = ServingCheck.Server(rawValue: name) else {
      throw UsageError.badValue(
        flag: "for", found: name,
        expected: "one of \(ServingCheck.Server.allCases.map(\.rawValue).joined(separator: ", "))")
    }
    lines.line("")
    code = max(code, inspectServing(try ServingCheck(directory: directory, server: server), lines, json: &json))
  }
  if let report {
    var failure: String?
    if statistics == nil {
      do {
        statistics = try await ModuleStatistics(directory: directory, base: base)
      } catch let error as AdapterError {
        // Tensors that do not fit together are what the page is to say.
        if case .file = error { throw error }
        failure = error.facts
      }
    }
    let verdict = AdapterVerdict(
      statistics: statistics, validation: try Validation(path: directory), failure: failure,
      mismatch: match?.reason)
    try report.write(
      AdapterPage(
        summary: summary, statistics: statistics, verdict: verdict, facts: factRows(summary) + scaleRows(summary),
        modules: groupRows(summary),
        match: match?.fit, comparison: comparison
      ).page, console)
  }
  if invocation.has("json") { console.json(json) }
  return code
}

/// What an adapter's configuration and header say, name by name.
private func factRows(_ summary: AdapterSummary) -> [[String]] {
  let config = summary.config
  var rows = [["type", typeText(config)]]
  if let task = config.taskType { rows.append(["task", task]) }
  rows.append(["base model", config.baseModelNameOrPath ?? "not named"])
  rows.append(["PEFT version", config.peftVersion ?? "not stated (before 0.18)"])
  if config.peftType == .lora {
    let method = config.useRSLoRA ? "alpha/sqrt(r)" : "alpha/r"
    rows.append(["r, alpha", "\(config.rank), \(alphaText(config.alpha)) (scale = \(method))"])
    rows.append(["targets", targetsText(config.targetModules)])
    if let saved = config.modulesToSave { rows.append(["modules to save", listText(saved)]) }
  }
  rows.append([
    "weights",
    "\(countText(summary.tensorCount, "tensor")), \(countText(summary.parameterCount, "parameter")), \(bytesRow(summary))",
  ])
  // A text of the configuration may be of any length.
  return rows.map { [$0[0], printable($0[1], limit: 600)] }
}

/// The scales and dtypes that the text's tables have by module, for a page's facts.
private func scaleRows(_ summary: AdapterSummary) -> [[String]] {
  let scales = Set(summary.modules.compactMap { $0.scaling?.scale }).sorted()
  let dtypes = summary.bytesByDType.keys.map(\.rawValue).sorted()
  return (scales.isEmpty ? [] : [["scale", listText(scales.map(numberText))]]) + [["dtype", listText(dtypes)]]
}

/// Modules and other tensors, layers folded, for a page.
private func groupRows(_ summary: AdapterSummary) -> [[String]] {
  let header = ["name", "count", "r", "alpha", "scale", "A, or the tensor", "B", "dtype"]
  let tensors = summary.tensors.map {
    [$0.name, "\($0.count)", "", "", "", shapeText($0.shapes.first), "", $0.dtype.rawValue]
  }
  return [header] + summary.modules.map(moduleRow) + tensors
}

private func printSummary(_ summary: AdapterSummary, _ console: Console) {
  let config = summary.config
  for line in table(factRows(summary)) { console.line(line) }
  if !summary.modules.isEmpty {
    console.line("")
    let header = ["module", "count", "r", "alpha", "scale", "A", "B", "dtype"]
    for line in table([header] + summary.modules.map(moduleRow)) { console.line(line) }
  }
  if !summary.tensors.isEmpty {
    console.line("")
    let rows = summary.tensors.map { [$0.name, "\($0.count)", shapeText($0.shapes.first), $0.dtype.rawValue] }
    for line in table([["tensor", "count", "shape", "dtype"]] + rows) { console.line(line) }
  }
  if config.peftType == .lora && !config.unknownKeys.isEmpty {
    console.line("")
    let keys = config.unknownKeys.map {
      "\(printable($0.key, limit: 80)) = \(printable($0.value.compactText, limit: 80))"
    }
    console.line("unknown keys: \(listText(keys))")
  }
}

private func typeText(_ config: PeftConfig) -> String {
  guard config.peftType == .lora else { return config.peftType.rawValue }
  var parts = ["LORA"]
  if config.useDoRA { parts.append("DoRA") }
  if config.useRSLoRA { parts.append("rsLoRA") }
  if config.useQALoRA { parts.append("QA-LoRA") }
  if config.bias != "none" { parts.append("bias \(config.bias)") }
  if config.loraBias { parts.append("lora_bias") }
  if case .string(let name) = config.initLoRAWeights { parts.append("initialised with \(name)") }
  return parts.joined(separator: ", ")
}

/// Targets on one line: a long list of paths by its last names.
private func targetsText(_ rule: ModuleRule?) -> String {
  guard let rule else { return "the model's default" }
  guard case .names(let names) = rule, names.count > 8 else { return rule.description }
  let last = Set(names.map { $0.split(separator: ".").last.map(String.init) ?? $0 }).sorted()
  return "\(grouped(names.count)) paths ending in \(listText(last))"
}

private func alphaText(_ alpha: PythonNumber?) -> String { alpha.map { numberText($0.doubleValue) } ?? "null" }

private func moduleRow(_ group: AdapterSummary.Group) -> [String] {
  [
    group.name, "\(group.count)", group.scaling.map { "\($0.rank)" } ?? "", alphaText(group.scaling?.alpha),
    group.scaling.map { numberText($0.scale) } ?? "", shapeText(group.shapes.first),
    group.shapes.count > 1 ? shapeText(group.shapes[1]) : "missing", group.dtype.rawValue,
  ]
}

private func shapeText(_ shape: [Int]?) -> String {
  (shape ?? []).map(String.init).joined(separator: "x")
}

private func bytesRow(_ summary: AdapterSummary) -> String {
  let classes = AdapterSummary.ByteClass.allCases.compactMap { kind in
    summary.bytes[kind].map { "\(bytesText($0)) \(kind.rawValue)" }
  }
  let dtypes = summary.bytesByDType.keys.map(\.rawValue).sorted()
  return "\(classes.joined(separator: " + ")) (\(dtypes.joined(separator: ", ")))"
}
