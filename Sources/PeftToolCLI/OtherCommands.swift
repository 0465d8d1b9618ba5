internal import LanguageModels
internal import PEFT
internal import TensorFiles

/// `peft-tool count BASE ADAPTER`
@Sendable func countCommand(_ invocation: Invocation, _ console: Console) async throws -> Int32 {
  let (config, configPath) = try PeftConfig.load(path: invocation.operands[1])
  let base = try BaseModel(path: invocation.operands[0], taskType: config.taskType)
  let weights = try countedWeights(invocation.operands[1])
  let count = try base.parameterCount(of: config, configPath: configPath, weights: weights)
  if invocation.has("json") {
    let percent = count.all == 0 ? 0 : 100 * Double(count.trainable) / Double(count.all)
    console.json(
      .object([
        .init("trainable", .integer(count.trainable)), .init("all", .integer(count.all)),
        .init("percent", .number(percent)),
      ]))
  } else {
    console.line(count.description)
  }
  return 0
}

/// The weights in an adapter's directory; nil for a configuration alone, which has no weights beside it.
private func countedWeights(_ path: String) throws(AdapterError) -> SafetensorsFile? {
  guard FileSystem.kind(path) == .directory else { return nil }
  do {
    return try Adapter.openWeights(path)
  } catch .weightsMissing(_, let found) where found.isEmpty {
    return nil
  }
}

/// `peft-tool init BASE CONFIG OUT`
@Sendable func initCommand(_ invocation: Invocation, _ console: Console) async throws -> Int32 {
  let (config, configPath) = try PeftConfig.load(path: invocation.operands[1])
  try config.checkUnknownKeys(path: configPath, ignored: Set(invocation.all("ignore-config-key")))
  let seed = try invocation.integer("seed") ?? 0
  let base = try BaseModel(path: invocation.operands[0], taskType: config.taskType)
  let maker = try AdapterInitializer(
    base: base, config: config, configPath: configPath, seed: UInt64(seed),
    promptTokens: try Tokenizer.promptTokens(config, base: invocation.operands[0]))
  let output = invocation.operands[2]
  let parameters = try maker.write(to: output, replacing: invocation.has("force"))
  if !maker.isInModelOrder {
    console.note(
      "note: the order of the modules of a model of type '\(base.modelType ?? "unknown")' is not known here, so the values "
        + "are not those that PEFT draws with this seed")
  }
  if invocation.has("json") {
    console.json(
      .object([
        .init("output", .string(output)), .init("modules", .integer(maker.modules.count)),
        .init("parameters", .integer(parameters)),
      ]))
  } else {
    console.report(
      "wrote \(output): \(countText(maker.modules.count, "module")), \(countText(parameters, "parameter"))")
  }
  return 0
}

/// `peft-tool diff A B`
@Sendable func diffCommand(_ invocation: Invocation, _ console: Console) async throws -> Int32 {
  let tolerance = try invocation.number("tolerance") ?? 0
  guard tolerance >= 0 else {
    throw UsageError.badValue(flag: "tolerance", found: "\(tolerance)", expected: "a number from 0")
  }
  let report = try ReportFile(invocation)
  let checkpoints: [Checkpoint]
  do throws(TensorFileError) {
    checkpoints = [try Checkpoint(path: invocation.operands[0]), try Checkpoint(path: invocation.operands[1])]
  } catch {
    throw AdapterError.file(error)
  }
  let difference = try CheckpointDifference(checkpoints[0], checkpoints[1])
  let differing = difference.tensors.filter { $0.relative > tolerance }
  if let report {
    let names = invocation.operands.map(FileSystem.lastComponent)
    try report.write(
      DifferencePage(first: names[0], second: names[1], difference: difference, tolerance: tolerance).page, console)
  }
  if invocation.has("json") {
    console.json(diffJSON(difference, tolerance))
  } else {
    for tensor in differing { console.line(diffLine(tensor)) }
    console.line(DifferenceText.summary(difference, tolerance))
    if let largest = DifferenceText.largest(difference) { console.line(largest) }
  }
  return differing.isEmpty ? 0 : 1
}

/// What is said of two checkpoints in words.
enum DifferenceText {
  /// How many tensors are identical, close and different.
  static func summary(_ difference: CheckpointDifference, _ tolerance: Double) -> String {
    let identical = difference.tensors.filter { $0.finding == .identical }.count
    let differing = difference.tensors.filter { $0.relative > tolerance }.count
    let close = difference.tensors.count - identical - differing
    let parts = [
      "\(identical) identical", close > 0 ? "\(close) within tolerance" : nil,
      differing == 0 ? nil : "\(differing) different",
    ]
    return "\(countText(difference.tensors.count, "tensor")): \(parts.compactMap { $0 }.joined(separator: ", "))"
  }

  /// The largest difference; nil if there is none.
  static func largest(_ difference: CheckpointDifference) -> String? {
    guard let worst = difference.tensors.map(\.relative).filter(\.isFinite).max(), worst > 0 else { return nil }
    return "largest difference: \(scientific(worst)) of the tensor's largest magnitude"
  }

  /// A finding in one word.
  static func status(_ finding: TensorDifference.Finding) -> String {
    switch finding {
    case .added: "added"
    case .removed: "removed"
    case .retyped: "retyped"
    case .identical: "identical"
    case .changed: "changed"
    }
  }
}

private func diffLine(_ tensor: TensorDifference) -> String {
  switch tensor.finding {
  case .added: "added    \(tensor.name)"
  case .removed: "removed  \(tensor.name)"
  case .retyped: "retyped  \(tensor.name)"
  case .identical: "same     \(tensor.name)"
  case .changed(let largest, let rms, _):
    "changed  \(tensor.name)  max \(scientific(largest)), rms \(scientific(rms))"
  }
}

private func diffJSON(_ difference: CheckpointDifference, _ tolerance: Double) -> JSONValue {
  .object([
    .init("agree", .bool(difference.tensors.allSatisfy { $0.relative <= tolerance })),
    .init(
      "tensors",
      .array(
        difference.tensors.map { tensor in
          var members: [JSONValue.Member] = [
            .init("name", .string(tensor.name)), .init("status", .string(DifferenceText.status(tensor.finding))),
          ]
          if case .changed(let largest, let rms, let magnitude) = tensor.finding {
            members += [
              .init("max", .number(largest)), .init("rms", .number(rms)), .init("magnitude", .number(magnitude)),
            ]
          }
          return .object(members)
        })),
  ])
}

/// Three significant digits: "1.23e-07".
func scientific(_ value: Double) -> String {
  guard value.isFinite, value != 0 else { return "\(value)" }
  var exponent = 0
  var mantissa = abs(value)
  while mantissa >= 10 { (mantissa, exponent) = (mantissa / 10, exponent + 1) }
  while mantissa < 1 { (mantissa, exponent) = (mantissa * 10, exponent - 1) }
  let power = abs(exponent) < 10 ? "0\(abs(exponent))" : "\(abs(exponent))"
  return (value < 0 ? "-" : "") + fixed(mantissa, 2) + "e" + (exponent < 0 ? "-" : "+") + power
}

/// `peft-tool completions SHELL`
@Sendable func completionsCommand(_ invocation: Invocation, _ console: Console) async throws -> Int32 {
  // The table takes no other word.
  guard let shell = Completions.Shell(rawValue: invocation.operands[0]) else { return 2 }
  console.output(Completions.script(shell))
  return 0
}

/// `peft-tool man`
@Sendable func manCommand(_ invocation: Invocation, _ console: Console) async throws -> Int32 {
  console.output(ManPage.text)
  return 0
}
