import PEFT
import TensorFiles
import TestSupport
import Testing

/// Heads and embeddings whose rows are not those that the adapter has.
@Suite struct OtherRowsTests {
  /// Tensors of one value in a directory of their own.
  private func make(
    _ directory: String, _ file: String, _ tensors: [(name: String, shape: [Int])], value: Float
  ) throws {
    try FileSystem.makeDirectories(directory)
    let path = FileSystem.join(directory, file)
    let items = tensors.map { SafetensorsLayout.Item(name: $0.name, dtype: .f32, shape: $0.shape) }
    let layout = try SafetensorsLayout(path: path, items: items)
    let output = try layout.create(at: path)
    for entry in layout.entries {
      let values = [Float](repeating: value, count: entry.elementCount)
      try output.write(values.span.bytes, at: entry.byteRange.lowerBound)
    }
  }

  @Test func trainedRowsBeyondTheHeadThatConfigTiesAreRefused() throws {
    let scratch = try ScratchDirectory()
    try make(
      scratch("base"), "model.safetensors", [("model.embed_tokens.weight", [6, 4]), ("lm_head.weight", [4, 4])],
      value: 1)
    try overwrite(scratch("base/config.json"), #"{"model_type": "llama", "tie_word_embeddings": true}"#)
    try make(
      scratch("adapter"), "adapter_model.safetensors",
      [("base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta", [1, 4])], value: 2)
    func plan(row: Int) throws -> MergePlan {
      try overwrite(
        scratch("adapter/adapter_config.json"),
        #"{"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"], "#
          + #""trainable_token_indices": {"embed_tokens": [\#(row)]}}"#)
      return try MergePlan(base: scratch("base"), adapter: scratch("adapter"))
    }
    #expect(try plan(row: 3).replacedCount == 2)
    let error = #expect(throws: AdapterError.self) { try plan(row: 5) }
    #expect(error.map(caseName) == "replacementShape")
  }

  @Test func aSavedHeadWithFewerRowsKeepsTheBasesLastValuesOfItsBiasToo() async throws {
    let scratch = try ScratchDirectory()
    let names = ["lm_head.weight", "lm_head.bias"]
    try make(scratch("base"), "model.safetensors", [(names[0], [6, 4]), (names[1], [6])], value: 1)
    try overwrite(scratch("base/config.json"), #"{"model_type": "phi"}"#)
    try make(
      scratch("adapter"), "adapter_model.safetensors",
      [("base_model.model.\(names[0])", [4, 4]), ("base_model.model.\(names[1])", [4])], value: 2)
    try overwrite(
      scratch("adapter/adapter_config.json"),
      #"{"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}"#)
    try await Merger(MergePlan(base: scratch("base"), adapter: scratch("adapter"))).run(to: scratch("out"))
    let merged = try Checkpoint(path: scratch("out"))
    for name in names {
      let location = try #require(merged[name])
      let bytes = try merged.shards[location.shard].file.bytes(location.entry.byteRange)
      let width = location.entry.elementCount / 6
      #expect(
        AdapterChanges.floats(bytes)
          == [Float](repeating: 2, count: 4 * width) + [Float](repeating: 1, count: 2 * width), "\(name)")
    }
  }
}
