import PEFT
import TensorFiles
import TestSupport
import Testing

/// `slim`, `rename-keys`, `fix-config` and `repair-metadata`.
@Suite struct RewritingTests {
  private func names(_ directory: String) throws -> Set<String> {
    Set(try SafetensorsFile(path: "\(directory)/adapter_model.safetensors").entries.map(\.name))
  }

  @Test func copiesThatTheBaseHasItselfAreLeftOutAndTrainedHeadsStay() throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path("merge/llama-saved-head")
    let stored = try StoredAdapter(directory: "\(root)/adapter")
    let base = try BaseModel(path: "\(root)/base", taskType: stored.config.taskType)
    try stored.slimmed(by: base).write(to: scratch("trained"))
    #expect(try names(scratch("trained")) == names("\(root)/adapter"))
    #expect(try PeftConfig.load(directory: scratch("trained")).modulesToSave == stored.config.modulesToSave)

    // The same adapter with the base's own head.
    let head = try #require(base.checkpoint["lm_head.weight"])
    let copy = try StoredAdapter(
      stored.config, stored.weights.entries.map { .init(name: $0.name, dtype: $0.dtype, shape: $0.shape) },
      named: "copy"
    ) { sink throws(AdapterError) in
      for entry in stored.weights.entries {
        if entry.name.hasSuffix("lm_head.weight") {
          try sink.copy(head.entry, of: base.checkpoint.shards[head.shard], to: entry.name)
        } else {
          try sink.copy(entry, of: stored.weights, to: entry.name)
        }
      }
    }
    try copy.slimmed(by: base).write(to: scratch("untrained"))
    let left = try names("\(root)/adapter").subtracting(names(scratch("untrained")))
    #expect(left.count == 1 && left.first?.hasSuffix("lm_head.weight") == true)
    #expect(try PeftConfig.load(directory: scratch("untrained")).modulesToSave == nil)
  }

  @Test func modulesGetTheNamesThatTheyHaveInTheBase() throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path("merge/llama-f32-qv")
    try FileSystem.makeDirectory(scratch("other"))
    try FileSystem.copy("\(root)/adapter/adapter_config.json", to: scratch("other/adapter_config.json"))
    try renameTensors("\(root)/adapter/adapter_model.safetensors", to: scratch("other/adapter_model.safetensors")) {
      $0.replacing("model.model.layers", with: "model.language_model.model.layers")
    }
    let base = try BaseModel(path: "\(root)/base", taskType: "CAUSAL_LM")
    let rewriting = try StoredAdapter(directory: scratch("other")).renamed(after: base)
    try rewriting.write(to: scratch("out"))
    #expect(try names(scratch("out")) == names("\(root)/adapter"))
    #expect(rewriting.notes.first?.contains("language_model") == true)
    try FileSystem.remove(scratch("other/adapter_model.safetensors"))
    try renameTensors("\(root)/adapter/adapter_model.safetensors", to: scratch("other/adapter_model.safetensors")) {
      $0.replacing("_proj", with: "_projection")
    }
    let error = #expect(throws: AdapterError.self) {
      try StoredAdapter(directory: scratch("other")).renamed(after: base)
    }
    #expect(error.map(caseName) == "unmatched")
  }

  @Test func anEarlierReleaseGetsTheKeysThatItKnows() throws {
    let scratch = try ScratchDirectory()
    let stored = try StoredAdapter(directory: Fixtures.path("merge/llama-f32-qv/adapter"))
    try stored.configured(for: "0.6").write(to: scratch("out"))
    let keys = Set(try JSONValue(contentsOf: scratch("out/adapter_config.json")).members?.map(\.key) ?? [])
    #expect(keys.contains("rank_pattern") && !keys.contains("use_rslora") && !keys.contains("peft_version"))
    #expect(try PeftConfig.load(directory: scratch("out")).rank == stored.config.rank)
    let dora = try StoredAdapter(directory: Fixtures.path("merge/llama-dora/adapter"))
    let error = #expect(throws: AdapterError.self) { try dora.configured(for: "0.8.2") }
    #expect(error?.description.contains("use_dora") == true && error?.description.contains("0.9") == true)
    _ = try dora.configured(for: "0.9")
    for release in ["0.3", "1", "new", ""] {
      #expect(throws: AdapterError.self) { try dora.configured(for: release) }
    }
  }

  @Test func metadataIsRepairedAndTensorsKeepTheirBytes() throws {
    let scratch = try ScratchDirectory()
    let source = try SafetensorsFile(path: Fixtures.path("dialects/mlx-lora/foreign/adapters.safetensors"))
    try source.writeWithMetadata(to: scratch("out.safetensors"), replacing: false)
    let file = try SafetensorsFile(path: scratch("out.safetensors"))
    #expect(file.metadata == [JSONValue.Member("format", .string("pt"))])
    #expect(file.entries.map(\.name) == source.entries.map(\.name))
    for (a, b) in zip(file.entries, source.entries) {
      #expect(try file.file.holdsSameBytes(a.byteRange, b.byteRange, of: source.file))
    }
    let error = #expect(throws: TensorFileError.self) {
      try source.writeWithMetadata(to: scratch("out.safetensors"), replacing: false)
    }
    #expect(error.map(caseName) == "outputExists")
  }
}
