internal import TensorFiles

/// ΔW of an adapter's modules, each made when it is asked for.
struct AdapterDeltas {
  /// What ΔW is made of.
  private enum Source {
    case places(AdapterMatch, [AdapterMatch.DeltaPlace])
    case product(StoredProduct)
    case part(Adapter.MethodPart)
  }

  /// The modules in the natural order of their paths.
  let paths: [String]
  private let sources: [ExactName: Source]
  private let config: PeftConfig
  private let configPath: String
  private let file: SafetensorsFile
  private let shared: [ExactName: TensorEntry]
  private let budget: ProbeBudget

  /// Without a base: what the adapter alone determines. With one: what a merge changes.
  ///
  /// Throws as `ModuleStatistics.init`.
  init(directory: String, base: String?, options: MergeOptions = MergeOptions()) throws(AdapterError) {
    config = try PeftConfig.load(directory: directory)
    configPath = FileSystem.join(directory, PeftConfig.fileName)
    file = try Adapter.openWeights(directory)
    budget = ProbeBudget(file)
    var sources: [ExactName: Source] = [:]
    var shared: [ExactName: TensorEntry] = [:]
    if let base {
      var options = options
      options.allowRepeated = true
      let match = try AdapterMatch(base: base, adapters: [MergePlan.Input(directory)], options: options)
      for (path, places) in match.deltaPlaces() { sources[path] = .places(match, places) }
    } else if let method = AdapterMethod.named(config.peftType) {
      let parts = try MethodParts(file, config, method)
      shared = parts.shared
      for part in parts.modules { sources[part.path] = .part(part) }
    } else {
      for product in try StoredProduct.all(file, config, configPath) { sources[product.path] = .product(product) }
    }
    paths = sources.keys.map(\.text).sorted(by: naturallyPrecedes)
    self.sources = sources
    self.shared = shared
  }

  /// True if the adapter has a module of that path.
  func contains(_ path: String) -> Bool { sources[path] != nil }

  /// ΔW of a module; nil where it is not determined, or where there are more elements than are held. Throws `.file`, and what the
  /// making of a method's rule throws.
  func delta(of path: String) throws(AdapterError) -> ModuleDelta? {
    switch sources[path] {
    case .places(let match, let places): try match.delta(at: places)
    case .product(let product): product.isDetermined ? try product.delta() : nil
    case .part(let part):
      // What cannot be tried is not judged here: `Validation` says what is wrong with it.
      try
        (try? RuleProbe(
          part, shared: shared, config: config, configPath: configPath, file: file, budget: budget))?.delta()
    case nil: nil
    }
  }
}
