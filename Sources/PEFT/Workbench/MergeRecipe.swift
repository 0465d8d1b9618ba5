internal import TensorFiles

/// A recipe for one model out of several, as mergekit's YAML has it.
///
/// Source: mergekit 0.1.5, config.py `MergeConfiguration`, common.py `ModelReference`.
public struct MergeRecipe: Sendable {
  /// A model of a recipe: a directory or a repository, and an adapter that is merged into it.
  public struct Model: Sendable, Hashable, CustomStringConvertible {
    public let base: String
    public let adapter: String?

    /// As recipes spell it: `base` or `base+adapter`.
    public var description: String { adapter.map { "\(base)+\($0)" } ?? base }

    /// A word that leads to something is a path; otherwise what follows a plus is an adapter. Nil with several pluses.
    public init?(_ word: String) {
      guard !word.isEmpty else { return nil }
      let parts = word.split(separator: "+", omittingEmptySubsequences: false).map(String.init)
      if FileSystem.kind(word) != nil || parts.count == 1 {
        (base, adapter) = (word, nil)
      } else {
        guard parts.count == 2, !parts[0].isEmpty, !parts[1].isEmpty else { return nil }
        (base, adapter) = (parts[0], parts[1])
      }
    }

    init(base: String, adapter: String?) {
      self.base = base
      self.adapter = adapter
    }
  }

  /// A model's part in a slice: some of its layers.
  struct Source: Sendable {
    let model: Model
    /// Nil for all layers.
    let layers: Range<Int>?
    let parameters: [String: RecipeSetting]
  }

  /// Layers of the result, and where they come from.
  struct Slice: Sendable {
    let sources: [Source]
    let base: Model?
    let parameters: [String: RecipeSetting]
    /// The place in the recipe.
    let place: String
  }

  /// Where the tokenizer's files come from.
  enum TokenizerSource: Sendable, Equatable {
    case base
    case union
    case model(Model)
  }

  /// For messages.
  public let path: String
  /// As read.
  public let text: String
  public let method: RecipeMethod
  public let base: Model?
  let slices: [Slice]
  /// True if the recipe has `slices`; false for `models`, which are one slice of all layers.
  let isSliced: Bool
  /// The parameters of `modules.default`, if it has any, then those of the recipe.
  let parameters: [[String: RecipeSetting]]
  /// What the inputs are taken for, and what is written if nothing else is said.
  let dtype: DType?
  let outDType: DType?
  let tokenizer: TokenizerSource?
  /// What the recipe says that has no effect.
  public internal(set) var notes: [String]

  /// Models that a recipe may have.
  static let modelLimit = 100

  /// All models that are merged, the base first, then in the order of the recipe.
  public var models: [Model] {
    var models: [Model] = []
    var known: Set<Model> = []
    func add(_ model: Model?) { if let model, known.insert(model).inserted { models.append(model) } }
    add(base)
    for slice in slices {
      add(slice.base)
      for source in slice.sources { add(source.model) }
    }
    return models
  }
}
