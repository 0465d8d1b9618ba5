public import PEFT
internal import TensorFiles
public import TensorMath

/// A model with adapters beside it: loaded, mixed, switched, merged and taken off again.
///
/// Source: peft/peft_model.py `PeftModel`, `PeftModelForCausalLM`; peft/tuners/tuners_utils.py `BaseTuner`.
public final class PeftModel {
  public let model: CausalLanguageModel
  private var loaded: [LoadedAdapter] = []
  /// Adapters that take part, and what each one's change is multiplied by.
  public private(set) var active: [(name: String, weight: Float)] = []
  private var isDisabled = false
  /// True while the active adapters are folded into the weights.
  public private(set) var isMerged = false
  /// How often what acts on the model has changed: keys and values of before are another model's.
  private(set) var changes = 0

  init(_ model: CausalLanguageModel) { self.model = model }

  /// Puts a fresh adapter on a model: PEFT's `get_peft_model`. Most start so that nothing changes yet.
  ///
  /// - Parameter seed: the same seed gives the same factors.
  /// Throws `.adapter` for a configuration that the model or `AdapterInitializer` does not take.
  public convenience init(
    wrapping model: CausalLanguageModel, config: PeftConfig, named name: String = "default", seed: UInt64 = 0
  ) throws(ModelError) {
    self.init(model)
    let text = try Tokenizer.promptTokens(config, base: model.base.path)
    let fresh = try withAdapterErrors({ () throws(AdapterError) in
      try AdapterInitializer(
        base: model.base, config: config, configPath: PeftConfig.fileName, seed: seed, promptTokens: text
      ).made()
    })
    try add(fresh, named: name)
  }

  /// Loads a base model and an adapter onto it: PEFT's `PeftModel.from_pretrained`.
  ///
  /// Throws what `CausalLanguageModel.init` throws, and `load(_:named:task:)`.
  public static func load(base: String, adapter: String, named name: String = "default") throws(ModelError) -> PeftModel
  {
    let model = PeftModel(try CausalLanguageModel(directory: base))
    try model.load(adapter, named: name)
    return model
  }

  /// Names of the adapters, in the order in which they came.
  public var adapterNames: [String] { loaded.map(\.name) }

  /// The configuration of an adapter; nil if there is none of that name.
  public func config(of name: String) -> PeftConfig? { loaded.first { $0.name == name }?.config }

  /// Loads one more adapter, in place of another of the same name. It becomes the active one if there was none.
  ///
  /// - Parameter task: which task's prompt a multitask prompt tuning gives.
  /// Throws `.adapter` for all that a merge refuses, `.unsupported`.
  public func load(_ adapter: String, named name: String, task: Int = 0) throws(ModelError) {
    try add(
      withAdapterErrors({ () throws(AdapterError) in try StoredAdapter(directory: adapter) }), named: name, task: task)
  }

  /// Puts one more adapter on the model, as `load(_:named:task:)` does.
  public func add(_ adapter: StoredAdapter, named name: String, task: Int = 0) throws(ModelError) {
    let fresh = try LoadedAdapter(name: name, adapter, model: model, task: task)
    let previous = active
    if loaded.contains(where: { $0.name == name }) { try delete(name) }
    loaded.append(fresh)
    for (path, factors) in fresh.factors {
      var factors = factors
      factors.isInvoked = fresh.invocation != nil
      loraLayer(at: path)?.add(factors, named: name)
    }
    try setActive(previous.isEmpty ? [(name: name, weight: Float(1))] : previous)
  }

  /// The LoRA layer at a path, put around the linear layer there if need be.
  private func loraLayer(at path: String) -> LoRALinear? {
    if let layer = model.root.module(at: path) as? LoRALinear { return layer }
    guard let base = model.root.module(at: path) as? Linear, let (parent, name) = model.parent(of: path) else {
      return nil
    }
    let layer = LoRALinear(base)
    parent.replaceChild(name, with: layer)
    return layer
  }

  /// Makes one adapter the only active one. Throws `.noSuchAdapter`, `.unsupported`.
  public func setActive(_ name: String) throws(ModelError) { try setActive([(name, 1)]) }

  /// Makes several adapters active, each with a weight for its change.
  ///
  /// Throws `.noSuchAdapter`, and `.unsupported` for prompts with a weight or beside another, and for changes that cannot be added.
  public func setActive(_ adapters: [(name: String, weight: Float)]) throws(ModelError) {
    for (name, _) in adapters where !loaded.contains(where: { $0.name == name }) {
      throw .noSuchAdapter(name: name, known: adapterNames)
    }
    let prompts = adapters.filter { entry in loaded.contains { $0.name == entry.name && $0.prompt != nil } }
    guard prompts.isEmpty || (prompts.count == 1 && prompts[0].weight == 1) else {
      throw .unsupported(
        what: "several prompts, or a prompt with a weight", reason: "only one can stand before the input.")
    }
    let previous = active
    active = adapters
    isMerged = false
    do throws(ModelError) {
      try apply()
    } catch {
      active = previous
      try? apply()
      throw error
    }
  }

  /// Runs something with the base model alone: PEFT's `disable_adapter`. Throws what the body throws.
  public func withAdaptersDisabled<Result, Failure: Error>(
    _ body: () throws(Failure) -> Result
  ) throws(Failure) -> Result {
    let previous = isDisabled
    isDisabled = true
    try? apply()
    defer {
      isDisabled = previous
      try? apply()
    }
    return try body()
  }

  /// Folds the active adapters into the weights, rounded as a merge on disk rounds them. Throws what a merge throws.
  public func merge() throws(ModelError) {
    let prompts = loaded.filter { adapter in adapter.prompt != nil && active.contains { $0.name == adapter.name } }
    guard prompts.isEmpty else {
      throw .unsupported(what: "merging '\(prompts[0].name)'", reason: "a prompt is no change of the weights.")
    }
    guard !active.isEmpty, !isMerged else { return }
    let inputs = active.compactMap { entry in
      loaded.first { $0.name == entry.name }.map { MergePlan.Input($0.stored, weight: Double(entry.weight)) }
    }
    let tensors = try withAdapterErrors({ () throws(AdapterError) in
      try AdapterMatch(base: model.base.path, adapters: inputs).computedTensors()
    })
    let values = try model.values(of: consume tensors)
    isMerged = true
    setLayers([])
    install(values)
  }

  /// Takes merged adapters out of the weights again, exactly: the stored weights were never touched.
  public func unmerge() throws(ModelError) {
    isMerged = false
    try apply()
  }

  /// Removes an adapter. Throws `.noSuchAdapter`.
  public func delete(_ name: String) throws(ModelError) {
    guard let index = loaded.firstIndex(where: { $0.name == name }) else {
      throw .noSuchAdapter(name: name, known: adapterNames)
    }
    for path in loaded[index].factors.keys {
      guard let layer = model.root.module(at: path) as? LoRALinear else { continue }
      layer.remove(name)
      if layer.adapters.isEmpty, let (parent, child) = model.parent(of: path) {
        parent.replaceChild(child, with: layer.base)
      }
    }
    loaded.remove(at: index)
    active.removeAll { $0.name == name }
    isMerged = false
    try apply()
  }

  /// Removes all adapters and returns the base model, as it was.
  public func unload() throws(ModelError) -> CausalLanguageModel {
    for name in adapterNames { try delete(name) }
    return model
  }

  /// Writes an adapter as PEFT's `save_pretrained` does: configuration and weights to the byte, and a model card.
  ///
  /// Throws `.noSuchAdapter`, `.adapter`.
  public func save(to output: String, adapter name: String? = nil, replacing: Bool = false) throws(ModelError) {
    let wanted = name ?? active.first?.name ?? adapterNames.first ?? ""
    guard let adapter = loaded.first(where: { $0.name == wanted }) else {
      throw .noSuchAdapter(name: wanted, known: adapterNames)
    }
    try withAdapterErrors({ () throws(AdapterError) in try adapter.stored.save(to: output, replacing: replacing) })
  }

  /// What PEFT counts for an adapter. Throws `.noSuchAdapter`, `.adapter`.
  public func trainableParameters(of name: String? = nil) throws(ModelError) -> ParameterCount {
    let wanted = name ?? active.first?.name ?? ""
    guard let adapter = loaded.first(where: { $0.name == wanted }) else {
      throw .noSuchAdapter(name: wanted, known: adapterNames)
    }
    return try withAdapterErrors({ () throws(AdapterError) in
      try model.base.parameterCount(
        of: adapter.config, configPath: adapter.stored.configPath, weights: adapter.stored.weights)
    })
  }

  /// The module tree with the adapters in it: of LoRA as PEFT's model prints it. Other methods' layers are printed as the base's.
  public var tree: String {
    guard let first = loaded.first else { return model.root.tree }
    var lines = model.root.lines
    func wrap(_ name: String, _ type: String) {
      lines[0] = "(\(name)): \(lines[0])"
      lines = ["\(type)("] + lines.map { "  \($0)" } + [")"]
    }
    if first.config.peftType == .lora { wrap("model", "LoraModel") }
    wrap("base_model", "PeftModelForCausalLM")
    return lines.joined(separator: "\n")
  }

  // MARK: Running

  /// An empty cache, with the active prefix in it.
  public func makeCache() -> KeyValueCache {
    let cache = model.makeCache()
    if case .prefix(let layers)? = activePrompt { cache.layers = layers }
    return cache
  }

  /// Virtual tokens that stand before the sequence, in the cache or as inputs.
  public var virtualTokens: Int {
    switch activePrompt {
    case .tokens(let prompt)?: prompt.rows
    case .prefix(let layers)?: layers.first?.count ?? 0
    default: 0
    }
  }

  private var activePrompt: PromptAdapter? {
    guard !isDisabled else { return nil }
    return loaded.first { adapter in active.contains { $0.name == adapter.name } && adapter.prompt != nil }?.prompt
  }

  /// Logits after each of `tokens`, or after the last one; virtual tokens go before the first ones of a cache and give none.
  ///
  /// Throws `.tokenOutside`, `.contextTooLong`.
  public func logits(_ tokens: [Int], cache: KeyValueCache, lastOnly: Bool = false) throws(ModelError) -> Matrix<Float>
  {
    let embedded = try model.embed(tokens)
    guard cache.count == 0, case .tokens(let prompt)? = activePrompt else {
      let start = activeInvocation.map { adapterStart($0, in: tokens, cache) } ?? Int.max
      return try model.logits(embedded: embedded, cache: cache, lastOnly: lastOnly, adapterStart: start)
    }
    let all = Matrix(
      rows: prompt.rows + embedded.rows, columns: embedded.columns, values: prompt.values + embedded.values)
    let logits = try model.logits(embedded: all, cache: cache, lastOnly: lastOnly)
    return lastOnly ? logits : logits.rows(prompt.rows..<logits.rows)
  }

  /// The first of the tokens that an aLoRA acts on; beyond them if it was not invoked yet.
  private func adapterStart(_ invocation: [Int], in tokens: [Int], _ cache: KeyValueCache) -> Int {
    if let start = tokens.lastStart(of: invocation) {
      cache.isInvoked = true
      return start
    }
    return cache.isInvoked ? 0 : Int.max
  }

  /// True if an aLoRA is active.
  var isInvocable: Bool { activeInvocation != nil }

  private var activeInvocation: [Int]? {
    loaded.first { adapter in active.contains { $0.name == adapter.name } && adapter.invocation != nil }?.invocation
  }

  // MARK: Applying

  /// Lets the active adapters act, and no others.
  private func apply() throws(ModelError) {
    let acting = isDisabled ? [] : active
    setLayers(acting)
    var values: [ExactName: WeightMatrix] = [:]
    let parameters = model.parametersByName
    let adapters = acting.compactMap { entry in
      loaded.first { $0.name == entry.name }.map { (adapter: $0, weight: entry.weight) }
    }
    for name in Set<ExactName>(adapters.flatMap { $0.adapter.replaced.keys }) {
      let changes = adapters.compactMap { entry in
        entry.adapter.replaced[name].map { (value: $0, weight: entry.weight) }
      }
      if changes.count == 1 && changes[0].weight == 1 {
        values[name] = changes[0].value
        continue
      }
      guard let base = parameters[name]?.stored else { continue }
      var sum = base.values
      for (value, weight) in changes {
        guard value.rows == base.rows, value.columns == base.columns else {
          throw .unsupported(what: "'\(name)' with a weight or of several adapters", reason: "its shape changes.")
        }
        for (index, (changed, plain)) in zip(value.values, base.values).enumerated() {
          sum[index] += weight * (changed - plain)
        }
      }
      values[name] = WeightMatrix(sum, rows: base.rows, columns: base.columns)
    }
    install(values)
    let gated: [Int: AdaptionPrompt] = if case .gated(let prompts)? = activePrompt { prompts } else { [:] }
    for (index, attention) in model.attentions.enumerated() { attention.prompts = gated[index].map { [$0] } ?? [] }
  }

  private func setLayers(_ acting: [(name: String, weight: Float)]) {
    changes += 1
    for (_, module) in model.root.namedModules() { (module as? LoRALinear)?.active = acting }
  }

  /// Lets values take the place of parameters; all others are the stored ones again. A tied head follows its embedding.
  private func install(_ values: [ExactName: WeightMatrix]) {
    let parameters = model.parametersByName
    for (name, parameter) in parameters { parameter.replace(with: values[name]) }
    let (head, embedding) = ("\(model.parts.head).weight", "\(model.parts.embedding).weight")
    if model.base.isTied, values[head] == nil, let value = values[embedding] { parameters[head]?.replace(with: value) }
  }
}

/// A model whose adapter's configuration names the base: PEFT's `AutoPeftModelForCausalLM`.
public enum AutoPeftModelForCausalLM {
  /// Loads an adapter and the base that it names: a directory, or a repository in the Hugging Face cache, which is downloaded if
  /// it is not there and the hub is not offline.
  ///
  /// Throws `.unsupported` if the configuration names none, `.adapter`, and what `PeftModel.load` throws.
  public static func load(adapter: String, hub: Hub = Hub()) throws(ModelError) -> PeftModel {
    try PeftModel.load(base: baseDirectory(of: adapter, hub: hub), adapter: adapter)
  }

  /// The directory of the base that an adapter's configuration names. Throws as `load(adapter:hub:)`.
  public static func baseDirectory(of adapter: String, hub: Hub = Hub()) throws(ModelError) -> String {
    let config = try withAdapterErrors({ () throws(AdapterError) in try PeftConfig.load(directory: adapter) })
    guard let name = config.baseModelNameOrPath, !name.isEmpty else {
      throw .unsupported(what: adapter, reason: "its configuration names no base model; give the base yourself.")
    }
    if FileSystem.kind(name) == .directory { return name }
    guard let repository = Repository(config.revision.map { "\(name)@\($0)" } ?? name) else {
      throw .unsupported(what: "the base '\(name)'", reason: "it is no directory here, and no repository's name.")
    }
    return try withAdapterErrors({ () throws(AdapterError) in try hub.directory(of: repository) })
  }
}

extension CausalLanguageModel {
  /// The module that holds the one at a path, and its name there.
  func parent(of path: String) -> (NetworkModule, String)? {
    guard let dot = path.lastIndex(of: ".") else { return (root, path) }
    return root.module(at: String(path[..<dot])).map { ($0, String(path[path.index(after: dot)...])) }
  }
}

extension Array where Element == Int {
  /// Where a sequence begins for the last time.
  fileprivate func lastStart(of sequence: [Int]) -> Int? {
    guard !sequence.isEmpty, count >= sequence.count else { return nil }
    return (0...count - sequence.count).last { Array(self[$0..<$0 + sequence.count]) == sequence }
  }
}
