internal import TensorFiles

/// README.md of a model that a recipe made.
struct RecipeCard {
  /// The name under which the recipe lies beside the model, as mergekit has it.
  static let recipeName = "mergekit_config.yml"
  /// The key of the record in the metadata of the files.
  static let metadataKey = "peft_tool_recipe"

  let recipe: MergeRecipe

  var text: String {
    let repositories = recipe.models.map(\.base).filter { FileSystem.kind($0) == nil }
    var front: [String] = []
    if !repositories.isEmpty { front += ["base_model:"] + repositories.map { "- \(JSONValue.string($0).compactText)" } }
    front += ["library_name: transformers", "tags:", "- merge"]
    // A fence that no line of the recipe closes.
    let fence = String(
      repeating: "`", count: max(3, 1 + (recipe.text.split(whereSeparator: { $0 != "`" }).map(\.count).max() ?? 0)))
    var recipeText = recipe.text
    if !recipeText.hasSuffix("\n") { recipeText += "\n" }
    let method = recipe.method.rawValue
    let lines =
      ["---"] + front + [
        "---", "# A merge of models", "",
        "Made by the method `\(method)`"
          + (recipe.base.map { " with \(Self.quoted($0.description)) as its base" } ?? "") + ", from:", "",
      ]
      + recipe.models.filter { $0 != recipe.base }.map { "- \(Self.quoted($0.description))" } + ["", "\(fence)yaml"]
    return lines.joined(separator: "\n") + "\n" + recipeText + fence + "\n"
  }

  private static func quoted(_ name: String) -> String {
    "`\(name.replacing("`", with: "'").split(whereSeparator: \.isNewline).joined(separator: " "))`"
  }
}
