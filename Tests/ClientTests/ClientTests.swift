import LanguageModels
import PEFT
import TensorFiles
import TensorMath
import TestSupport
import Testing

/// What a client of the libraries adds to them, each in one file, without a change to the package.
@Suite struct ClientTests {
  @Test func anArchitectureOfAClientRunsWithAdaptersAndItsMergedModelHasTheSameLogits() async throws {
    ToyArchitecture.register()
    let scratch = try ScratchDirectory()
    let base = try ToyModel(scratch("base")).directory
    var config = PeftConfig()
    config.taskType = "CAUSAL_LM"
    config.targetModules = .names(["mix", "back", "down"])
    config.initLoRAWeights = .bool(false)
    let model = try CausalLanguageModel(directory: base)
    #expect(Architecture.known.contains(ToyArchitecture.type))
    let tokens = [3, 1, 39, 7, 7]
    let before = try model.logits(tokens, cache: model.makeCache())
    let adapted = try PeftModel(wrapping: model, config: config, seed: 3)
    let after = try adapted.logits(tokens, cache: adapted.makeCache())
    #expect(before.rows == 5 && before.columns == 40 && before != after)
    // r · (in + out) of mix, back and down in two layers.
    #expect(try adapted.trainableParameters().trainable == 2 * 8 * (64 + 32 + 40))
    try adapted.save(to: scratch("adapter"))
    try await Merger(MergePlan(base: base, adapter: scratch("adapter"))).run(to: scratch("merged"))
    let merged = try CausalLanguageModel(directory: scratch("merged"))
    let result = try merged.logits(tokens, cache: merged.makeCache())
    for (a, b) in zip(after.values, result.values) { #expect(abs(a - b) < 1e-4) }
  }
}
