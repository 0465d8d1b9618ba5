internal import TensorFiles
internal import TensorMath

/// Everything that a recipe's merge will do, decided and checked before anything is written.
public struct RecipePlan: Sendable {
  /// What the merge may do beyond the strict default.
  public struct Options: Sendable {
    /// Greatest bytes of tensor data in a shard.
    public var maxShardBytes = 5_000_000_000
    /// Replace an output that exists.
    public var replaceOutput = false
    /// Wait until the output is on the disk before it gets its name.
    public var durable = false
    /// Go on where a result is an infinity or a NaN.
    public var allowNonFinite = false
    /// Where torch's generator begins for methods that draw.
    public var seed: UInt64 = 0

    public init() {}
  }

  /// A tensor that is mixed.
  struct Mixing: Sendable {
    let mix: TensorMix
    let inputs: [RecipeModel.Source]
    let base: RecipeModel.Source?
    /// What orders the draws of all tensors: the greatest of the inputs' names.
    let label: String
  }

  enum Source: Sendable {
    case copy(OpenFile, TensorEntry)
    case mix(Mixing)
  }

  struct Output: Sendable {
    let item: SafetensorsLayout.Item
    let source: Source
  }

  struct Shard: Sendable {
    let name: String
    let outputs: [Output]
  }

  public let recipe: MergeRecipe
  public let options: Options
  let shards: [Shard]
  let metadata: [JSONValue.Member]
  /// config.json of the result.
  let config: JSONValue?
  let sideFiles: [SideFiles.Item]
  private let sideBytes: Int
  /// What is read: directories and files.
  let inputs: [String]
  /// The files of tensors among them, and the directories that these belong to.
  let weights: [String]
  let directories: [String]
  /// Layers of the result, if it has one stack of them.
  public let layerCount: Int?
  /// Things worth a word that do not stop the merge.
  public let notes: [String]

  public var shardNames: [String] { shards.map(\.name) }
  public var tensorCount: Int { shards.reduce(0) { $0 + $1.outputs.count } }
  /// Tensors that are computed; the others are copied.
  public var mixedCount: Int {
    shards.reduce(0) { total, shard in
      total + shard.outputs.count { output in if case .mix = output.source { true } else { false } }
    }
  }
  public var dataBytes: Int { shards.reduce(0) { $0 + $1.outputs.reduce(0) { $0 + $1.item.byteCount } } }
  /// Disk space that the output takes.
  public var diskBytes: Int {
    dataBytes + sideBytes
      + shards.reduce(0) { $0 + 64 + $1.outputs.reduce(0) { $0 + $1.item.name.utf8.count + 100 } }
  }

  /// Opens the recipe's models and finds the sources and parameters of every tensor. Reads headers, and the values of what is not
  /// computed on only; writes nothing.
  ///
  /// - Parameter locate: gives the directory for a path or a repository's name.
  /// Throws any case of `RecipeError`.
  public init(
    _ recipe: MergeRecipe, options: Options = Options(),
    locate: (String) throws(AdapterError) -> String = { path throws(AdapterError) in path }
  ) throws(RecipeError) {
    var maker = try RecipePlanMaker(recipe, locate: locate)
    let outputs = try maker.outputs()
    let reference = maker.reference
    let tokenizer = try maker.tokenizerDirectory()
    let found: (items: [SideFiles.Item], notes: [String]) = try asRecipeError { () throws(AdapterError) in
      try asAdapterError { () throws(TensorFileError) in
        let files = try SideFiles(
          base: reference.base.directory, adapters: [reference.adapter, tokenizer].compactMap { $0 })
        // These are written anew.
        return (files.items.filter { ![ModelCard.fileName, RecipeCard.recipeName].contains($0.name) }, files.notes)
      }
    }
    let divided = try asRecipeError { () throws(AdapterError) in
      try MergePlan.divided(outputs.map(\.item.byteCount), limit: options.maxShardBytes)
    }
    self.recipe = recipe
    self.options = options
    shards = divided.map { name, range in Shard(name: name, outputs: Array(outputs[range])) }
    config = maker.outputConfig(outputs)
    metadata = try maker.metadata()
    sideFiles = found.items
    sideBytes = try asRecipeError { () throws(AdapterError) in
      try asAdapterError { () throws(TensorFileError) in
        var bytes = recipe.text.utf8.count * 2 + 4096
        for item in found.items { bytes += try OpenFile.open(reading: item.source).byteCount() }
        return bytes
      }
    }
    let models = maker.models.values
    weights = models.flatMap(\.weights)
    directories = models.flatMap { model in [model.base.directory, model.adapter].compactMap { $0 } }
    inputs = models.map { $0.base.directory ?? $0.base.path } + directories + weights + found.items.map(\.source)
    layerCount = maker.layerCount
    notes = recipe.notes + maker.notes + found.notes
  }
}
