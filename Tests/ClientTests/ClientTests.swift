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

  @Test func aMethodOfAClientIsMadeCountedMergedRunAndSaved() async throws {
    ToyMethod.register()
    ToyArchitecture.register()
    let scratch = try ScratchDirectory()
    let base = try ToyModel(scratch("base")).directory
    try overwrite(
      scratch("config.json"),
      #"{"peft_type": "TOY_OUTER", "task_type": "CAUSAL_LM", "target_modules": ["back", "up"], "strength": 0.5}"#)
    let (config, path) = try PeftConfig.load(path: scratch("config.json"))
    #expect(PeftType.known.contains(ToyMethod.type) && config.settings["strength"] == .number(0.5))
    let maker = try AdapterInitializer(base: BaseModel(path: base), config: config, configPath: path, seed: 5)
    try maker.write(to: scratch("adapter"))
    let stored = try StoredAdapter(directory: scratch("adapter"))
    #expect(stored.weights.entries.count == 8)

    let model = try CausalLanguageModel(directory: base)
    let tokens = [3, 1, 39, 7, 7]
    let before = try model.logits(tokens, cache: model.makeCache())
    let adapted = try PeftModel.load(base: base, adapter: scratch("adapter"))
    let after = try adapted.logits(tokens, cache: adapted.makeCache())
    #expect(before != after)
    // u and v of back [16, 16] and up [24, 16] in two layers.
    #expect(try adapted.trainableParameters().trainable == 2 * (16 + 16 + 24 + 16))
    try await Merger(MergePlan(base: base, adapter: scratch("adapter"))).run(to: scratch("merged"))
    let merged = try CausalLanguageModel(directory: scratch("merged"))
    let result = try merged.logits(tokens, cache: merged.makeCache())
    for (a, b) in zip(after.values, result.values) { #expect(abs(a - b) < 1e-4) }

    // W' − W of one module, from the tensors themselves.
    let name = "net.cells.1.up.weight"
    let (plain, changed) = (try Checkpoint(path: base), try Checkpoint(path: scratch("merged")))
    let (w, changedW) = (try doubles(plain, name), try doubles(changed, name))
    let module = "base_model.model.net.cells.1.up"
    let u = try doubles(stored.weights.file, try #require(stored.weights["\(module).toy_u"]))
    for row in 0..<24 {
      for column in 0..<16 {
        let index = row * 16 + column
        #expect(abs(changedW[index] - w[index] - 0.5 * u[row] * 0.25) < 1e-6)
      }
    }

    try adapted.save(to: scratch("saved"))
    let saved = try StoredAdapter(directory: scratch("saved"))
    #expect(saved.config == stored.config && saved.weights.entries == stored.weights.entries)
    let rows = try await ModuleStatistics(directory: scratch("saved")).rows
    #expect(rows.count == 4 && rows.allSatisfy { $0.norm ?? 0 > 0 })
    #expect(try Validation(path: scratch("saved")).findings.isEmpty)
  }
}
