import Glibc
import LanguageModels
import PEFT
import TensorFiles
import TensorMath
import TestSupport
import Testing

/// What does not fit is said before any work.
@Suite struct BadInputTests {
  /// A copy of a model with another config.json.
  private func model(_ name: String, _ edit: (inout JSONValue) -> Void) throws -> (ScratchDirectory, String) {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path("models/\(name)")
    try FileSystem.makeDirectory(scratch("model"))
    try FileSystem.copy("\(root)/model.safetensors", to: scratch("model/model.safetensors"))
    var config = try JSONValue(contentsOf: "\(root)/config.json")
    edit(&config)
    try OpenFile.create(scratch("model/config.json")).write(config.compactText)
    return (scratch, scratch("model"))
  }

  private func failure(_ name: String, _ key: String, _ value: JSONValue) throws -> String {
    let (scratch, path) = try model(name) { $0[key] = value }
    defer { withExtendedLifetime(scratch) {} }
    do {
      _ = try CausalLanguageModel(directory: path)
      return "loaded"
    } catch { return error.description }
  }

  @Test func anUnknownArchitectureListsTheKnownOnes() throws {
    let text = try failure("llama", "model_type", .string("mamba"))
    #expect(text.contains("'mamba'") && text.contains("gemma, gpt2, llama, mistral, opt, qwen2, qwen3"))
  }

  @Test(arguments: [
    ("intermediate_size", JSONValue.integer(32), "[32, 16]"),
    ("num_hidden_layers", .integer(3), "is not in the checkpoint"),
    ("hidden_size", .string("x"), "hidden_size"), ("num_attention_heads", .integer(0), "num_attention_heads"),
    ("num_key_value_heads", .integer(3), "num_key_value_heads"), ("hidden_act", .string("mesh"), "hidden_act"),
    ("vocab_size", .integer(41), "[41, 16]"), ("rms_norm_eps", .bool(true), "rms_norm_eps"),
    ("rope_parameters", .object([.init("rope_type", .string("yarn"))]), "yarn"),
  ])
  func aConfigurationThatDoesNotFitIsNamed(key: String, value: JSONValue, part: String) throws {
    let text = try failure("llama", key, value)
    #expect(text.contains(part), "\(text)")
  }

  @Test func aQuantizedModelIsRefusedAsSuch() throws {
    let (scratch, path) = try model("llama") {
      $0["num_hidden_layers"] = .integer(3)
      $0["quantization_config"] = .object([.init("quant_method", .string("gptq"))])
    }
    defer { withExtendedLifetime(scratch) {} }
    let error = #expect(throws: ModelError.self) { try CausalLanguageModel(directory: path) }
    #expect(error?.description.contains("quantized (quantization_config: gptq)") == true)
  }

  @Test func aTokenizerOfAnotherModelIsRefused() throws {
    let tokenizer = try Tokenizer(directory: Fixtures.path("tokenizers/gpt2"))
    #expect(throws: ModelError.self) { try tokenizer.check(vocabulary: 40) }
    try tokenizer.check(vocabulary: tokenizer.largestID + 1)
    #expect(throws: ModelError.self) { try Tokenizer(directory: Fixtures.path("models/llama")) }
  }

  @Test(arguments: [
    (#"{"model": {"type": "WordPiece"}}"#, "WordPiece"), (#"{"model": {"type": "BPE", "vocab": {"a": -1}}}"#, "vocab"),
    (#"{"normalizer": {"type": "Nmt"}, "model": {"type": "BPE", "vocab": {}, "merges": []}}"#, "Nmt"),
    (
      #"{"pre_tokenizer": {"type": "UnicodeScripts"}, "model": {"type": "BPE", "vocab": {}, "merges": []}}"#,
      "UnicodeScripts"
    ),
    (#"{"decoder": {"type": "WordPiece"}, "model": {"type": "BPE", "vocab": {}, "merges": []}}"#, "decoder"),
    (#"{"post_processor": {"type": "X"}, "model": {"type": "BPE", "vocab": {}, "merges": []}}"#, "post-processor"),
    (#"{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}}"#, "merges"),
    (
      #"{"decoder": "# + String(repeating: #"{"type": "Sequence", "decoders": ["#, count: 900)
        + String(repeating: "]}", count: 900) + "}", "decoder"
    ),
    (#"{"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}, "model": {}}"#, "Precompiled"),
    ("{}", "model"),
    ("[1", "tokenizer.json"),
  ])
  func aPartOfATokenizerThatIsNotKnownIsNamed(text: String, part: String) throws {
    let scratch = try ScratchDirectory()
    try OpenFile.create(scratch("tokenizer.json")).write(text)
    let error = #expect(throws: ModelError.self) { try Tokenizer(directory: scratch.path) }
    #expect(error?.description.contains(part) == true, "\(error?.description ?? "")")
  }

  @Test func anAdapterOfAnotherModelIsRefusedAndTheModelStays() throws {
    let model = try PeftModel(base: Fixtures.path("models/gpt2"))
    #expect(throws: ModelError.self) { try model.load(Fixtures.path("running/first"), named: "x") }
    #expect(throws: ModelError.self) { try model.load(Fixtures.path("methods/prefix-tuning/adapter"), named: "x") }
    #expect(model.adapterNames.isEmpty)
  }

  /// The tree has the modules that the file tool sees.
  @Test(arguments: ArchitectureTests.cases)
  func theTreeAndTheBaseModelNameTheSameModules(name: String) throws {
    let model = try CausalLanguageModel(directory: Fixtures.path("models/\(name)"))
    let inTree = Set(
      model.root.namedModules().filter { $0.module.parameters.contains { $0.name == "weight" } }.map(\.path))
    #expect(inTree == Set(model.base.modules.map(\.path)))
    let stored = model.base.checkpoint.shards.flatMap(\.entries).reduce(0) { $0 + $1.elementCount }
    #expect(model.parameterCount == stored)
  }

  /// Files of 256 GB that take no room on the disk.
  @Test(arguments: [
    "chat_template.jinja", "tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json",
    "additional_chat_templates/tool_use.jinja", "vocab.json", "merges.txt", "adapter_config.json",
    "model.safetensors.index.json",
  ])
  func aHugeFileIsRefusedBeforeItIsRead(name: String) throws {
    let scratch = try ScratchDirectory()
    try FileSystem.makeDirectories(FileSystem.parentDirectory(scratch(name)))
    for other in ["vocab.json", "tokenizer_config.json"] where name == "merges.txt" || name.hasSuffix("jinja") {
      try OpenFile.create(scratch(other)).write("{\"chat_template\": \"x\"}")
    }
    _ = try OpenFile.create(scratch(name))
    #expect(truncate(scratch(name), 256 << 30) == 0)
    if name == "merges.txt" || name == "vocab.json" || name == "tokenizer.json" {
      if name == "vocab.json" { _ = try OpenFile.create(scratch("merges.txt")) }
      #expect(throws: ModelError.self) { try Tokenizer(directory: scratch.path) }
    } else if name.hasSuffix("jinja") || name == "tokenizer_config.json" {
      #expect(throws: ModelError.self) { try ChatTemplate(directory: scratch.path) }
    } else {
      #expect(throws: TensorFileError.self) { try JSONValue(contentsOf: scratch(name)) }
    }
    let found = #expect(throws: TensorFileError.self) { try FileSystem.text(scratch(name)) }
    #expect(
      found?.description == "\(scratch(name)): 274877906944 bytes; at most 1073741824 are read as such a text. "
        + "Check the file, or divide it.")
  }

  /// Seeded damage to tokenizer files: an error or a result, never a trap.
  @Test func damagedTokenizersNeverTrap() throws {
    let scratch = try ScratchDirectory()
    var random = TorchGenerator(seed: 5)
    for (index, name) in (0..<fuzzRounds * 3 / 100).map({
      ($0, ["smollm", "mistral", "unigram", "unigram-precompiled"][$0 % 4])
    }) {
      var bytes = Array(try FileSystem.text(Fixtures.path("tokenizers/\(name)/tokenizer.json")).utf8)
      for _ in 0..<1 + Int(random.nextLongBits() % 4) {
        bytes[Int(random.nextLongBits() % UInt64(bytes.count))] = UInt8(truncatingIfNeeded: random.nextLongBits())
      }
      let directory = scratch("t\(index)")
      try FileSystem.makeDirectory(directory)
      let file = try OpenFile.create("\(directory)/tokenizer.json")
      try file.write(bytes.span.bytes, at: 0)
      if let tokenizer = try? Tokenizer(directory: directory) {
        if let ids = try? tokenizer.encode("Hello wörld 12 <s> 😀\n") { _ = try? tokenizer.decode(ids) }
      }
      try FileSystem.remove(directory)
    }
  }
}
