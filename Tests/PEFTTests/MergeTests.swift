import PEFT
import TensorFiles
import TestSupport
import Testing

/// One LoRA module's merged weight, computed here in double precision from the files.
private struct ExactMerge {
  let values: [Double]
  /// |W0| + |ΔW| by element, scaled as the weight is.
  let magnitudes: [Double]

  /// `base` is `[out, in]`, or `[in, out]` if transposed; kernels count as inputs.
  init(
    base: [Double], a: [Double], b: [Double], rank: Int, scale: Double, transposed: Bool, magnitude: [Double]?
  ) {
    let (input, output) = (a.count / rank, b.count / rank)
    var values: [Double] = []
    var magnitudes: [Double] = []
    var norms = [Double](repeating: 0, count: output)
    func feature(_ index: Int) -> Int { transposed ? index % output : index / input }
    for index in base.indices {
      let i = transposed ? index / output : index % input
      let o = feature(index)
      let delta = (0..<rank).reduce(0) { $0 + b[o * rank + $1] * a[$1 * input + i] } * scale
      values.append(base[index] + delta)
      magnitudes.append(abs(base[index]) + abs(delta))
      norms[o] += values[index] * values[index]
    }
    if let magnitude {
      for index in base.indices {
        let factor = magnitude[feature(index)] / norms[feature(index)].squareRoot()
        values[index] *= factor
        magnitudes[index] *= abs(factor)
      }
    }
    self.values = values
    self.magnitudes = magnitudes
  }
}

/// The spacing of a half format's values at a magnitude.
private func spacing(_ value: Double, _ dtype: DType) -> Double {
  let (fraction, least) = dtype == .bf16 ? (7, -126) : (10, -14)
  return powerOfTwo(max(value == 0 ? least : Int(value.exponent), least) - fraction)
}

private func merged(
  _ name: String, _ scratch: ScratchDirectory, options: MergeOptions = MergeOptions(), workers: Int = 2
) async throws -> (plan: MergePlan, output: Checkpoint) {
  let root = Fixtures.path("merge/\(name)")
  let plan = try MergePlan(base: "\(root)/base", adapter: "\(root)/adapter", options: options)
  try await Merger(plan, workers: workers).run(to: scratch("out"))
  return (plan, try Checkpoint(path: scratch("out")))
}

/// The name without what a prefix adds: what checkpoints with and without it share.
private func stripped(_ name: String) -> String {
  for prefix in ["model.", "transformer.", "bert."] where name.hasPrefix(prefix) {
    return String(name.dropFirst(prefix.count))
  }
  return name
}

@Suite struct MergeTests {
  @Test(arguments: Fixtures.mergeCases)
  func everyTensorAgreesWithPEFT(name: String) async throws {
    let scratch = try ScratchDirectory()
    let (plan, output) = try await merged(name, scratch)
    #expect(plan.mergedCount == plan.adapter.modules.count)
    let expected = try Checkpoint(path: Fixtures.path("merge/\(name)/merged"))
    let expectedNames = Dictionary(uniqueKeysWithValues: expected.names.map { (stripped($0), $0) })
    #expect(Set(output.names.map(stripped)) == Set(expectedNames.keys))
    for tensor in output.names {
      let other = try #require(expectedNames[stripped(tensor)])
      let (found, wanted) = (try doubles(output, tensor), try doubles(expected, other))
      #expect(output[tensor]?.entry.dtype == expected[other]?.entry.dtype, "\(tensor)")
      #expect(output[tensor]?.entry.shape == expected[other]?.entry.shape, "\(tensor)")
      let largest = wanted.map(abs).max() ?? 0
      let dtype = try #require(output[tensor]?.entry.dtype)
      let tolerance = dtype == .f32 || dtype == .f64 ? 1e-6 * largest : 0
      for (x, y) in zip(found, wanted) {
        // PEFT sums in another order: halves may round to the neighbour.
        // The product for an embedding in bf16 it rounds to bf16 before it adds.
        let size = name == "llama-embedding" ? largest : max(abs(x), abs(y))
        let neighbour = dtype == .bf16 || dtype == .f16 ? spacing(size, dtype) : 0
        #expect(abs(x - y) <= max(tolerance, neighbour), "\(tensor)")
      }
    }
  }

  @Test(arguments: Fixtures.mergeCases)
  func everyMergedElementIsTheExactOneRoundedOnce(name: String) async throws {
    let scratch = try ScratchDirectory()
    let (plan, output) = try await merged(name, scratch)
    let scaling = try LoRAScaling(plan.adapter.config, path: "")
    var touched = 0
    for module in plan.adapter.modules {
      let weight = try #require(
        plan.base.modules.first { $0.path == module.path }?.weightName, "\(module.path)")
      let values = try scaling.values(for: module.path)
      let file = plan.adapter.file.file
      let kind = plan.base.modules.first { $0.path == module.path }?.kind
      let copy = try plan.adapter.baseCopies[module.path].map { try doubles(file, $0) }
      let exact = ExactMerge(
        base: try copy ?? doubles(plan.base.checkpoint, weight), a: try doubles(file, module.a),
        b: try doubles(file, module.b), rank: values.rank, scale: values.scale,
        transposed: kind == .transposedLinear || kind == .embedding,
        magnitude: try module.magnitude.map { try doubles(file, $0) })
      let found = try doubles(output, weight)
      let dtype = try #require(output[weight]?.entry.dtype)
      let largest = exact.values.map(abs).max() ?? 0
      for index in found.indices {
        let bound =
          switch dtype {
          case .bf16, .f16: 0.51 * spacing(exact.values[index], dtype) + 0x1p-20 * exact.magnitudes[index]
          case .f32: 1e-6 * largest
          default: 1e-14 * largest
          }
        #expect(abs(found[index] - exact.values[index]) <= bound, "\(weight) \(index)")
      }
      touched += 1
    }
    #expect(touched == plan.mergedCount && touched > 0)
  }

  @Test(arguments: Fixtures.mergeCases)
  func untargetedTensorsKeepTheirBytes(name: String) async throws {
    let scratch = try ScratchDirectory()
    let (plan, output) = try await merged(name, scratch)
    let difference = try CheckpointDifference(plan.base.checkpoint, output)
    let changed = difference.tensors.filter { $0.finding != .identical }
    #expect(changed.count <= plan.mergedCount + plan.replacedCount + plan.addedCount)
    #expect(!changed.contains { $0.finding == .removed || $0.finding == .retyped })
  }

  @Test func theNumberOfTasksDoesNotChangeABit() async throws {
    let (one, four) = (try ScratchDirectory(), try ScratchDirectory())
    _ = try await merged("llama-bf16-all-linear", one, workers: 1)
    _ = try await merged("llama-bf16-all-linear", four, workers: 4)
    #expect(try contents(one("out/model.safetensors")) == contents(four("out/model.safetensors")))
  }

  @Test func theBasesShardsAreKept() async throws {
    let scratch = try ScratchDirectory()
    let (plan, output) = try await merged("llama-sharded", scratch)
    let names = plan.base.checkpoint.shards.map { FileSystem.lastComponent($0.path) }
    #expect(output.shards.map { FileSystem.lastComponent($0.path) } == names)
    #expect(
      try JSONValue(contentsOf: scratch("out/model.safetensors.index.json"))
        == JSONValue(contentsOf: Fixtures.path("merge/llama-sharded/base/model.safetensors.index.json")))
  }

  @Test func shardsCanBeFilledAnew() async throws {
    let scratch = try ScratchDirectory()
    var options = MergeOptions()
    options.maxShardBytes = 4000
    let (_, output) = try await merged("llama-f32-qv", scratch, options: options)
    #expect(output.shards.count > 1)
    let whole = try ScratchDirectory()
    let (_, single) = try await merged("llama-f32-qv", whole)
    #expect(try CheckpointDifference(single, output).tensors.allSatisfy { $0.finding == .identical })
    for shard in output.shards {
      #expect(shard.dataOffset % 64 == 0)
      #expect(shard.entries.count == 1 || shard.entries.reduce(0) { $0 + $1.byteRange.count } <= 4000)
    }
  }

  @Test func sideFilesAreCopiedAndTheAdaptersTokenizerWins() async throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path("merge/llama-f32-qv")
    try copyDirectory("\(root)/base", to: scratch("base"))
    try copyDirectory("\(root)/adapter", to: scratch("adapter"))
    try overwrite(scratch("base/tokenizer.json"), "base")
    try overwrite(scratch("base/tokenizer_config.json"), "base")
    try overwrite(scratch("base/added_tokens.json"), "stale")
    try overwrite(scratch("base/generation_config.json"), "{}")
    try overwrite(scratch("base/pytorch_model.bin"), "weights")
    try FileSystem.makeDirectory(scratch("base/1_Pooling"))
    try overwrite(scratch("base/1_Pooling/config.json"), "{}")
    try overwrite(scratch("adapter/tokenizer.json"), "adapter")
    try overwrite(scratch("adapter/tokenizer_config.json"), "adapter")
    try await Merger(MergePlan(base: scratch("base"), adapter: scratch("adapter"))).run(to: scratch("out"))
    #expect(
      try FileSystem.names(in: scratch("out")) == [
        "1_Pooling", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
      ])
    #expect(try FileSystem.text(scratch("out/tokenizer.json")) == "adapter")
    #expect(try contents(scratch("out/config.json")) == contents(scratch("base/config.json")))
  }

  @Test func aTiedHeadThatIsTargetedIsUntied() async throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path("merge/gemma-tied")
    try copyDirectory("\(root)/adapter", to: scratch("adapter"))
    let source = try SafetensorsFile(path: "\(root)/adapter/adapter_model.safetensors")
    // The head's factors are those of a layer whose input fits; its output is the vocabulary.
    let a = try #require(source["base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"])
    let items = [
      SafetensorsLayout.Item(name: "base_model.model.lm_head.lora_A.weight", dtype: .f32, shape: a.shape),
      SafetensorsLayout.Item(name: "base_model.model.lm_head.lora_B.weight", dtype: .f32, shape: [40, a.shape[0]]),
    ]
    try FileSystem.remove(scratch("adapter/adapter_model.safetensors"))
    let layout = try SafetensorsLayout(path: "", items: items)
    let file = try layout.create(at: scratch("adapter/adapter_model.safetensors"))
    try file.copy(a.byteRange, from: source.file, to: layout.entries[0].byteRange.lowerBound)
    let ones = [Float](repeating: 1, count: 40 * a.shape[0])
    try file.write(ones.span.bytes, at: layout.entries[1].byteRange.lowerBound)
    var config = try JSONValue(contentsOf: scratch("adapter/adapter_config.json"))
    config["target_modules"] = .array([.string("lm_head")])
    try overwrite(scratch("adapter/adapter_config.json"), config.compactText)
    let plan = try MergePlan(base: "\(root)/base", adapter: scratch("adapter"))
    #expect(plan.addedCount == 1)
    try await Merger(plan).run(to: scratch("out"))
    let output = try Checkpoint(path: scratch("out"))
    #expect(output["lm_head.weight"]?.entry.shape == [40, 16])
    #expect(
      try doubles(output, "model.embed_tokens.weight") == doubles(plan.base.checkpoint, "model.embed_tokens.weight"))
    #expect(try doubles(output, "lm_head.weight") != doubles(output, "model.embed_tokens.weight"))
    #expect(try JSONValue(contentsOf: scratch("out/config.json"))["tie_word_embeddings"] == .bool(false))
  }

  /// A second adapter for the plainest fixture, with a random B.
  private func second(_ scratch: ScratchDirectory) throws -> String {
    let root = Fixtures.path("merge/llama-f32-qv")
    var config = try PeftConfig.load(directory: "\(root)/adapter")
    config.rank = 7
    config.initLoRAWeights = .bool(false)
    let base = try BaseModel(path: "\(root)/base", taskType: config.taskType)
    try AdapterInitializer(base: base, config: config, configPath: "x", seed: 9).write(to: scratch("second"))
    return scratch("second")
  }

  @Test func severalAdaptersAddUpWithTheirWeights() async throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path("merge/llama-f32-qv")
    let other = try second(scratch)
    let inputs = [MergePlan.Input("\(root)/adapter", weight: 0.5), MergePlan.Input(other, weight: -2)]
    let plan = try MergePlan(base: "\(root)/base", adapters: inputs)
    try await Merger(plan).run(to: scratch("both"))
    for (name, adapter) in [("one", "\(root)/adapter"), ("two", other)] {
      try await Merger(MergePlan(base: "\(root)/base", adapter: adapter)).run(to: scratch(name))
    }
    let (both, one, two) = (
      try Checkpoint(path: scratch("both")), try Checkpoint(path: scratch("one")), try Checkpoint(path: scratch("two"))
    )
    for name in both.names {
      let base = try doubles(plan.base.checkpoint, name)
      let (x, y, sum) = (try doubles(one, name), try doubles(two, name), try doubles(both, name))
      for index in base.indices {
        let expected = base[index] + 0.5 * (x[index] - base[index]) - 2 * (y[index] - base[index])
        #expect(abs(sum[index] - expected) < 2e-6, "\(name)")
      }
    }
    #expect(plan.mergedCount == 8)
  }

  @Test func whatHasNoWeightIsRefusedWithOne() throws {
    for name in ["llama-dora", "llama-saved-head", "llama-tokens"] {
      let root = Fixtures.path("merge/\(name)")
      let error = #expect(throws: AdapterError.self) {
        try MergePlan(base: "\(root)/base", adapters: [MergePlan.Input("\(root)/adapter", weight: 0.5)])
      }
      #expect(error.map(caseName) == "unsupported")
    }
    let root = Fixtures.path("merge/llama-dora")
    let twice = MergePlan.Input("\(root)/adapter")
    let error = #expect(throws: AdapterError.self) { try MergePlan(base: "\(root)/base", adapters: [twice, twice]) }
    #expect(error.map(caseName) == "unsupported")
  }
}
