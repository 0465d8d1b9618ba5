internal import TensorFiles

/// mlx-lm's adapters: adapter_config.json with the arguments of the training, and adapters.safetensors.
///
/// Factors are stored transposed, but those of experts, which are stacked. One scale holds for all.
/// Source: mlx_lm/tuner/utils.py `load_adapters`, `linear_to_lora_layers`; mlx_lm/tuner/lora.py, dora.py.
enum MLXDialect {
  static let weightsName = "adapters.safetensors"
  /// Where the configuration of PEFT that an adapter had is kept; mlx-lm reads past it.
  static let originKey = "peft_config"

  // MARK: Reading

  /// Throws `.foreignContent`, `.file`, `.notConvertible` for what PEFT's form does not hold.
  static func read(_ directory: String) throws(AdapterError) -> CarriedAdapter {
    let configPath = FileSystem.join(directory, PeftConfig.fileName)
    let json = try asAdapterError { () throws(TensorFileError) in try JSONValue(contentsOf: configPath) }
    let file = try asAdapterError { () throws(TensorFileError) in
      try SafetensorsFile(path: FileSystem.join(directory, weightsName))
    }
    guard !file.entries.isEmpty else { throw .noTensors(path: file.path) }
    let kind = json["fine_tune_type"]?.stringValue ?? "lora"
    guard kind == "lora" || kind == "dora" else {
      throw .notConvertible(
        path: configPath,
        [
          ConversionObstacle(
            what: "fine_tune_type \"\(kind)\"", reason: "the file holds the model's own parameters, not an adapter",
            cure: "write the model with mlx_lm.fuse, then: peft-tool extract BASE MODEL OUT")
        ])
    }
    var config = PeftConfig()
    config.taskType = "CAUSAL_LM"
    config.inferenceMode = true
    config.baseModelNameOrPath = json["model"]?.stringValue
    config.dropout = PythonNumber(json: json["lora_parameters"]?["dropout"] ?? .null) ?? 0.0
    config.peftVersion = PeftConfig.mirroredVersion
    let modules = try modules(of: file, scale: scale(json, configPath))
    let adapter = CarriedAdapter(modules, config: config)
    if adapter.hasMagnitudes != (kind == "dora")
      || adapter.modules.contains(where: { ($0[.magnitude] == nil) == (kind == "dora") })
    {
      throw .foreignContent(path: file.path, reason: "fine_tune_type is '\(kind)', but the tensors are another's")
    }
    guard let origin = json[originKey], let kept = try? PeftConfig(json: origin, path: configPath) else {
      return adapter
    }
    return adapter.adopting(kept) ?? adapter
  }

  /// The final multiplier of every module's product; files of early releases have an alpha in its place.
  private static func scale(_ json: JSONValue, _ path: String) throws(AdapterError) -> (Int) -> Double {
    let parameters = json["lora_parameters"] ?? .null
    if let scale = PythonNumber(json: parameters["scale"] ?? .null)?.doubleValue, scale.isFinite {
      return { _ in scale }
    }
    if let alpha = PythonNumber(json: parameters["alpha"] ?? .null)?.doubleValue, alpha.isFinite {
      return { alpha / Double($0) }
    }
    throw .configValue(
      path: path, key: "lora_parameters.scale", expected: "a number",
      found: parameters["scale"]?.compactText ?? "absent")
  }

  private static func modules(
    of file: SafetensorsFile, scale: (Int) -> Double
  ) throws(AdapterError) -> [CarriedModule] {
    var parts: [ExactName: [String: TensorEntry]] = [:]
    for entry in file.entries {
      guard let dot = entry.name.utf8.lastIndex(of: UInt8(ascii: ".")),
        case let role = String(entry.name[entry.name.index(after: dot)...]), ["lora_a", "lora_b", "m"].contains(role)
      else { throw .foreignContent(path: file.path, reason: "tensor '\(entry.name)' is no part of a LoRA") }
      guard entry.dtype.isComputable else {
        throw .adapterDType(path: file.path, tensor: entry.name, dtype: entry.dtype)
      }
      parts[ExactName(String(entry.name[..<dot])), default: [:]][role] = entry
    }
    var modules: [CarriedModule] = []
    for (path, tensors) in parts {
      guard let a = tensors["lora_a"], let b = tensors["lora_b"] else {
        throw .unpaired(path: file.path, module: path.text, present: tensors["lora_a"] == nil ? "lora_b" : "lora_a")
      }
      let (madeA, madeB) = (MadeTensor(a, of: file.file), MadeTensor(b, of: file.file))
      if a.shape.count == 3 {
        modules += try experts(path.text, madeA, madeB, hasMagnitude: tensors["m"] != nil, scale, path: file.path)
        continue
      }
      guard a.shape.count == 2, b.shape.count == 2, a.shape[1] == b.shape[0], a.shape[1] > 0 else {
        throw .foreignContent(
          path: file.path,
          reason: "module '\(path)' has lora_a \(a.shape) and lora_b \(b.shape); [in, r] and [r, out] are needed")
      }
      let rank = a.shape[1]
      let isEmbedding = ModelFamily.namesEmbedding(path.text)
      let (roleA, roleB): (LoRARole, LoRARole) = isEmbedding ? (.embeddingA, .embeddingB) : (.a, .b)
      var module = CarriedModule(
        path: MLXNames.peft(path.text), tensors: [roleA.ending: madeA.transposed, roleB.ending: madeB.transposed],
        rank: rank, alpha: scale(rank) * Double(rank), scale: scale(rank))
      if let m = tensors["m"] {
        guard m.shape == [b.shape[1]], !isEmbedding else {
          throw .foreignContent(
            path: file.path,
            reason: isEmbedding
              ? "module '\(path)' has a magnitude for each token, PEFT's DoRA has one for each dimension"
              : "module '\(path)' has magnitudes \(m.shape) for \(b.shape[1]) outputs")
        }
        module[.magnitude] = MadeTensor(m, of: file.file)
      }
      modules.append(module)
    }
    return modules
  }

  private static func experts(
    _ path: String, _ a: MadeTensor, _ b: MadeTensor, hasMagnitude: Bool, _ scale: (Int) -> Double, path file: String
  ) throws(AdapterError) -> [CarriedModule] {
    guard b.shape.count == 3, a.shape[0] == b.shape[0], a.shape[1] == b.shape[2], a.shape[1] > 0, !hasMagnitude else {
      throw .foreignContent(
        path: file,
        reason:
          "experts '\(path)' have lora_a \(a.shape) and lora_b \(b.shape); [experts, r, in] and [experts, out, r] "
          + "are needed, without magnitudes")
    }
    guard let expert = ExpertNames(mlx: path) else {
      throw .foreignContent(path: file, reason: "'\(path)' is stacked, but its name is no group of experts")
    }
    let rank = a.shape[1]
    return (0..<a.shape[0]).map { index in
      CarriedModule(
        path: expert.path(index),
        tensors: [
          LoRARole.a.ending: a.rows(index..<index + 1).reshaped([rank, a.shape[2]]),
          LoRARole.b.ending: b.rows(index..<index + 1).reshaped([b.shape[1], rank]),
        ], rank: rank, alpha: scale(rank) * Double(rank), scale: scale(rank))
    }
  }

  // MARK: Writing

  /// What keeps an adapter from being written so.
  static func obstacles(_ adapter: CarriedAdapter, base: BaseFacts?) -> [ConversionObstacle] {
    var found = adapter.obstacles(takesMagnitudes: true)
    func add(_ what: String, _ reason: String, _ cure: String) {
      found.append(ConversionObstacle(what: what, reason: reason, cure: cure))
    }
    if let module = adapter.modules.first(where: { ($0.a?.shape.count ?? 2) > 2 }) {
      add("the convolution '\(module.path)'", "the form has matrices only", "peft-tool merge BASE ADAPTER OUT")
    }
    if adapter.hasMagnitudes {
      if let module = adapter.modules.first(where: \.isEmbedding) {
        add(
          "DoRA of the embedding '\(module.path)'",
          "mlx-lm has a magnitude for each token, PEFT one for each dimension",
          "peft-tool merge BASE ADAPTER OUT")
      }
      if let module = adapter.modules.first(where: { ExpertNames(peft: $0.path) != nil }) {
        add("DoRA of the expert '\(module.path)'", "mlx-lm has none for experts", "peft-tool merge BASE ADAPTER OUT")
      }
    }
    if base?.isTied == true {
      for module in adapter.modules where module.isEmbedding || module.path.hasSuffix("lm_head") {
        add(
          "'\(module.path)' of a tied model",
          module.isEmbedding
            ? "mlx-lm applies it to the output too" : "mlx-lm has no such module where the weights are tied",
          "peft-tool merge BASE ADAPTER OUT")
      }
    }
    for (group, indices) in groups(adapter.modules) {
      let all = Set(0..<indices.count)
      let isTotal =
        base?.count("num_local_experts", "num_experts", "n_routed_experts").map { $0 == indices.count } ?? true
      if Set(indices.keys) != all || !isTotal {
        add("experts of '\(group)'", "some have an adapter, others have none", "peft-tool merge BASE ADAPTER OUT")
      }
    }
    return found
  }

  private static func groups(_ modules: [CarriedModule]) -> [(String, [Int: CarriedModule])] {
    var groups: [String: [Int: CarriedModule]] = [:]
    for module in modules {
      guard let expert = ExpertNames(peft: module.path) else { continue }
      groups[expert.mlx, default: [:]][expert.index] = module
    }
    return groups.sorted { naturallyPrecedes($0.key, $1.key) }.map { ($0.key, $0.value) }
  }

  static func output(_ adapter: CarriedAdapter, base: BaseFacts?) -> DialectOutput {
    var notes: [String] = []
    let scale = CarriedAdapter.mostFrequent(adapter.modules.map(\.scale).filter { $0 != 0 }) ?? 1
    let rank = adapter.modules.map(\.rank).max() ?? 0
    let folded = adapter.modules.filter { $0.scale != scale }
    if !folded.isEmpty { notes.append(FoldNote.text(folded, to: scale)) }
    let modules = adapter.modules.map { $0.folded(to: scale).padded(to: rank) }
    let padded = adapter.modules.filter { $0.rank < rank }.count
    if padded > 0 { notes.append("\(padded) of \(modules.count) modules padded with zeros to rank \(rank): exact") }
    var tensors: [NamedTensor] = []
    var paths: [String] = []
    for module in modules where ExpertNames(peft: module.path) == nil {
      let path = MLXNames.mlx(module.path, base)
      paths.append(path)
      if let a = module.a { tensors.append(NamedTensor("\(path).lora_a", a.transposed)) }
      if let b = module.b { tensors.append(NamedTensor("\(path).lora_b", b.transposed)) }
      if let m = module[.magnitude] { tensors.append(NamedTensor("\(path).m", m.reshaped([m.elementCount]))) }
    }
    for (path, members) in groups(modules) {
      let ordered = members.sorted { $0.key < $1.key }.map(\.value)
      paths.append(path)
      tensors.append(NamedTensor("\(path).lora_a", .stacked(ordered.compactMap(\.a))))
      tensors.append(NamedTensor("\(path).lora_b", .stacked(ordered.compactMap(\.b))))
    }
    let (keys, layers) = MLXNames.keys(paths, layers: base?.layers, config: adapter.config)
    var members: [JSONValue.Member] = [
      .init("fine_tune_type", .string(adapter.hasMagnitudes ? "dora" : "lora")), .init("num_layers", .integer(layers)),
      .init(
        "lora_parameters",
        .object([
          .init("rank", .integer(rank)), .init("scale", .number(scale)),
          .init("dropout", .number(adapter.config.dropout?.doubleValue ?? 0)),
          .init("keys", .array(keys.map { .string($0) })),
        ])), .init(originKey, adapter.peftConfig.json),
    ]
    if let model = adapter.config.baseModelNameOrPath { members.append(.init("model", .string(model))) }
    return DialectOutput(
      files: [
        (weightsName, .safetensors(tensors, metadata: [], namesFormat: false)),
        (PeftConfig.fileName, .text(JSONValue.object(members).pythonText(sortedKeys: true))),
      ], notes: notes)
  }
}

/// What a conversion says where it multiplied values.
enum FoldNote {
  static func text(_ modules: [CarriedModule], to scale: Double) -> String {
    text(modules.count, isExact: modules.allSatisfy { ($0.scale / scale).significand == 1 || $0.scale == 0 })
  }

  static func text(_ count: Int, isExact: Bool) -> String {
    "\(count) module\(count == 1 ? "" : "s") multiplied to have the scale of the others: "
      + (isExact ? "by powers of two, exact" : "rounded once, within one unit in the last place")
  }
}
