package import PEFT
package import TensorFiles

/// A file of settings, JSON or YAML, by the names of transformers, TRL, axolotl, LLaMA-Factory or mlx-lm.
package struct ArgumentsFile {
  package private(set) var arguments = TrainingArguments()
  /// Options of the command by their flags' names with underscores.
  package private(set) var options: [JSONValue.Member] = []
  /// What adapter_config.json must say.
  package private(set) var adapter: [JSONValue.Member] = []
  /// What was read under another name, or has no effect: a line each.
  package private(set) var notes: [String] = []
  private let path: String

  /// Reads a file; JSON if it begins with a brace.
  ///
  /// Throws `.file`, `.record` with the line, `.unknownArgument` with the nearest names, `.argumentValue`.
  package init(path: String) throws(TrainingError) {
    self.path = path
    let text: String
    do throws(TensorFileError) { text = try FileSystem.text(path, limit: YAMLReader.fileLimit) } catch {
      throw .file(error)
    }
    let json: JSONValue
    if text.first(where: { !$0.isWhitespace }) == "{" {
      do throws(TensorFileError) { json = try JSONValue(contentsOf: path) } catch { throw .file(error) }
    } else {
      do throws(YAMLFailure) { json = try YAMLReader.value(of: text) } catch {
        throw .record(path: path, line: error.line, reason: error.reason)
      }
    }
    guard let members = json.members ?? (json == .null ? [] : nil) else {
      throw .record(path: path, line: 0, reason: "it is no mapping of settings")
    }
    for member in members { try take(member) }
  }

  private mutating func take(_ member: JSONValue.Member) throws(TrainingError) {
    let (name, value) = (member.key, member.value)
    if TrainingArguments.settings.contains(where: { $0.name == name }) { return try arguments.set(name, value) }
    switch name {
    case "lora_parameters": return try takeLoRA(value)
    case "lr_schedule": return try takeSchedule(value)
    default: break
    }
    switch ArgumentAliases.meanings[name] {
    case .setting(let target, let convert)?:
      guard let converted = convert(value) else { throw wrong(name, value) }
      guard !target.isEmpty else { return }
      try arguments.set(target, converted)
      notes.append("\(name) → \(target) \(converted.compactText)")
      if name == "steps_per_eval" { try arguments.set("eval_strategy", .string("steps")) }
    case .option(let target, let convert)?:
      guard let converted = convert(value) else { throw wrong(name, value) }
      guard converted != .null else { return }
      options.append(.init(target, converted))
      if name != target { notes.append("\(name) → --\(target.replacing("_", with: "-")) \(converted.compactText)") }
    case .adapter(let key)?: adapter.append(.init(key, value))
    case .unused(let reason)?: notes.append("\(name) has no effect: \(reason)")
    case nil:
      let known = TrainingArguments.settings.map(\.name) + ArgumentAliases.meanings.keys.sorted()
      throw .unknownArgument(
        name: name, nearest: nearestNames(to: name, in: known + ["lora_parameters", "lr_schedule"]))
    }
  }

  /// mlx-lm's adapter: its scale is the factor itself, alpha = scale · rank.
  private mutating func takeLoRA(_ value: JSONValue) throws(TrainingError) {
    let rank = value["rank"]?.integerValue
    for member in value.members ?? [] {
      switch member.key {
      case "rank": adapter.append(.init("r", member.value))
      case "dropout": adapter.append(.init("lora_dropout", member.value))
      case "keys": adapter.append(.init("target_modules", member.value))
      case "scale":
        guard let rank, let scale = member.value.numberValue else { throw wrong("lora_parameters", value) }
        adapter.append(.init("lora_alpha", .number(scale * Double(rank))))
        notes.append("scale \(member.value.compactText) → lora_alpha \(scale * Double(rank)) (r \(rank))")
      default:
        throw .unknownArgument(name: "lora_parameters.\(member.key)", nearest: ["rank", "scale", "dropout", "keys"])
      }
    }
  }

  /// mlx-lm's course of the rate.
  private mutating func takeSchedule(_ value: JSONValue) throws(TrainingError) {
    let names = ["cosine_decay": "cosine", "linear_schedule": "linear"]
    guard let name = value["name"]?.stringValue.flatMap({ names[$0] }) else { throw wrong("lr_schedule", value) }
    try arguments.set("lr_scheduler_type", .string(name))
    if let warmup = value["warmup"] { try arguments.set("warmup_steps", warmup) }
    if let rate = value["arguments"]?.elements?.first { try arguments.set("learning_rate", rate) }
    notes.append("lr_schedule → lr_scheduler_type \(name), down to 0 at the last step")
  }

  private func wrong(_ name: String, _ value: JSONValue) -> TrainingError {
    let expected =
      ["optim", "optimizer"].contains(name)
      ? "adamw_torch_fused, adamw_torch or adamw, which are the fused AdamW here" : "a value that it can have here"
    return .argumentValue(name: name, found: value.compactText, expected: expected)
  }

  /// Throws `.contradiction` where adapter_config.json says otherwise than the file.
  package func check(_ config: PeftConfig) throws(TrainingError) {
    let own = JSONValue(parsing: config.fileText) ?? .null
    for member in adapter {
      let found = own[member.key] ?? .null
      guard !Self.same(found, member.value) else { continue }
      throw .contradiction(
        "\(path): \(member.key) is \(member.value.compactText), but CONFIG says \(found.compactText). CONFIG decides: "
          + "make the two the same, or leave the setting out.")
    }
  }

  private static func same(_ left: JSONValue, _ right: JSONValue) -> Bool {
    if let first = left.numberValue, let second = right.numberValue { return first == second }
    if left.isEmptyOrFalse && right.isEmptyOrFalse { return true }
    if let first = names(left), let second = names(right) { return first == second }
    return left == right
  }

  /// Names in any order; a text with commas is a list of them, and "all" PEFT's "all-linear".
  private static func names(_ value: JSONValue) -> Set<String>? {
    if let text = value.stringValue {
      return text == "all" || text == "all-linear" ? ["all-linear"] : Set(text.split(separator: ",").map(String.init))
    }
    return value.elements.map { Set($0.compactMap(\.stringValue)) }
  }
}
