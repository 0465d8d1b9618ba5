import TensorFiles
import TestSupport
import Testing

@testable import PEFT

/// Recipes of models, against what mergekit makes of them.
struct RecipeTests {
  static let root = Fixtures.path("recipes")
  static let cases = ((try? FileSystem.names(in: "\(root)/recipes")) ?? []).map { String($0.dropLast(4)) }

  /// A plan whose recipe names models as the fixtures do.
  static func plan(_ recipe: MergeRecipe, options: RecipePlan.Options = .init()) throws -> RecipePlan {
    try RecipePlan(recipe, options: options) { word throws(AdapterError) in
      FileSystem.kind(word) == nil ? "\(root)/\(word)" : word
    }
  }

  /// The result of a recipe's text.
  static func merge(
    _ text: String, to path: String, options: RecipePlan.Options = .init(), workers: Int = 2
  ) async throws -> Checkpoint {
    let plan = try plan(try MergeRecipe(text: text, path: "recipe.yml"), options: options)
    try await RecipeMerger(plan, workers: workers).run(to: path)
    return try Checkpoint(path: path)
  }

  /// mergekit computes in the dtype of the recipe: in f32 a few roundings differ. Its draws are torch's from seed 42.
  @Test(arguments: cases) func aRecipeGivesWhatMergekitGives(name: String) async throws {
    let scratch = try ScratchDirectory()
    var options = RecipePlan.Options()
    options.seed = 42
    let recipe = try MergeRecipe(path: "\(Self.root)/recipes/\(name).yml")
    let plan = try Self.plan(recipe, options: options)
    try await RecipeMerger(plan).run(to: scratch("out"))
    let found = try Checkpoint(path: scratch("out"))
    let expected = try Checkpoint(path: "\(Self.root)/results/\(name).safetensors")
    #expect(found.names == expected.names)
    for tensor in expected.names {
      let (one, other) = (try #require(found[tensor]).entry, try #require(expected[tensor]).entry)
      #expect(one.dtype == other.dtype && one.shape == other.shape, "\(tensor)")
      let (ours, theirs) = (try doubles(found, tensor), try doubles(expected, tensor))
      let greatest = theirs.reduce(1e-30) { max($0, abs($1)) }
      // Where a recipe names no dtype, mergekit's changes of bf16 models are rounded to bf16 three times.
      let isRoughlySame = name == "dare-linear-halves"
      let unit = isRoughlySame ? 0x1p-7 : one.dtype == .bf16 ? 0x1p-8 : one.dtype == .f16 ? 0x1p-10 : 4e-6
      let share = isRoughlySame || one.dtype == .f32 ? 1.0 : 0x1p-6
      for (a, b) in zip(ours, theirs) where abs(a - b) > unit * max(abs(b), share * greatest) {
        Issue.record("\(name): \(tensor): \(a) and \(b)")
        break
      }
    }
    let layers = plan.config?["num_hidden_layers"] ?? plan.config?["n_layer"]
    #expect(
      layers?.integerValue.map(String.init)
        == expected.shards[0].metadata.first { $0.key == "layers" }?.value.stringValue)
  }

  @Test func theResultIsTheSameWhateverTheNumberOfWorkers() async throws {
    let scratch = try ScratchDirectory()
    let text = try FileSystem.text("\(Self.root)/recipes/dare-ties.yml")
    for workers in [1, 3] { _ = try await Self.merge(text, to: scratch("\(workers)"), workers: workers) }
    #expect(try contents(scratch("1/model.safetensors")) == contents(scratch("3/model.safetensors")))
    var options = RecipePlan.Options()
    options.seed = 1
    _ = try await Self.merge(text, to: scratch("other"), options: options)
    #expect(try contents(scratch("1/model.safetensors")) != contents(scratch("other/model.safetensors")))
  }

  @Test func theOutputHasConfigurationRecipeCardAndTokenizer() async throws {
    let scratch = try ScratchDirectory()
    for (name, token) in [("one", "a"), ("two", "a"), ("strange", "b")] {
      try copyDirectory("\(Self.root)/models/\(name == "strange" ? "two" : name)", to: scratch(name))
      try overwrite(scratch("\(name)/README.md"), "old")
      try overwrite(scratch("\(name)/tokenizer_config.json"), "{\"name\": \"\(name)\"}")
      try overwrite(
        scratch("\(name)/tokenizer.json"),
        #"{"model": {"vocab": {"\#(token)": 0}}, "added_tokens": [{"id": 1, "content": "<s>"}]}"#)
    }
    let text = """
      # ``` in a comment
      merge_method: linear
      models:
      - model: \(scratch("one"))
        parameters: {weight: 1}
      - model: \(scratch("two"))
        parameters: {weight: 1, density: 0.5}
      tokenizer_source: \(scratch("two"))
      out_dtype: bfloat16
      """
    let plan = try Self.plan(try MergeRecipe(text: text, path: "recipe.yml"))
    #expect(plan.notes.contains("models[1].parameters.density has no effect with linear"))
    #expect(plan.notes.contains { $0.contains("keeps its 8 rows") })
    try await RecipeMerger(plan).run(to: scratch("out"))
    #expect(try FileSystem.text(scratch("out/mergekit_config.yml")) == text)
    #expect(try FileSystem.text(scratch("out/tokenizer_config.json")).contains("two"))
    let config = try JSONValue(contentsOf: scratch("out/config.json"))
    #expect((config["dtype"] ?? config["torch_dtype"])?.stringValue == "bfloat16")
    let card = try FileSystem.text(scratch("out/README.md"))
    #expect(card.contains("````yaml\n# ``` in a comment\n") && card.hasSuffix("\n````\n"))
    let strange = text.replacing(scratch("two"), with: scratch("strange"))
    #expect {
      try Self.plan(try MergeRecipe(text: strange, path: "recipe.yml"))
    } throws: {
      "\($0)".contains("the tokens of two models differ")
    }
  }

  @Test func kindsOfLayersGoWithTheirLayers() throws {
    let scratch = try ScratchDirectory()
    for name in ["one", "deep"] {
      try copyDirectory("\(Self.root)/models/\(name)", to: scratch(name))
      var config = try JSONValue(contentsOf: scratch("\(name)/config.json"))
      config["layer_types"] = .array((0..<(name == "one" ? 3 : 5)).map { .string("\(name) \($0)") })
      try overwrite(scratch("\(name)/config.json"), config.pythonText(sortedKeys: false))
    }
    let text = """
      merge_method: passthrough
      slices:
      - sources: [{model: \(scratch("one")), layer_range: [1, 3]}]
      - sources: [{model: \(scratch("deep")), layer_range: [0, 4]}]
      """
    let plan = try Self.plan(try MergeRecipe(text: text, path: "recipe.yml"))
    #expect(plan.layerCount == 6 && plan.config?["num_hidden_layers"]?.integerValue == 6)
    #expect(
      plan.config?["layer_types"]?.elements?.compactMap(\.stringValue)
        == ["one 1", "one 2", "deep 0", "deep 1", "deep 2", "deep 3"])
    #expect(plan.mixedCount == 0)
  }

  @Test func shardsHaveAnIndex() async throws {
    let scratch = try ScratchDirectory()
    var options = RecipePlan.Options()
    options.maxShardBytes = 2000
    let text = try FileSystem.text("\(Self.root)/recipes/passthrough.yml")
    let sharded = try await Self.merge(text, to: scratch("shards"), options: options)
    let whole = try await Self.merge(text, to: scratch("whole"))
    #expect(sharded.shards.count > 2 && sharded.index != nil && sharded.names == whole.names)
    for name in whole.names { #expect(try doubles(sharded, name) == doubles(whole, name)) }
    options.maxShardBytes = 0
    await #expect(throws: RecipeError.adapter(.shardSize(found: "0"))) {
      try await Self.merge(text, to: scratch("none"), options: options)
    }
  }

  @Test func nothingIsWrittenWhereAResultIsNotFinite() async throws {
    let scratch = try ScratchDirectory()
    let text = "merge_method: linear\nout_dtype: float16\nmodels:\n- {model: models/one, parameters: {weight: 1}}\n"
    let recipe = text + "parameters: {normalize: false, weight: 1e6}\n"
    var options = RecipePlan.Options()
    await #expect {
      try await Self.merge(recipe.replacing("{weight: 1}", with: "{weight: 1e6}"), to: scratch("out"))
    } throws: {
      caseName(($0 as? RecipeError).flatMap { if case .adapter(let inner) = $0 { inner } else { nil } } ?? $0)
        == "resultNotFinite"
    }
    #expect(try FileSystem.names(in: scratch.path).isEmpty)
    options.allowNonFinite = true
    _ = try await Self.merge(
      recipe.replacing("{weight: 1}", with: "{weight: 1e6}"), to: scratch("out"), options: options)
    await #expect {
      try await Self.merge(text, to: scratch("out"))
    } throws: {
      "\($0)".contains("replaceOutput")
    }
    await #expect {
      try await Self.merge(text.replacing("models/one", with: scratch("out")), to: scratch("out/inside"))
    } throws: {
      $0 is RecipeError
    }
  }

  @Test func tensorsThatAreNotComputedOnAreCopiedIfTheyAgree() async throws {
    let scratch = try ScratchDirectory()
    for (name, number) in [("one", 1), ("two", 1), ("three", 2)] {
      try FileSystem.makeDirectory(scratch(name))
      let layout = try SafetensorsLayout(
        path: "",
        items: [
          .init(name: "w", dtype: .f32, shape: [2]), .init(name: "steps", dtype: .i32, shape: [1]),
          .init(name: "scalar", dtype: .bf16, shape: []), .init(name: "empty", dtype: .f32, shape: [0, 3]),
        ])
      var bytes = layout.header + [UInt8](repeating: 0, count: layout.fileBytes - layout.header.count)
      bytes[layout.entries[1].byteRange.lowerBound] = UInt8(number)
      try overwrite(scratch("\(name)/model.safetensors"), bytes)
    }
    func recipe(_ other: String) -> String {
      "merge_method: ties\nbase_model: \(scratch("one"))\nmodels: [{model: \(scratch(other)), parameters: "
        + "{weight: 1, density: 0.5}}]\n"
    }
    let merged = try await Self.merge(recipe("two"), to: scratch("out"))
    #expect(merged.names == ["empty", "scalar", "steps", "w"])
    #expect(merged["steps"]?.entry.dtype == .i32)
    await #expect(
      throws: RecipeError.notMixed(tensor: "steps", dtype: "I32", models: [scratch("three"), scratch("one")])
    ) {
      try await Self.merge(recipe("three"), to: scratch("none"))
    }
  }
}
