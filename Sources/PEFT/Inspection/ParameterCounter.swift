internal import TensorFiles

/// Counts what PEFT would train of one adapter on one base.
struct ParameterCounter {
  let base: BaseModel
  let config: PeftConfig
  let configPath: String
  /// The parameters of the model without the adapter.
  let parameters: BaseParameters
  /// Elements that the adapter stores of modules in full, by the parameters' names in the model.
  private let saved: [ExactName: Int]
  /// Rows that embedding and head had when the adapter was trained, if the adapter shows them to be others than the base's.
  private let vocabulary: Int?

  init(
    base: BaseModel, config: PeftConfig, configPath: String, file: SafetensorsFile?
  ) throws(AdapterError) {
    self.base = base
    self.config = config
    self.configPath = configPath
    var saved: [ExactName: Int] = [:]
    for entry in file?.entries ?? [] where !BaseParameters.isBuffer(entry.name, entry.shape) {
      let (name, _) = AdapterName.withoutForeignParts(entry.name)
      guard name.hasPrefix(Adapter.prefix), !name.contains(".original_module."), !name.contains(".lora_") else {
        continue
      }
      let plain = AdapterName.withoutWrappers(String(name.dropFirst(Adapter.prefix.count)))
      let path = plain.parts().dropLast().joined(separator: ".")
      if config.savesModule(path) { saved[plain] = entry.elementCount }
    }
    self.saved = saved
    parameters = try BaseParameters(
      base, config, configPath: configPath,
      savedPaths: Set(saved.keys.map { $0.text.parts().dropLast().joined(separator: ".") }))
    vocabulary = Self.vocabulary(parameters, file)
    for parameter in parameters.list {
      if let vocabulary, let rows = parameters.rows, rows > 0, parameter.shape.first == rows {
        _ = try product(vocabulary, parameter.count / rows)
      }
    }
  }

  /// Rows of the embedding or head in the adapter, where they differ from the base's.
  private static func vocabulary(_ parameters: BaseParameters, _ file: SafetensorsFile?) -> Int? {
    guard let rows = parameters.rows else { return nil }
    for path in [parameters.embedding, parameters.head].compactMap({ $0 }) {
      for ending in ["base_layer.weight", "token_adapter.base_layer.weight", "weight", "modules_to_save.weight"] {
        if let found = file?["\(Adapter.prefix)\(path).\(ending)"]?.shape.first, found != rows { return found }
      }
    }
    return nil
  }

  // MARK: The sum

  /// - Parameters:
  ///   - trained: what the adapter trains beside copies of the base's modules.
  ///   - frozen: what it adds without training it.
  ///   - adapted: paths of the modules that carry it.
  func count(trained: Int, frozen: Int, adapted: Set<ExactName>) -> ParameterCount {
    let (copies, missing) = savedCounts
    return ParameterCount(
      trainable: trained + copies + trainedBiases(adapted),
      all: parameters.list.reduce(0) { $0 + count($1) } + trained + frozen + copies + missing)
  }

  /// A parameter's elements, with the rows that it had when the adapter was trained.
  func count(_ parameter: BaseParameters.Parameter) -> Int {
    guard let vocabulary, let rows = parameters.rows, parameter.shape.first == rows else { return parameter.count }
    let path = parameter.path
    let isOfVocabulary =
      path == parameters.embedding || path == parameters.head
      || (parameter.shape.count == 1 && base.family?.prefix.map { !parameter.name.hasPrefix("\($0).") } ?? false)
    guard isOfVocabulary, rows > 0 else { return parameter.count }
    return parameter.count / rows * vocabulary
  }

  /// Biases of the base that the configuration trains too; those of modules that are stored in full stay as they are.
  ///
  /// Source: peft/tuners/tuners_utils.py `BaseTuner._mark_only_adapters_as_trainable`.
  private func trainedBiases(_ adapted: Set<ExactName>) -> Int {
    let setting = config.settings["bias"]?.stringValue ?? config.bias
    guard setting != "none" else { return 0 }
    let biases = parameters.list.filter { $0.isBias && !config.savesModule($0.path) }
    if setting == "all" { return biases.reduce(0) { $0 + count($1) } }
    // Either path may have more before it than the other.
    let names = NameEndings(adapted.map(\.text))
    let paths = NameEndings(biases.map(\.path))
    let isNamed = Set(names.names.flatMap(paths.places(endOf:)))
    return biases.enumerated().reduce(0) { sum, bias in
      isNamed.contains(bias.offset) || names.contains(endOf: paths.names[bias.offset]) ? sum + count(bias.element) : sum
    }
  }

  /// Parameters of saved modules: their copies, and the originals that the checkpoint lacks.
  private var savedCounts: (copies: Int, missing: Int) {
    var (copies, missing) = (0, 0)
    var found: Set<ExactName> = []
    for parameter in parameters.list where config.savesModule(parameter.path) {
      found.insert(parameter.name)
      // A classifier of other labels than the base's takes its place.
      let own = saved[parameter.name] ?? count(parameter)
      copies += own
      missing += own - count(parameter)
    }
    if let head = parameters.head, let embedding = parameters.embedding, parameters.isTied, config.savesModule(head) {
      let isShared = config.ensureWeightTying && config.savesModule(embedding)
      if !isShared, base.modules.contains(where: { $0.path == head }),
        let source = parameters.list.first(where: { $0.name == "\(embedding).weight" }), hasHead
      {
        copies += count(source)
      }
      found.insert("\(head).weight")
    }
    for (name, count) in saved where !found.contains(name) {
      copies += count
      if !parameters.isSecondName(name.text) { missing += count }
    }
    return (copies, missing)
  }

  private var hasHead: Bool {
    BaseModel.hasLanguageHead(taskType: config.taskType, config: base.config)
  }

  /// A product of sizes. Throws `.uncountable` where no model has so many parameters.
  func product(_ sizes: Int...) throws(AdapterError) -> Int {
    guard let product = checkedProduct(sizes), product <= 1 << 50 else {
      throw .uncountable(
        path: configPath, what: "this adapter",
        reason: "\(sizes.map(String.init).joined(separator: " × ")) parameters are more than any model has.")
    }
    return product
  }

  /// A whole number of the configuration that sizes something.
  func integer(_ key: String) throws(AdapterError) -> Int {
    let found = config.settings[key] ?? .null
    guard let value = found.integerValue, (0...1 << 20).contains(value) else {
      throw .configValue(
        path: configPath, key: key, expected: "a whole number from 0 to \(1 << 20)", found: found.compactText)
    }
    return value
  }
}
