import PEFT
import TensorFiles
import TestSupport
import Testing

/// The spacing of a half format's values at a magnitude.
private func spacing(_ value: Double, _ dtype: DType) -> Double {
  let (fraction, least) = dtype == .bf16 ? (7, -126) : (10, -14)
  return powerOfTwo(max(value == 0 ? least : Int(value.exponent), least) - fraction)
}

/// The name without the prefix that a model with a head adds.
private func stripped(_ name: String) -> String {
  for prefix in ["model.", "transformer.", "bert."] where name.hasPrefix(prefix) {
    return String(name.dropFirst(prefix.count))
  }
  return name
}

/// LoRA's variants, against what PEFT made of them.
@Suite struct VariantTests {
  static let cases = (try? FileSystem.names(in: Fixtures.path("variants"))) ?? []
  /// PEFT decomposes the base weight in f32.
  static let decomposed = [
    "llama-pissa", "gpt2-pissa", "llama-olora", "llama-kasa", "llama-pissa-clipped", "llama-olora-clipped",
  ]

  @Test(arguments: cases)
  func everyTensorAgreesWithPEFT(name: String) async throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path("variants/\(name)")
    try await Merger(MergePlan(base: "\(root)/base", adapter: "\(root)/adapter")).run(to: scratch("out"))
    let (output, expected) = (try Checkpoint(path: scratch("out")), try Checkpoint(path: "\(root)/merged"))
    let expectedNames = Dictionary(uniqueKeysWithValues: expected.names.map { (stripped($0), $0) })
    #expect(Set(output.names.map(stripped)) == Set(expectedNames.keys))
    for tensor in output.names {
      let other = try #require(expectedNames[stripped(tensor)])
      let entry = try #require(output[tensor]?.entry)
      #expect(entry.dtype == expected[other]?.entry.dtype && entry.shape == expected[other]?.entry.shape, "\(tensor)")
      let (found, wanted) = (try doubles(output, tensor), try doubles(expected, other))
      let largest = wanted.map(abs).max() ?? 0
      let tolerance = (Self.decomposed.contains(name) ? 1e-5 : 1e-6) * largest
      for (x, y) in zip(found, wanted) {
        // PEFT rounds the change of experts to bf16 before it adds it.
        let size = name.contains("moe") || name.contains("mixtral") ? largest : max(abs(x), abs(y))
        let neighbour = entry.dtype == .bf16 ? spacing(size, .bf16) : tolerance
        #expect(abs(x - y) <= neighbour, "\(tensor)")
      }
    }
    for key in ["vocab_size", "num_hidden_layers", "tie_word_embeddings"] {
      let (ours, theirs) = (
        try JSONValue(contentsOf: scratch("out/config.json")), try JSONValue(contentsOf: "\(root)/merged/config.json")
      )
      #expect(ours[key] == theirs[key], "\(key)")
    }
  }

  /// The same base in double precision takes the exact path, which sums in another order and rounds nowhere.
  @Test(arguments: cases)
  func everyElementIsTheExactOneRoundedOnce(name: String) async throws {
    let scratch = try ScratchDirectory()
    let (output, exact) = try await mergedAndExact(Fixtures.path("variants/\(name)"), in: scratch)
    for tensor in output.names {
      let dtype = try #require(output[tensor]?.entry.dtype)
      let (found, wanted) = (try doubles(output, tensor), try doubles(exact, tensor))
      let largest = wanted.map(abs).max() ?? 0
      for (x, y) in zip(found, wanted) {
        let bound = dtype == .bf16 ? 0.51 * spacing(y, dtype) + 0x1p-20 * (abs(y) + largest) : 1e-6 * largest
        #expect(abs(x - y) <= bound, "\(tensor)")
      }
    }
  }

  @Test(arguments: ["_orig_mod.", "module."])
  func whatWrappersLeaveInNamesIsLeftOutAndSaid(prefix: String) async throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path("merge/llama-f32-qv")
    try FileSystem.makeDirectory(scratch("adapter"))
    try FileSystem.copy("\(root)/adapter/adapter_config.json", to: scratch("adapter/adapter_config.json"))
    try renameTensors("\(root)/adapter/adapter_model.safetensors", to: scratch("adapter/adapter_model.safetensors")) {
      $0.replacing("base_model.model.", with: "base_model.model.\(prefix)")
    }
    let plan = try MergePlan(base: "\(root)/base", adapter: scratch("adapter"))
    #expect(plan.notes.contains { $0.contains(String(prefix.dropLast())) })
    try await Merger(plan).run(to: scratch("out"))
    try await Merger(MergePlan(base: "\(root)/base", adapter: "\(root)/adapter")).run(to: scratch("plain"))
    let (out, plain) = (try Checkpoint(path: scratch("out")), try Checkpoint(path: scratch("plain")))
    #expect(try CheckpointDifference(out, plain).tensors.allSatisfy { $0.finding == .identical })
  }

  @Test func expertsOfAnotherNumberAreRefused() throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path("variants/mixtral-experts")
    try copyDirectory("\(root)/adapter", to: scratch("adapter"))
    var config = try JSONValue(contentsOf: scratch("adapter/adapter_config.json"))
    config["r"] = .integer(3)
    try overwrite(scratch("adapter/adapter_config.json"), config.compactText)
    let error = #expect(throws: AdapterError.self) { try MergePlan(base: "\(root)/base", adapter: scratch("adapter")) }
    #expect(error.map(caseName) == "rankMismatch")
  }

  @Test(arguments: ["[[0,9]]", "[[1,0]]", "[[-1,1]]", "[0]", "{}", "[[0,1,2]]"])
  func layersThatTheBaseLacksAreRefused(setting: String) throws {
    let scratch = try ScratchDirectory()
    let root = Fixtures.path("variants/llama-replication")
    try copyDirectory("\(root)/adapter", to: scratch("adapter"))
    var config = try JSONValue(contentsOf: scratch("adapter/adapter_config.json"))
    config["layer_replication"] = JSONValue(parsing: setting)
    try overwrite(scratch("adapter/adapter_config.json"), config.compactText)
    #expect(throws: AdapterError.self) { try MergePlan(base: "\(root)/base", adapter: scratch("adapter")) }
  }
}
