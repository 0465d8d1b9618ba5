internal import PEFT
internal import TensorFiles
internal import TensorMath

/// An adapter in the form in which a model uses it.
struct LoadedAdapter {
  let name: String
  let stored: StoredAdapter
  var config: PeftConfig { stored.config }
  /// Low-rank factors of linear layers, which stay apart, by path.
  var factors: [String: LoRALinear.Factors] = [:]
  /// What takes the place of parameters, by the parameter's name.
  var replaced: [ExactName: WeightMatrix] = [:]
  var prompt: PromptAdapter?
  /// Tokens from which on an aLoRA acts; nil for another adapter.
  var invocation: [Int]?

  /// Reads an adapter for a model. LoRA on linear layers stays apart; whatever else changes weights is computed once, by the rules
  /// of a merge, and takes the weights' place while the adapter is active.
  ///
  /// Throws `.adapter` for all that a merge refuses, `.unsupported`.
  init(name: String, _ stored: StoredAdapter, model: CausalLanguageModel, task: Int) throws(ModelError) {
    self.name = name
    self.stored = stored
    if PromptAdapter.types.contains(config.peftType.rawValue) {
      prompt = try PromptAdapter(stored, model, task: task)
      return
    }
    guard config.layerReplication.isEmptyOrFalse else {
      throw .unsupported(
        what: "layer_replication", reason: "the model would have other layers. Merge the adapter, and run the result.")
    }
    if let tokens = config.aloraInvocationTokens.elements {
      invocation = tokens.compactMap(\.integerValue)
      try addFactors(model)
      return
    }
    // A bias of B needs none in the base while it is apart; a merge would.
    let endings = [".lora_A.weight", ".lora_B.weight", ".lora_B.bias"]
    if config.loraBias, staysApart,
      stored.weights.entries.allSatisfy({ entry in endings.contains(where: entry.name.hasSuffix) })
    {
      try addFactors(model)
      return
    }
    let match = try withAdapterErrors({ () throws(AdapterError) in
      try AdapterMatch(base: model.base.path, adapters: [MergePlan.Input(stored)])
    })
    try use(match, model)
  }

  private mutating func use(_ match: AdapterMatch, _ model: CausalLanguageModel) throws(ModelError) {
    var apart: Set<ExactName> = []
    let adapter = match.adapters[0]
    let isApart = staysApart
    if config.peftType == .lora && (config.targetParameters ?? []).isEmpty && config.useBDLoRA.isEmptyOrFalse {
      let scaling = try withAdapterErrors({ () throws(AdapterError) in
        try LoRAScaling(config, path: adapter.configPath)
      })
      for module in adapter.modules
      where !module.isEmbedding && module.bias == nil && adapter.baseCopies[module.path] == nil {
        guard let layer = model.linear(at: module.path), module.a.shape.count == 2 else { continue }
        let values = try withAdapterErrors({ () throws(AdapterError) in try scaling.values(for: module.path) })
        try add(module.path, module.a, module.b, adapter.file, Float(values.scale), layer)
        factors[module.path]?.isFolded = !isApart
        factors[module.path]?.hasMagnitude = module.magnitude != nil
        guard isApart else { continue }
        apart.insert(model.base.storedName("\(module.path).weight") ?? "\(module.path).weight")
      }
    }
    // In f32, as all sums are: rounded to the base's dtype they would be another model's than PEFT's, which adds while it runs.
    let changed = try withAdapterErrors({ () throws(AdapterError) in
      try match.computedTensors(skipping: apart, widening: true)
    })
    replaced = try model.values(of: consume changed)
  }

  /// True for a plain LoRA: s·B·A beside a weight that stays what it is.
  private var staysApart: Bool {
    config.peftType == .lora && config.loraExtra == nil && (config.targetParameters ?? []).isEmpty
      && !config.ensureWeightTying
  }

  private mutating func addFactors(_ model: CausalLanguageModel) throws(ModelError) {
    let file = stored.weights
    let scaling = try withAdapterErrors({ () throws(AdapterError) in
      try LoRAScaling(config, path: stored.configPath)
    })
    let (prefix, ending) = ("base_model.model.", ".lora_A.weight")
    for entry in file.entries where !entry.name.hasSuffix(".lora_B.weight") && !entry.name.hasSuffix(".lora_B.bias") {
      guard entry.name.hasPrefix(prefix), entry.name.hasSuffix(ending) else {
        throw .adapter(.tensorUnexpected(path: file.path, tensor: entry.name))
      }
      let module = String(entry.name.dropFirst(prefix.count).dropLast(ending.count))
      guard let b = file["\(prefix)\(module).lora_B.weight"] else {
        throw .adapter(.unpaired(path: file.path, module: module, present: "lora_A"))
      }
      guard let layer = model.linear(at: module) else {
        throw .adapter(.unmatched(base: model.base.path, modules: [module], matched: 0, total: 1, nearest: []))
      }
      let values = try withAdapterErrors({ () throws(AdapterError) in try scaling.values(for: module) })
      try add(module, entry, b, file, Float(values.scale), layer)
      guard let bias = file["\(prefix)\(module).lora_B.bias"] else { continue }
      guard bias.shape == [layer.outFeatures] else {
        throw .adapter(
          .shapeMismatch(base: file.path, tensor: bias.name, found: bias.shape, expected: [layer.outFeatures]))
      }
      let added = try matrix(bias, file).values
      factors[module]?.bias = added
    }
  }

  private mutating func add(
    _ path: String, _ a: TensorEntry, _ b: TensorEntry, _ file: SafetensorsFile, _ scale: Float, _ layer: Linear
  ) throws(ModelError) {
    guard a.shape.count == 2, b.shape.count == 2, a.shape[1] == layer.inFeatures, b.shape[0] == layer.outFeatures,
      a.shape[0] == b.shape[1]
    else {
      throw .adapter(
        .shapeMismatch(
          base: file.path, tensor: a.name, found: a.shape, expected: [b.shape.last ?? 0, layer.inFeatures]))
    }
    factors[path] = LoRALinear.Factors(
      a: try matrix(a, file), b: try matrix(b, file), scale: scale, dropout: config.dropout?.doubleValue ?? 0)
  }

  private func matrix(_ entry: TensorEntry, _ file: SafetensorsFile) throws(ModelError) -> WeightMatrix {
    let bytes = try asModelError { () throws(TensorFileError) in try file.file.bytes(entry.byteRange) }
    return try WeightMatrix(ComputedTensor(name: entry.name, dtype: entry.dtype, shape: entry.shape, bytes: bytes))
  }
}

extension CausalLanguageModel {
  /// The frozen linear layer at a path, with an adapter around it or without.
  func linear(at path: String) -> Linear? {
    let module = root.module(at: path)
    return module as? Linear ?? (module as? LoRALinear)?.base
  }

  /// All parameters by their names in the model.
  var parametersByName: [ExactName: NetworkParameter] {
    var found: [ExactName: NetworkParameter] = [:]
    for (path, module) in root.namedModules() {
      for (name, parameter) in module.parameters {
        found["\(path.replacing(".base_layer", with: "")).\(name)"] = parameter
      }
    }
    return found
  }

  /// Names in the model by the checkpoint's names.
  var parameterNames: [ExactName: String] {
    Dictionary(
      parametersByName.keys.map { (base.storedName($0.text) ?? $0.text, $0.text) },
      uniquingKeysWith: { first, _ in first })
  }

  /// Tensors that a merge computed, by the names of the parameters whose place they take. Throws `.unsupported` for one that is none's.
  ///
  /// Memory: each tensor's bytes go as soon as its value is made.
  func values(of tensors: consuming [ComputedTensor]) throws(ModelError) -> [ExactName: WeightMatrix] {
    let names = parameterNames
    var values: [ExactName: WeightMatrix] = [:]
    while let tensor = tensors.popLast() {
      guard let name = names[tensor.name] else {
        throw .unsupported(
          what: "'\(tensor.name)' of the adapter", reason: "a causal language model has no such parameter.")
      }
      values[name] = try WeightMatrix(tensor)
    }
    return values
  }
}
