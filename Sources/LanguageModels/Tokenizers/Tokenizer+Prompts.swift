package import PEFT
internal import TensorFiles

extension Tokenizer {
  /// The tokens of the text that a fresh prompt starts from: by the tokenizer in `tokenizer_name_or_path`, where that is a directory,
  /// or the base's. Nil where the configuration has no such text, or where there is no tokenizer.
  ///
  /// Source: peft/tuners/prompt_tuning/model.py `PromptEmbedding`.
  /// Throws what `Tokenizer.init` and `encode` throw.
  package static func promptTokens(_ config: PeftConfig, base: String) throws(ModelError) -> [Int]? {
    guard config.settings["prompt_tuning_init"] == .string("TEXT"),
      let text = config.settings["prompt_tuning_init_text"]?.stringValue
    else { return nil }
    let named = config.settings["tokenizer_name_or_path"]?.stringValue
    let directories = (named.map { [$0] } ?? []) + [base]
    let names = ["tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model"]
    guard
      let directory = directories.first(where: { directory in
        names.contains { FileSystem.kind(FileSystem.join(directory, $0)) == .file }
      })
    else { return nil }
    return try Tokenizer(directory: directory).encode(text)
  }
}
