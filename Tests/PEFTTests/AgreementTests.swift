import PEFT
import TensorFiles
import TestSupport
import Testing

/// Merges of PEFT, as its models are saved. Source: Fixtures/scripts/make_agreement_fixtures.py.
@Suite struct AgreementTests {
  private static let cases = (try? FileSystem.names(in: Fixtures.path("agreement"))) ?? []
  private static let merged = cases.filter { FileSystem.exists(Fixtures.path("agreement/\($0)/merged")) }
  /// A change of one side of a tied pair, which PEFT's merge makes to both, or of each side, of which it makes the sum.
  private static let changedTies = [
    "tie-head", "tie-head-dora", "tie-embedding", "tie-stored-twice-head", "tie-gpt2", "tie-both", "tie-both-gpt2",
    "tie-bias-all",
  ]

  private func verifier(_ name: String, of model: String, _ rounding: MergeVerifier.Rounding) throws -> MergeVerifier {
    let root = Fixtures.path("agreement/\(name)")
    return MergeVerifier(
      try MergePlan(base: "\(root)/base", adapter: "\(root)/adapter"), model: try Checkpoint(path: model),
      rounding: rounding)
  }

  @Test func thereAreCases() { #expect(Self.cases.count >= 14 && Self.merged.count >= 12) }

  @Test(arguments: merged)
  func whatPEFTMergedAndSavedIsRecognisedAsPEFTs(name: String) async throws {
    let model = Fixtures.path("agreement/\(name)/merged")
    let verifier = try verifier(name, of: model, .peft)
    let wrong = try await verifier.run().filter { !$0.agrees }
    #expect(wrong.isEmpty, "\(wrong)")
    let files = try verifier.fileDifferences(directory: model)
    #expect(files.allSatisfy { !$0.decides }, "\(files)")
    #expect(files.contains { $0.message.contains("is tied to") } == Self.changedTies.contains(name))
  }

  @Test(arguments: changedTies)
  func aTieThatPEFTsMergeKeepsIsNotWhatTheAdapterDoes(name: String) async throws {
    let root = Fixtures.path("agreement/\(name)")
    let strict = try verifier(name, of: "\(root)/merged", .strict)
    #expect(try await strict.run().contains { $0.verdict == .missing })
    // The base itself is no merge, and neither is one with another change.
    #expect(try await verifier(name, of: "\(root)/base", .peft).run().contains { !$0.agrees })
    let other = name == "tie-embedding" ? "tie-stored-twice-head" : "tie-embedding"
    if !["tie-gpt2", "tie-both-gpt2", "tie-bias-all"].contains(name) {
      let found = try await verifier(name, of: Fixtures.path("agreement/\(other)/merged"), .peft).run()
      #expect(found.contains { !$0.agrees })
    }
  }

  @Test(arguments: changedTies)
  func ourMergeOfATiedModelIsStillRecognised(name: String) async throws {
    let root = Fixtures.path("agreement/\(name)")
    let scratch = try ScratchDirectory()
    try await Merger(MergePlan(base: "\(root)/base", adapter: "\(root)/adapter")).run(to: scratch("out"))
    for rounding in [MergeVerifier.Rounding.strict, .peft] {
      let verifier = try verifier(name, of: scratch("out"), rounding)
      #expect(try await verifier.run().allSatisfy { $0.verdict == .identical })
      #expect(try verifier.fileDifferences(directory: scratch("out")).isEmpty)
    }
  }

  @Test(arguments: ["bias-stored-and-added", "bias-stored-and-changed"])
  func aBiasThatIsStoredAndAddedToIsMergedAsByPEFT(name: String) async throws {
    let root = Fixtures.path("agreement/\(name)")
    let scratch = try ScratchDirectory()
    try await Merger(MergePlan(base: "\(root)/base", adapter: "\(root)/adapter")).run(to: scratch("out"))
    let bias = "model.decoder.layers.0.fc1.bias"
    let ours = try doubles(Checkpoint(path: scratch("out")), bias)
    let theirs = try doubles(Checkpoint(path: "\(root)/merged"), bias)
    #expect(ours.count == 12 && zip(ours, theirs).allSatisfy { abs($0 - $1) <= 1e-6 })
    #expect(try ours != doubles(Checkpoint(path: "\(root)/base"), bias))
  }

  @Test(arguments: cases)
  func theParametersAreCountedAsPEFTCountsThem(name: String) throws {
    let root = Fixtures.path("agreement/\(name)")
    let line = try FileSystem.text("\(root)/count.txt")
    let (config, path) = try PeftConfig.load(path: "\(root)/adapter")
    let base = try BaseModel(path: "\(root)/base", taskType: config.taskType)
    let weights = try Adapter.openWeights("\(root)/adapter")
    #expect(try base.parameterCount(of: config, configPath: path, weights: weights).description + "\n" == line)
    do {
      #expect(try base.parameterCount(of: config, configPath: path, weights: nil).description + "\n" == line)
    } catch AdapterError.uncountable {
      #expect(name != "attention-rank-pattern")
    }
  }

  @Test(arguments: cases)
  func whatPEFTSavedIsValid(name: String) throws {
    let validation = try Validation(path: Fixtures.path("agreement/\(name)/adapter"))
    #expect(validation.findings.isEmpty, "\(validation.findings)")
  }

  /// SHADOW's names hold the adapter's name, which PEFT reads again.
  @Test func namesThatPEFTSavesWithTheAdaptersNameAreKept() throws {
    let scratch = try ScratchDirectory()
    let adapter = Fixtures.path("agreement/default-in-names/adapter")
    try StoredAdapter(directory: adapter).save(to: scratch("out"), replacing: false)
    #expect(
      try contents(scratch("out/adapter_model.safetensors")) == contents("\(adapter)/adapter_model.safetensors"))
  }

  @Test func whatIsWrongWithAConfigurationNamesItsFileOnce() throws {
    let scratch = try ScratchDirectory()
    try OpenFile.create(scratch("adapter_config.json")).write(#"{"peft_type": "LORA", "r": "many"}"#)
    let finding = try #require(Validation(path: scratch.path).findings.first)
    #expect(finding.place.hasSuffix("adapter_config.json") && !finding.message.contains(scratch.path), "\(finding)")
    try FileSystem.makeDirectories(scratch("model"))
    try OpenFile.create(scratch("model/config.json")).write("{")
    let damaged = try #require(Validation(path: scratch("model")).findings.first)
    #expect(damaged.place.hasSuffix("config.json") && !damaged.message.contains(scratch.path), "\(damaged)")
  }

  /// A weight of torch's `weight_norm`, under both of its names.
  @Test(arguments: ["parametrizations.weight.original1", "weight_v"])
  func aNormedWeightIsRefusedForThatReason(name: String) throws {
    let (scratch, root) = (try ScratchDirectory(), Fixtures.path("merge/llama-f32-qv"))
    try FileSystem.makeDirectory(scratch("base"))
    try renameTensors("\(root)/base/model.safetensors", to: scratch("base/model.safetensors")) {
      $0.replacing("layers.0.self_attn.q_proj.weight", with: "layers.0.self_attn.q_proj.\(name)")
    }
    let error = #expect(throws: AdapterError.self) {
      try MergePlan(base: scratch("base"), adapter: "\(root)/adapter")
    }
    #expect(error?.description.contains("the weight is normed") == true)
  }
}
