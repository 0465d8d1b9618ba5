import PEFT
import TensorFiles
import TestSupport
import Testing

/// Layers that PEFT treats in ways of its own, against what the running adapter computes.
@Suite struct MatchingTests {
  static let cases = (try? FileSystem.names(in: Fixtures.path("matching"))) ?? []
  static let merged = cases.filter { FileSystem.kind(Fixtures.path("matching/\($0)/merged")) != nil }
  /// What the message must say of a case that is refused.
  static let reasons = [
    "grouped-adalora": "convolution with groups", "grouped-lora": "convolution with groups",
    "grouped-oft": "convolution with groups", "square-conv1d-hira": "[in, out] (transformers' Conv1D)",
    "sum-dora-and-loha": "only sums can be added up", "sum-loha-and-ia3": "only sums can be added up",
    "sum-ia3-and-beft": "not by sums alone", "tinylora-unknown-order": "order of the model's modules",
    "unilora-unknown-order": "order of the model's modules", "both-kinds-undecided": "[in, out] (transformers' Conv1D)",
    "encoder-decoder-other-rows": "encoder and decoder keep the old embedding",
  ]

  private static func plan(_ name: String, weight: Double = 1) throws -> MergePlan {
    let root = Fixtures.path("matching/\(name)")
    let inputs = ["adapter", "adapter-2"].map { "\(root)/\($0)" }.filter { FileSystem.kind($0) != nil }
    return try MergePlan(base: "\(root)/base", adapters: inputs.map { MergePlan.Input($0, weight: weight) })
  }

  @Test(arguments: merged)
  func aMergeIsWhatTheRunningAdapterComputes(name: String) async throws {
    let scratch = try ScratchDirectory()
    try await Merger(Self.plan(name)).run(to: scratch("out"))
    let expected = try Checkpoint(path: Fixtures.path("matching/\(name)/merged"))
    let output = try Checkpoint(path: scratch("out"))
    #expect(Set(output.names) == Set(expected.names))
    for tensor in output.names {
      let entry = try #require(output[tensor]?.entry)
      #expect(entry.dtype == expected[tensor]?.entry.dtype && entry.shape == expected[tensor]?.entry.shape, "\(tensor)")
      let (found, wanted) = (try doubles(output, tensor), try doubles(expected, tensor))
      let largest = wanted.map(abs).max() ?? 0
      for (x, y) in zip(found, wanted) {
        // PEFT rounds an attention's change to bf16 before it adds it, and the projection's twice.
        let bound =
          entry.dtype == .bf16
          ? powerOfTwo(Int(largest.exponent) - 7) : (name.contains("pissa") ? 3e-5 : 1e-5) * largest
        #expect(abs(x - y) <= bound, "\(tensor)")
      }
    }
  }

  @Test(arguments: cases.filter { !merged.contains($0) })
  func whatCannotBeMergedIsRefusedForItsOwnReason(name: String) throws {
    let reason = try #require(Self.reasons[name])
    let error = #expect(throws: AdapterError.self) { try Self.plan(name) }
    #expect(error?.description.contains(reason) ?? false, "\(String(describing: error))")
  }

  /// transformers uses a head that the checkpoint stores, whatever config.json says; where it stores none, config.json
  /// must not tie the head that the merge adds.
  @Test(arguments: [
    "head", "both-other-rows", "head-beside-lora", "embedding-beside-lora", "only-head", "lora-on-head",
  ])
  func aHeadThatGetsAWeightOfItsOwnIsNoLongerTied(name: String) async throws {
    let scratch = try ScratchDirectory()
    try await Merger(Self.plan("tied-\(name)")).run(to: scratch("out"))
    #expect(try JSONValue(contentsOf: scratch("out/config.json"))["tie_word_embeddings"] == .bool(false))
    #expect(try Checkpoint(path: scratch("out"))["lm_head.weight"] != nil)
  }

  @Test(arguments: ["list", "embedding", "both", "only-embedding", "lora-tied-on-purpose"])
  func aHeadThatFollowsItsEmbeddingStaysTied(name: String) async throws {
    let scratch = try ScratchDirectory()
    for base in ["tied", "equal-head"] {
      try await Merger(Self.plan("\(base)-\(name)")).run(to: scratch(base))
      #expect(try JSONValue(contentsOf: scratch("\(base)/config.json"))["tie_word_embeddings"] == .bool(true))
      let output = try Checkpoint(path: scratch(base))
      guard output["lm_head.weight"] != nil else { continue }
      #expect(try doubles(output, "lm_head.weight") == doubles(output, "model.embed_tokens.weight"))
    }
  }

  @Test func theBiasOfAnAttentionsLoRAIsLeftOutAndSaid() throws {
    #expect(try Self.plan("attention-lora-bias").notes.contains { $0.contains("bias of an attention's lora_B") })
  }

  @Test(arguments: ["use_dora", "kasa_config"])
  func anAttentionTakesNeitherDoRANorKaSA(key: String) throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path("matching/attention")
    try copyDirectory("\(root)/adapter", to: scratch("adapter"))
    var config = try JSONValue(contentsOf: scratch("adapter/adapter_config.json"))
    config[key] = key == "use_dora" ? .bool(true) : .object([])
    try overwrite(scratch("adapter/adapter_config.json"), config.compactText)
    let part = key == "use_dora" ? "lora_magnitude_vector" : "lora_diag"
    let old = try SafetensorsFile(path: "\(root)/adapter/adapter_model.safetensors")
    var items = old.entries.map { SafetensorsLayout.Item(name: $0.name, dtype: $0.dtype, shape: $0.shape) }
    for item in items where item.name.hasSuffix(".lora_B.weight") {
      let stem = item.name.dropLast(".lora_B.weight".count)
      items.append(
        SafetensorsLayout.Item(
          name: "\(stem).\(part)", dtype: .f32, shape: [key == "use_dora" ? item.shape[0] : item.shape[1]]))
    }
    try FileSystem.remove(scratch("adapter/adapter_model.safetensors"))
    _ = try SafetensorsLayout(path: "", items: items).create(at: scratch("adapter/adapter_model.safetensors"))
    let error = #expect(throws: AdapterError.self) { try MergePlan(base: "\(root)/base", adapter: scratch("adapter")) }
    #expect(error?.description.contains("MultiheadAttention") ?? false)
  }

  @Test func aBEFTIsAddedWithItsWeight() async throws {
    let scratch = try ScratchDirectory()
    try await Merger(Self.plan("sum-two-befts", weight: -0.5)).run(to: scratch("out"))
    let root = Fixtures.path("matching/sum-two-befts")
    let (base, whole) = (try Checkpoint(path: "\(root)/base"), try Checkpoint(path: "\(root)/merged"))
    let found = try doubles(Checkpoint(path: scratch("out")), "one.bias")
    for ((x, b), w) in zip(zip(found, try doubles(base, "one.bias")), try doubles(whole, "one.bias")) {
      #expect(abs(x - (b - 0.5 * (w - b))) < 1e-6)
    }
  }

  @Test func aSquareWeightThatOnlyTheFlagDecidesIsSaid() throws {
    #expect(try Self.plan("square-conv1d-lora").notes.contains { $0.contains("[in, out]") })
    #expect(try Self.plan("square-linear-lora").notes.contains { $0.contains("[out, in]") })
    for name in ["conv1d-lora", "same-last-name-lora", "attention", "attention-saved"] {
      #expect(try !Self.plan(name).notes.contains { $0.contains("is square") && $0.contains("attn") }, "\(name)")
    }
    #expect(try Self.plan("conv1d-lora").notes.isEmpty)
  }
}
