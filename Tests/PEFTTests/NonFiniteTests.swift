import PEFT
import TensorFiles
import TestSupport
import Testing

@Suite struct NonFiniteTests {
  /// Writes one element of a tensor: the given bits, or the dtype's largest finite value, an infinity or a NaN.
  private enum Value: String, CaseIterable {
    case infinity, nan, greatest
  }

  private func set(_ path: String, _ tensor: String, _ value: Value, at index: Int = 0, everywhere: Bool = false) throws
  {
    let file = try SafetensorsFile(path: path)
    let entry = try #require(file[tensor])
    var bytes = try contents(path)
    let width = entry.dtype.bitCount / 8
    let word: UInt64 =
      switch (entry.dtype, value) {
      case (.f16, .infinity): 0x7C00
      case (.f16, .nan): 0xFE01
      case (.f16, .greatest): 0x7BFF
      case (.bf16, .infinity): 0xFF80
      case (.bf16, .nan): 0x7FC0
      case (.bf16, .greatest): 0x7F7F
      case (.f32, .infinity): 0x7F80_0000
      case (.f32, .nan): 0xFFC0_0000
      case (.f32, .greatest): 0x7F7F_FFFF
      case (_, .infinity): 0x7FF0_0000_0000_0000
      case (_, .nan): 0x7FF8_0000_0000_0000
      case (_, .greatest): 0x7FEF_FFFF_FFFF_FFFF
      }
    for place in everywhere ? 0..<entry.elementCount : index..<index + 1 {
      for byte in 0..<width {
        bytes[entry.byteRange.lowerBound + place * width + byte] = UInt8(truncatingIfNeeded: word >> (8 * byte))
      }
    }
    try overwrite(path, bytes)
  }

  private struct Copy {
    let scratch: ScratchDirectory
    var base: String { scratch("base") }
    var adapter: String { scratch("adapter") }
    var weights: String { scratch("adapter/adapter_model.safetensors") }
    var model: String { scratch("base/model.safetensors") }

    init(_ name: String) throws {
      scratch = try ScratchDirectory()
      try copyDirectory(Fixtures.path("\(name)/base"), to: scratch("base"))
      try copyDirectory(Fixtures.path("\(name)/adapter"), to: scratch("adapter"))
    }

    func plan(_ options: MergeOptions = MergeOptions()) throws(AdapterError) -> MergePlan {
      try MergePlan(base: base, adapter: adapter, options: options)
    }
  }

  private var lenient: MergeOptions {
    var options = MergeOptions()
    options.allowNonFinite = true
    return options
  }

  /// Every part of an adapter: factors, magnitudes, biases, rows, saved modules, experts, shared tensors, copies of the base.
  @Test(arguments: [
    "merge/llama-f32-qv", "merge/llama-bf16-adapter-bf16", "merge/llama-f32-adapter-f16", "merge/llama-f64",
    "merge/llama-dora", "merge/llama-lora-bias", "merge/llama-tokens", "merge/llama-saved-head", "merge/llama-bias-all",
    "merge/llama-embedding", "merge/resnet-convolution", "variants/mixtral-experts", "variants/llama-kasa",
    "methods/vera", "methods/ia3", "methods/ln-tuning", "methods/shira", "methods/trainable-tokens", "methods/unilora",
  ])
  func anAdapterThatIsNotFiniteIsRefusedByTensorAndModule(name: String) throws {
    for value in [Value.infinity, .nan] {
      let names = try SafetensorsFile(path: Fixtures.path("\(name)/adapter/adapter_model.safetensors")).entries
        .filter(\.dtype.isComputable).map(\.name)
      for tensor in names {
        let copy = try Copy(name)
        try set(copy.weights, tensor, value, at: 0)
        let error = try #require(#expect(throws: AdapterError.self, "\(tensor)") { try copy.plan() })
        guard case .adapterNotFinite(_, let found, let module, count: 1, of: _) = error else {
          Issue.record("\(tensor): \(error)")
          continue
        }
        #expect(found == tensor && !module.isEmpty)
        #expect(error.description.contains("'\(tensor)' of module '\(module)'"))
        #expect(throws: Never.self) { try copy.plan(lenient) }
      }
    }
  }

  @Test(arguments: [1e308, -1e308, .infinity, .nan, 1e300])
  func aFactorThatIsNotFiniteIsRefusedByModule(weight: Double) throws {
    for name in ["merge/llama-f32-qv", "merge/llama-bf16-all-linear", "merge/llama-lora-bias", "methods/loha"] {
      let root = Fixtures.path(name)
      let inputs = [MergePlan.Input("\(root)/adapter", weight: weight)]
      let error = try #require(
        #expect(throws: AdapterError.self) { try MergePlan(base: "\(root)/base", adapters: inputs) })
      #expect(caseName(error) == "factorNotFinite" && error.description.contains("model.layers.0."), "\(error)")
    }
  }

  /// The low-rank kernel, long sums, rules, whole weights, biases, rows and saved modules, in every dtype.
  @Test(arguments: [
    ("merge/llama-f16-rslora", "model.layers.1.self_attn.q_proj.weight"),
    ("merge/llama-bf16-all-linear", "model.layers.0.mlp.down_proj.weight"),
    ("merge/llama-rank-100", "model.layers.0.self_attn.v_proj.weight"),
    ("merge/llama-f64", "model.layers.0.self_attn.q_proj.weight"),
    ("merge/gpt2-conv1d", "transformer.h.0.attn.c_attn.weight"),
    ("merge/resnet-convolution", "resnet.embedder.embedder.convolution.weight"),
    ("methods/loha-bf16", "model.layers.0.self_attn.q_proj.weight"),
    ("methods/fourierft-bf16", "model.layers.0.self_attn.v_proj.weight"),
    ("methods/beft", "model.layers.0.self_attn.q_proj.bias"),
    ("merge/llama-lora-bias", "model.layers.0.self_attn.q_proj.bias"),
  ])
  func aSumBeyondTheDTypeStopsTheMergeAndNothingIsWritten(name: String, tensor: String) async throws {
    let copy = try Copy(name)
    // A change as large as the dtype's largest value, on weights that are as large.
    try set(copy.model, tensor, .greatest, everywhere: true)
    let module = tensor.split(separator: ".").dropLast().joined(separator: ".")
    let dtype = try #require(try SafetensorsFile(path: copy.model)[tensor]).dtype
    let weights = try SafetensorsFile(path: copy.weights)
    let entry = try #require(
      weights.entries.first { $0.name.contains(module) && ($0.name.hasSuffix("bias") || !tensor.hasSuffix("bias")) })
    let weight = dtype == .f16 ? 1e4 : dtype == .f64 ? 1e305 : 5e37
    let inputs = [MergePlan.Input(copy.adapter, weight: weight)]
    let plan = try MergePlan(base: copy.base, adapters: inputs)
    let error = await #expect(throws: AdapterError.self, "\(entry.name)") {
      try await Merger(plan).run(to: copy.scratch("out"))
    }
    guard case .file(.resultNotFinite(_, let found, let type, _, cameSo: false))? = error else {
      Issue.record("\(String(describing: error))")
      return
    }
    #expect(dtype == type && found.hasSuffix(tensor.hasSuffix("bias") ? "bias" : "weight"))
    #expect(Set(try FileSystem.names(in: copy.scratch.path)) == ["base", "adapter"])
    let outcome = try await Merger(MergePlan(base: copy.base, adapters: inputs, options: lenient)).run(
      to: copy.scratch("out"))
    #expect(outcome.nonFiniteTensors.contains(tensor))
    let strict = try await MergeVerifier(plan, model: Checkpoint(path: copy.scratch("out"))).run()
    #expect(strict.first { $0.name == tensor }?.verdict == .notFinite)
    let allowing = try MergePlan(base: copy.base, adapters: inputs, options: lenient)
    let again = try await MergeVerifier(allowing, model: Checkpoint(path: copy.scratch("out"))).run()
    #expect(again.allSatisfy { $0.agrees })
  }

  @Test(arguments: [("merge/llama-saved-head", "lm_head.weight"), ("merge/llama-tokens", "trainable_tokens_delta")])
  func aStoredTensorBeyondTheBasesDTypeStopsTheMerge(name: String, part: String) async throws {
    let copy = try Copy(name)
    let stored = try SafetensorsFile(path: copy.weights)
    let tensor = try #require(stored.entries.first { $0.name.contains(part) })
    // The adapter as f32 with a value that f16 does not hold, on a base in f16.
    try convertTensors(copy.model, to: copy.scratch("half"), dtype: .f16)
    try FileSystem.remove(copy.model)
    try FileSystem.copy(copy.scratch("half"), to: copy.model)
    try FileSystem.remove(copy.scratch("half"))
    guard tensor.dtype != .f16 else { return }
    try set(copy.weights, tensor.name, .greatest, at: 3)
    let plan = try copy.plan()
    let error = await #expect(throws: AdapterError.self) { try await Merger(plan).run(to: copy.scratch("out")) }
    guard case .file(.resultNotFinite(_, tensor.name, .f16, [0, 3], cameSo: false))? = error else {
      Issue.record("\(String(describing: error))")
      return
    }
  }

  /// The adapter's own copy of an embedding has another name in its file.
  @Test func aSumOnTheAdaptersCopyOfAnEmbeddingIsNamedInTheBase() async throws {
    let copy = try Copy("merge/llama-embedding")
    let weights = try SafetensorsFile(path: copy.weights)
    let stored = try #require(weights.entries.first { $0.name.hasSuffix("embed_tokens.base_layer.weight") })
    try set(copy.weights, stored.name, .greatest, everywhere: true)
    let plan = try MergePlan(base: copy.base, adapters: [MergePlan.Input(copy.adapter, weight: 5e37)])
    let error = await #expect(throws: AdapterError.self) { try await Merger(plan).run(to: copy.scratch("out")) }
    guard case .file(.resultNotFinite(let path, let tensor, _, _, cameSo: false))? = error else {
      Issue.record("\(String(describing: error))")
      return
    }
    #expect(tensor == "model.embed_tokens.weight" && path == copy.base)
  }

  @Test func aBaseThatIsNotFiniteIsNamedAsSuch() async throws {
    let copy = try Copy("merge/llama-f32-qv")
    try set(copy.model, "model.layers.1.self_attn.v_proj.weight", .nan, at: 19)
    let plan = try copy.plan()
    let error = await #expect(throws: AdapterError.self) { try await Merger(plan).run(to: copy.scratch("out")) }
    #expect(
      error
        == .file(
          .resultNotFinite(
            path: copy.model, tensor: "model.layers.1.self_attn.v_proj.weight", dtype: .f32, element: [1, 3],
            cameSo: true)))
    // Where nothing is merged, the base's own values are its own.
    try set(copy.model, "model.layers.1.self_attn.v_proj.weight", .greatest, at: 19)
    try set(copy.model, "model.norm.weight", .infinity)
    try await Merger(copy.plan()).run(to: copy.scratch("out"))
  }
}

/// Copies a safetensors file with all tensors in another dtype, by the conversion of a merge's own replaced tensors.
private func convertTensors(_ source: String, to target: String, dtype: DType) throws {
  let old = try SafetensorsFile(path: source)
  let items = old.entries.map { SafetensorsLayout.Item(name: $0.name, dtype: dtype, shape: $0.shape) }
  let layout = try SafetensorsLayout(path: target, items: items)
  let file = try layout.create(at: target)
  for (entry, placed) in zip(old.entries, layout.entries) {
    let values = try doubles(old.file, entry).map { Float16($0) }
    try file.write(values.span.bytes, at: placed.byteRange.lowerBound)
  }
}
