internal import TensorFiles

/// README.md of an adapter: the front matter that PEFT writes, and a short text.
///
/// Source of the keys: peft/peft_model.py `PeftModel.create_or_update_model_card`.
package struct ModelCard {
  package static let fileName = "README.md"

  let config: PeftConfig
  /// True if the adapter was made just now and not trained.
  let isFresh: Bool

  package init(config: PeftConfig, isFresh: Bool) {
    self.config = config
    self.isFresh = isFresh
  }

  package var text: String {
    let base = config.baseModelNameOrPath ?? ""
    var front = ["base_model: \(yaml(base))", "library_name: peft"]
    if config.taskType == "CAUSAL_LM" { front.append("pipeline_tag: text-generation") }
    front.append("tags:")
    let tags = ["base_model:adapter:\(base)", "transformers"] + (config.peftType == .lora ? ["lora"] : [])
    front += tags.sorted().map { "- \(yaml($0))" }
    return (["---"] + front + ["---"] + body).joined(separator: "\n")
  }

  private var body: [String] {
    var lines = ["# A \(config.peftType == .lora ? "LoRA" : config.peftType.rawValue) adapter", ""]
    let isZero = config.peftType == .lora && config.initLoRAWeights == .bool(true)
    if isFresh {
      lines += [
        isZero
          ? "Fresh: lora_B is zero, so the adapter changes nothing until it is trained."
          : "Fresh: the adapter has not been trained yet.", "",
      ]
    }
    lines += ["| | |", "|---|---|", "| base model | \(config.baseModelNameOrPath ?? "not named") |"]
    if config.peftType == .lora {
      lines += [
        "| rank | \(config.rank) |", "| alpha | \(config.alpha.map { $0.json.compactText } ?? "not set") |",
        "| targets | \(config.targetModules?.description ?? "the model's default") |",
      ]
    }
    return lines + [
      "",
      "```python",
      "from peft import AutoPeftModel",
      "model = AutoPeftModel.from_pretrained(\"path/to/this/directory\")",
      "```",
      "### Framework versions",
      "",
      "- PEFT \(PeftConfig.mirroredVersion)",
    ]
  }

  /// A YAML scalar, quoted where a plain one would not mean the same string.
  private func yaml(_ text: String) -> String {
    let special = "&*!|>'\"%@`#{}[],?-"
    let plain =
      !text.isEmpty && !text.contains(": ") && !text.contains(" #") && !text.hasSuffix(":")
      && !special.contains(text.first ?? "'") && !text.contains(where: \.isNewline)
      && text.first != " " && text.last != " " && Double(text) == nil
      && !["true", "false", "null", "yes", "no", "on", "off", "~"].contains(text.lowercased())
    return plain
      ? text : "'" + text.split(separator: "'", omittingEmptySubsequences: false).joined(separator: "''") + "'"
  }
}
