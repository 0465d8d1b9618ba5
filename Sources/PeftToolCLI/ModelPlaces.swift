internal import LanguageModels
internal import PEFT
internal import TensorFiles

/// Where the first operand's model and tokenizer are: an adapter's configuration names its base.
struct ModelPlaces {
  private(set) var base: String
  /// The operand, if it is an adapter.
  var adapter: String?

  init(_ invocation: Invocation) throws {
    let path = invocation.operands[0]
    base = path
    if FileSystem.kind(FileSystem.join(path, "config.json")) != .file,
      FileSystem.kind(FileSystem.join(path, PeftConfig.fileName)) == .file
    {
      adapter = path
      base = try AutoPeftModelForCausalLM.baseDirectory(of: path, hub: Hub(isOffline: invocation.has("offline")))
    }
  }

  /// The directory with the tokenizer: the adapter's, if it has one of its own.
  var texts: String {
    guard let adapter, FileSystem.kind(FileSystem.join(adapter, "tokenizer.json")) == .file else { return base }
    return adapter
  }

  /// The adapters of the operand and of `--adapter`.
  func adapters(_ invocation: Invocation) throws -> [MergePlan.Input] {
    try ((adapter.map { [$0] } ?? []) + invocation.all("adapter")).map { word in
      let input = try adapterInput(word)
      guard Float(input.weight).isFinite else {
        throw UsageError.badWeight(adapter: input.directory, found: "\(input.weight)")
      }
      return input
    }
  }

  /// The model with its adapters, each under the name that is given for it.
  func load(_ adapters: [(name: String, input: MergePlan.Input)]) throws -> PeftModel {
    // The weights are mapped: a file that is cut must be an error, not the end of the process.
    do { try MappedFile.survivesCuts() } catch { throw AdapterError.file(error) }
    let model = try PeftModel(base: base)
    for (name, input) in adapters { try model.load(input.directory, named: name) }
    if !adapters.isEmpty { try model.setActive(adapters.map { ($0.name, Float($0.input.weight)) }) }
    return model
  }

  /// The model with the adapters of the operand and of `--adapter`.
  func load(_ invocation: Invocation) throws -> PeftModel {
    try load(
      adapters(invocation).enumerated().map { index, input in
        (name: index == 0 ? "default" : "adapter\(index)", input: input)
      })
  }

  /// The tokenizer, which must fit the model.
  func tokenizer(for model: PeftModel) throws -> Tokenizer {
    let tokenizer = try Tokenizer(directory: texts)
    try tokenizer.check(vocabulary: model.model.vocabularySize)
    return tokenizer
  }
}
