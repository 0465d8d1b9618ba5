import TensorFiles
import TestSupport
import Testing

/// `merge-models`, from a recipe's file to a model.
struct MergeModelsTests {
  private static func recipe(_ scratch: ScratchDirectory, _ text: String) throws -> String {
    let path = scratch("recipe.yml")
    try overwrite(path, text.replacing("models/", with: "\(Fixtures.path("recipes/models"))/"))
    return path
  }

  @Test func aRecipeMakesAModel() async throws {
    let scratch = try ScratchDirectory()
    let path = try Self.recipe(scratch, try FileSystem.text(Fixtures.path("recipes/recipes/dare-ties.yml")))
    let plan = await run("merge-models", path, scratch("out"), "--dry-run")
    #expect(plan.code == 0 && plan.output.contains("dare_ties of 3 models, 3 layers, 30 tensors computed, 0 copied"))
    #expect(FileSystem.kind(scratch("out")) == nil)
    let answer = await run("merge-models", path, scratch("out"), "--random-seed", "42", "--json")
    #expect(answer.code == 0, "\(answer.error)")
    let json = try #require(JSONValue(parsing: answer.output))
    #expect(json["tensors"]?.integerValue == 30 && json["method"]?.stringValue == "dare_ties")
    let expected = try Checkpoint(path: Fixtures.path("recipes/results/dare-ties.safetensors"))
    let found = try Checkpoint(path: scratch("out"))
    for name in expected.names {
      let pairs = zip(try doubles(found, name), try doubles(expected, name))
      #expect(pairs.allSatisfy { abs($0 - $1) < 1e-5 }, "\(name)")
    }
    let again = await run("merge-models", path, scratch("out"))
    #expect(again.code == 2 && again.error.contains("--force"))
    #expect(await run("merge-models", path, scratch("out"), "--force").code == 0)
  }

  @Test(arguments: [
    ("hf://owner/absent-model@v2", "owner/absent-model"),
    ("https://huggingface.co/owner/absent-model/tree/main", "owner/absent-model"),
    ("hf://datasets/owner/name", "expected a model, and not one of the hub's datasets"),
    ("https://elsewhere.example/owner/name", "expected a page of"),
  ])
  func aModelOfARecipeIsAnAddressAsOperandsAre(address: String, said: String) async throws {
    let scratch = try ScratchDirectory()
    let text = "merge_method: passthrough\nmodels: [{model: \"\(address)\"}]\n"
    let answer = await run("merge-models", try Self.recipe(scratch, text), scratch("out"), "--offline")
    #expect(answer.code == 2 && answer.error.contains(said), "\(answer.error)")
    #expect(FileSystem.kind(scratch("out")) == nil)
  }

  @Test func whatARecipeCannotSayIsNamed() async throws {
    let scratch = try ScratchDirectory()
    let text = "merge_method: linear\nmodels: [{model: models/one, parameters: {wieght: 1}}]\n"
    let answer = await run("merge-models", try Self.recipe(scratch, text), scratch("out"))
    #expect(answer.code == 2 && answer.error.contains("unknown key 'wieght'. Did you mean 'weight'"))
    #expect(FileSystem.kind(scratch("out")) == nil)
    let seed = await run("merge-models", scratch("recipe.yml"), scratch("out"), "--random-seed", "-1")
    #expect(seed.code == 2 && seed.error.contains("random-seed"))
    let missing = await run("merge-models", scratch("none.yml"), scratch("out"))
    #expect(missing.code == 2 && missing.error.contains("none.yml"))
  }
}
