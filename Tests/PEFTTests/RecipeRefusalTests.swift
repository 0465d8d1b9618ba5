import TensorFiles
import TestSupport
import Testing

@testable import PEFT

/// Recipes that are refused, by what is wrong with them.
struct RecipeRefusalTests {
  /// A recipe and a part of the message.
  struct Case: Sendable, CustomTestStringConvertible {
    let text: String
    let message: String

    init(_ text: String, _ message: String) {
      self.text = text
      self.message = message
    }

    var testDescription: String { message }
  }

  private static let one = "models: [{model: models/one, parameters: {weight: 1}}]"
  private static let two =
    "models: [{model: models/one, parameters: {weight: 1}}, {model: models/two, parameters: {weight: 1}}]"

  static let cases = [
    Case("a: [", "line 1"), Case("- a", "expected keys such as 'merge_method'"),
    Case("models: []", "'merge_method' is missing"),
    Case("merge_method: tise\n\(one)", "merge_method is 'tise'; expected ties"),
    Case("merge_method: karcher\n\(one)", "merge_method 'karcher' is not supported"),
    Case("merge_method: linear", "exactly one of 'models', 'slices' and 'modules'"),
    Case("merge_method: linear\n\(one)\nslices: []", "models and slices: exactly one"),
    Case("merge_method: linear\nmodels: []", "models is []; expected a list of at least one"),
    Case("merge_method: linear\nbase_modl: a\n\(one)", "unknown key 'base_modl'. Did you mean 'base_model'?"),
    Case("merge_method: linear\nmodels: [{modle: a}]", "models[0]: unknown key 'modle'. Did you mean 'model'?"),
    Case("merge_method: linear\nmodels: [{model: a+b+c}]", "models[0].model is \"a+b+c\""),
    Case("merge_method: linear\nmodels: [{model: a, layer_range: [0, 1]}]", "unknown key 'layer_range'"),
    Case(
      "merge_method: linear\nmodels: [{model: a, parameters: {wieght: 1}}]",
      "models[0].parameters: unknown key 'wieght'. Did you mean 'weight'"),
    Case("merge_method: linear\n\(one)\nparameters: {normalize: 2}", "parameters.normalize is 2"),
    Case("merge_method: linear\n\(one)\nparameters: {weight: much}", "parameters.weight is \"much\""),
    Case("merge_method: linear\n\(one)\nparameters: {weight: [1, a]}", "parameters.weight[1] is \"a\""),
    Case("merge_method: linear\n\(one)\nparameters: {weight: [{valeu: 1}]}", "weight[0]: unknown key 'valeu'"),
    Case("merge_method: linear\n\(one)\nparameters: {weight: [{filter: a}]}", "weight[0]: 'value' is missing"),
    Case("merge_method: linear\n\(one)\nparameters: {weight: []}", "parameters.weight is []"),
    Case("merge_method: linear\n\(one)\ndtype: int64", "dtype 'int64' is not supported"),
    Case("merge_method: linear\n\(one)\nout_dtype: bf16", "out_dtype is 'bf16'; expected bfloat16"),
    Case("merge_method: linear\n\(one)\nchat_template: auto", "'chat_template' is not supported"),
    Case("merge_method: linear\n\(one)\ntokenizer: {tokens: {a: {source: b}}}", "tokenizer.tokens is not supported"),
    Case("merge_method: linear\n\(one)\ntokenizer: {source: base}\ntokenizer_source: base", "only one of them"),
    Case("merge_method: linear\nmodules: {vision: {models: []}}", "'modules' other than 'default'"),
    Case(
      "merge_method: passthrough\nslices: [{sources: [{model: a}]}]", "slices[0].sources[0]: 'layer_range' is missing"),
    Case("merge_method: passthrough\nslices: [{sources: [{model: a, layer_range: [3, 1]}]}]", "layer_range is [3,1]"),
    Case(
      "merge_method: linear\nslices: [{residual_weight: 1, sources: [{model: a, layer_range: [0, 1]}]}]",
      "residual_weight is not supported"),
    Case(
      "merge_method: linear\nmodels: [" + (0...100).map { "{model: m\($0)}" }.joined(separator: ", ") + "]",
      "models: 101 models; a recipe may have 100"),
    Case(
      "merge_method: linear\n\(one)\nparameters: {weight: ["
        + (0...1000).map { "{filter: f\($0), value: 1}" }.joined(separator: ", ") + "]}",
      "parameters.weight is 1001; expected at most 1000 values with filters"),
    Case(
      "merge_method: passthrough\nslices: ["
        + [String](repeating: "{sources: [{model: models/one, layer_range: [0, 3]}]}", count: 10_000).joined(
          separator: ", ")
        + "]", "tensors; a model may have 200000"),
    // With the models.
    Case("merge_method: linear\nmodels: [{model: models/one}]", "'weight' has no value for tensor"),
    Case(
      "merge_method: linear\nmodels: [{model: models/one, parameters: {weight: [{filter: mlp, value: 1}]}}]",
      "'weight' has no value for tensor 'model.embed_tokens.weight' of models/one"),
    Case(
      "merge_method: linear\nmodels: [{model: models/one, parameters: {weight: 1}}, {model: models/two, parameters: {weight: -1}}]",
      "sum to zero"),
    Case("merge_method: linear\nbase_model: models/base\n\(one)", "'weight' has no value"),
    Case("merge_method: ties\n\(two)", "ties needs 'base_model'"),
    Case("merge_method: slerp\nbase_model: models/base\n\(two)\nparameters: {t: 0.5}", "slerp takes two models"),
    Case("merge_method: nuslerp\n\(one)", "nuslerp takes two models beside a base"),
    Case("merge_method: model_stock\nbase_model: models/one\n\(two)", "model_stock takes two or more"),
    Case("merge_method: passthrough\n\(two)", "passthrough takes one model for each slice"),
    Case(
      "merge_method: linear\nmodels: [{model: models/one}, {model: models/one}]\nparameters: {weight: 1}",
      "the model models/one stands twice"),
    Case(
      "merge_method: slerp\nbase_model: models/two\nparameters: {t: 1}\nslices: [{sources: [{model: models/one, layer_range: "
        + "[0, 1]}, {model: models/three, layer_range: [0, 1]}]}]", "models/two is not among the sources"),
    Case(
      "merge_method: linear\nparameters: {weight: 1}\nslices: [{sources: [{model: models/one, layer_range: [0, 1]}, {model: "
        + "models/two, layer_range: [0, 2]}]}]", "there are 1 of models/one, 2 of models/two"),
    Case(
      "merge_method: passthrough\nslices: [{sources: [{model: models/one, layer_range: [2, 4]}]}]",
      "layer_range [2, 4] of models/one, which has 3 layers"),
    Case(
      "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: models/one}, {model: models/deep}]",
      "the same number of layers"),
    Case(
      "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: models/one}, {model: models/gpt-one}]",
      "only models of one architecture"),
    Case(
      "merge_method: ties\nbase_model: models/base\n\(one)\nparameters: {density: -0.1}",
      "expected at least 0"),
    Case(
      "merge_method: della\nbase_model: models/base\n\(one)\nparameters: {density: 0.9}",
      "'epsilon' of models/one for tensor 'model.embed_tokens.weight' is 0.15"),
    Case("merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: models/none}]", "models/none"),
  ]

  @Test(arguments: cases) func aRecipeIsRefusedByName(refused: Case) throws {
    #expect {
      _ = try RecipeTests.plan(try MergeRecipe(text: refused.text, path: "recipe.yml"))
    } throws: { error in
      let matches = error is RecipeError && "\(error)".contains(refused.message)
      if !matches { Issue.record("\(error)") }
      return matches
    }
  }

  @Test func modelsOfDifferentShapesAreRefused() throws {
    let scratch = try ScratchDirectory()
    for (name, rows, second) in [("one", 2, "a"), ("two", 3, "a"), ("three", 2, "b")] {
      try FileSystem.makeDirectory(scratch(name))
      let layout = try SafetensorsLayout(
        path: "",
        items: [
          .init(name: "w", dtype: .f32, shape: [rows]), .init(name: second, dtype: .f32, shape: [1]),
        ])
      try overwrite(
        scratch("\(name)/model.safetensors"),
        layout.header + [UInt8](repeating: 0, count: layout.fileBytes - layout.header.count))
    }
    func plan(_ other: String) throws {
      let text =
        "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: \(scratch("one"))}, {model: \(scratch(other))}]"
      _ = try RecipeTests.plan(try MergeRecipe(text: text, path: "recipe.yml"))
    }
    #expect(
      throws: RecipeError.shapes(tensor: "w", found: [(scratch("one"), [2]), (scratch("two"), [3])])
    ) { try plan("two") }
    #expect(throws: RecipeError.tensorMissing(model: scratch("three"), tensor: "a", other: scratch("one"))) {
      try plan("three")
    }
  }

  /// The number of a layer says how many there are; what is done goes by those that have tensors.
  @Test func layersOfAGreatNumberTakeNoTime() throws {
    let scratch = try ScratchDirectory()
    let names = ["h.0.a", "h.9999998.a"]
    let layout = try SafetensorsLayout(path: "", items: names.map { .init(name: $0, dtype: .f32, shape: [1]) })
    try overwrite(
      scratch("model.safetensors"),
      layout.header + [UInt8](repeating: 0, count: layout.fileBytes - layout.header.count))
    func plan(_ rest: String) throws -> RecipePlan {
      try RecipeTests.plan(try MergeRecipe(text: "merge_method: passthrough\n\(rest)", path: "recipe.yml"))
    }
    let whole = try plan("models: [{model: \(scratch.path)}]")
    #expect(whole.shards[0].outputs.map(\.item.name) == names)
    #expect {
      _ = try plan("slices: [{sources: [{model: \(scratch.path), layer_range: [0, 9999999]}]}]")
    } throws: {
      "\($0)".contains("layer 1 of \(scratch.path) has no tensors")
    }
  }

  @Test func noTextOfARecipeEndsTheProgram() {
    let words = [
      "merge_method", ":", " ", "ties", "\n", "- ", "models", "{", "}", "[", "]", "model", "a+b", ",", "0.5",
      "slices", "sources", "parameters", "weight", "layer_range", "[0, 1]", "value", "filter", "  ", "dtype", "null",
    ]
    var generator = SeededGenerator(seed: 11)
    for _ in 0..<3000 {
      let count = Int.random(in: 0..<24, using: &generator)
      let text = (0..<count).map { _ in words.randomElement(using: &generator) ?? "" }.joined()
      _ = try? MergeRecipe(text: "merge_method: ties\n" + text, path: "recipe.yml")
    }
  }
}
