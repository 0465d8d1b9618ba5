import LanguageModels
import PEFT
import TensorFiles
import TensorMath
import TestSupport
import Testing

/// Adapters that come, act together, are folded in and go again, against PEFT.
@Suite struct RunningTests {
  private let root = Fixtures.path("running")
  private let tokens = PeftModelTests.tokens

  private func model(_ adapters: String...) throws -> PeftModel {
    let model = try PeftModel(base: "\(root)/base")
    for name in adapters { try model.load("\(root)/\(name)", named: name) }
    return model
  }

  private func logits(_ model: PeftModel) throws -> [Float] {
    try model.logits(tokens, cache: model.makeCache()).values
  }

  private func expect(_ found: [Float], _ name: String) throws {
    let wanted = try doubles(Checkpoint(path: "\(root)/expected.safetensors"), name)
    #expect(found.count == wanted.count)
    for (x, y) in zip(found, wanted) { #expect(abs(Double(x) - y) <= 1e-4, "\(name)") }
  }

  @Test func theFirstAdapterIsTheActiveOne() throws {
    let model = try model("first", "second")
    #expect(model.adapterNames == ["first", "second"])
    #expect(model.active.map(\.name) == ["first"])
    try expect(logits(model), "first")
  }

  @Test func oneSeveralAndNoneAct() throws {
    let model = try model("first", "second")
    try model.setActive("second")
    try expect(logits(model), "second")
    try model.setActive([("first", 1), ("second", 1)])
    try expect(logits(model), "first+second")
    try model.withAdaptersDisabled { try expect(logits(model), "base") }
    try expect(logits(model), "first+second")
  }

  /// Which PEFT cannot merge, since the base has no biases.
  @Test func aBiasOfBActsWithoutOneInTheBase() throws {
    let model = try model("biased")
    try expect(logits(model), "biased")
    #expect(throws: ModelError.self) { try model.merge() }
  }

  @Test func weightsMultiplyTheChanges() throws {
    let model = try model("first", "second")
    try model.setActive([("first", 0.5), ("second", -2)])
    try expect(logits(model), "weighted")
  }

  @Test func mergingChangesNothingAndUnmergingGivesTheBitsBack() throws {
    let model = try model("first", "second")
    let apart = try logits(model)
    try model.merge()
    #expect(model.isMerged)
    let merged = try logits(model)
    for (x, y) in zip(apart, merged) { #expect(abs(x - y) <= 1e-4) }
    #expect(apart != merged)
    try model.unmerge()
    #expect(try logits(model) == apart)
    try model.withAdaptersDisabled { try expect(logits(model), "base") }
  }

  @Test func anAdapterThatIsReplacedDeletedOrUnloadedLeavesNothing() throws {
    let model = try model("first")
    try model.load("\(root)/second", named: "first")
    try expect(logits(model), "second")
    try model.load("\(root)/dora", named: "dora")
    try model.setActive("dora")
    let before = try logits(model)
    try model.setActive("first")
    try expect(logits(model), "second")
    try model.setActive("dora")
    #expect(try logits(model) == before)
    try model.delete("dora")
    try expect(logits(model), "base")
    let plain = try CausalLanguageModel(directory: "\(root)/base")
    let base = try model.unload()
    #expect(base.root.tree == plain.root.tree)
    #expect(
      try base.logits(tokens, cache: base.makeCache()).values == plain.logits(tokens, cache: plain.makeCache()).values)
  }

  @Test func anALoRAActsFromItsInvocationOn() throws {
    try expect(logits(try model("alora")), "alora")
    let other = try model("alora")
    let cache = other.makeCache()
    var found: [Float] = []
    found += try other.logits(Array(tokens.prefix(9)), cache: cache).values
    for token in tokens.dropFirst(9) { found += try other.logits([token], cache: cache).values }
    try expect(found, "alora")
  }

  @Test(arguments: ["first", "dora"])
  func theTreeIsPrintedAsPEFTPrintsIt(name: String) throws {
    let model = try PeftModel.load(base: "\(root)/base", adapter: "\(root)/\(name)")
    #expect(try model.tree + "\n" == FileSystem.text("\(root)/tree-\(name).txt"))
  }

  @Test func savingWritesBothFilesToTheByte() throws {
    let scratch = try ScratchDirectory()
    let model = try model("first", "second")
    try model.save(to: scratch("out"), adapter: "second")
    for file in [PeftConfig.fileName, Adapter.weightsName] {
      #expect(try FileSystem.text(scratch("out/\(file)")) == FileSystem.text("\(root)/second/\(file)"))
    }
  }

  @Test func aFreshAdapterChangesNothingAndIsCounted() throws {
    let scratch = try ScratchDirectory()
    var config = PeftConfig()
    config.rank = 4
    config.targetModules = .names(["q_proj", "v_proj"])
    config.taskType = "CAUSAL_LM"
    let base = try CausalLanguageModel(directory: "\(root)/base")
    let model = try PeftModel(wrapping: base, config: config)
    try expect(logits(model), "base")
    #expect(try model.trainableParameters().trainable == 2 * (4 * 32 + 4 * 24))
    try model.save(to: scratch("fresh"))
    #expect(try Adapter(directory: scratch("fresh")).modules.count == 4)
  }

  @Test func anAdaptersConfigurationNamesItsBase() throws {
    let scratch = try ScratchDirectory()
    try StoredAdapter(directory: "\(root)/first").save(to: scratch("adapter"))
    let path = scratch("adapter/\(PeftConfig.fileName)")
    let text = try FileSystem.text(path).replacing("fixtures/running", with: "\(root)/base")
    try FileSystem.remove(path)
    try OpenFile.create(path).write(text)
    try expect(logits(AutoPeftModelForCausalLM.load(adapter: scratch("adapter"))), "first")
    let error = #expect(throws: ModelError.self) {
      try AutoPeftModelForCausalLM.load(
        adapter: "\(root)/first", hub: Hub(cache: scratch("cache"), isOffline: true))
    }
    #expect(error?.description.contains("fixtures/running") == true)
  }

  @Test func perplexityIsTheExponentOfTorchsLoss() throws {
    let model = try model()
    let wanted = try doubles(Checkpoint(path: "\(root)/expected.safetensors"), "loss")[0]
    let found = try model.perplexity(tokens)
    #expect(abs(found.meanLoss - wanted) <= 1e-5 && found.tokens == tokens.count - 1)
  }

  @Test func adaptersThatAreNotThereAreNamed() throws {
    let model = try model("first")
    #expect(throws: ModelError.noSuchAdapter(name: "x", known: ["first"])) { try model.setActive("x") }
    #expect(throws: ModelError.noSuchAdapter(name: "x", known: ["first"])) { try model.delete("x") }
    try expect(logits(model), "first")
  }
}
