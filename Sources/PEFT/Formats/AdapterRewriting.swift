internal import TensorFiles

/// A PEFT adapter to be written with other names, fewer tensors or another configuration; every tensor keeps its bits.
public struct AdapterRewriting: Sendable {
  private let stored: StoredAdapter
  private let configText: String
  private let tensors: [(entry: TensorEntry, name: String)]
  /// What becomes different.
  public let notes: [String]

  fileprivate init(
    _ stored: StoredAdapter, configText: String, tensors: [(entry: TensorEntry, name: String)], notes: [String]
  ) {
    self.stored = stored
    self.configText = configText
    self.tensors = tensors
    self.notes = notes
  }

  /// Tensors that are written.
  public var tensorCount: Int { tensors.count }

  /// Writes an adapter's directory, whole or not at all. Throws `.file`, `.tensorRepeated`.
  public func write(to output: String, replacing: Bool = false) throws(AdapterError) {
    let named = tensors.map { NamedTensor($0.name, MadeTensor($0.entry, of: stored.weights.file)) }
    let metadata = stored.weights.metadata.filter { $0.key != "format" } + [.init("format", .string("pt"))]
    let card = ModelCard(config: stored.config, isFresh: false).text
    let files: [(name: String, content: DialectOutput.Content)] = [
      (Adapter.weightsName, .safetensors(named, metadata: metadata, namesFormat: true)),
      (PeftConfig.fileName, .text(configText)), (ModelCard.fileName, .text(card)),
    ]
    try DialectOutput(files: files)
      .write(to: output, replacing: replacing, inputs: stored.directory.map { [$0] } ?? [])
  }
}

extension StoredAdapter {
  private var unchanged: [(entry: TensorEntry, name: String)] { weights.entries.map { ($0, $0.name) } }

  /// The adapter without tensors that are the base's own: copies of weights beside a LoRA, and modules stored in full that
  /// training left as they were.
  ///
  /// A module of `modules_to_save` goes only if all of its tensors do. Cost: reads such tensors and the base's.
  /// Throws `.ambiguous`, `.file`.
  public func slimmed(by base: BaseModel) throws(AdapterError) -> AdapterRewriting {
    var same: Set<ExactName> = []
    var kept: Set<String> = []
    var saved: [String: [TensorEntry]] = [:]
    for entry in weights.entries {
      guard let name = AdapterName.inModel(entry.name), !name.contains(LoRARole.mark), !name.hasSuffix("_delta") else {
        continue
      }
      let plain = AdapterName.withoutWrappers(name).replacing(".token_adapter.", with: ".")
      let isCopy = try isBase(entry, plain, base)
      if isCopy { same.insert(ExactName(entry.name)) }
      let module = plain.parts().dropLast().joined(separator: ".")
      guard config.savesModule(module), !name.contains(".base_layer.") else { continue }
      let root = config.savedModuleNames.first { module.endsExactly($0) || module.contains("\($0).") } ?? module
      saved[root, default: []].append(entry)
      if !isCopy { kept.insert(root) }
    }
    for (root, entries) in saved where kept.contains(root) {
      for entry in entries { same.remove(ExactName(entry.name)) }
    }
    var config = self.config
    let gone = Set(saved.keys).subtracting(kept)
    config.modulesToSave = config.modulesToSave?.filter { !gone.contains($0) }
    if config.modulesToSave?.isEmpty == true { config.modulesToSave = nil }
    let tensors = unchanged.filter { !same.contains(ExactName($0.name)) }
    let bytes = weights.entries.filter { same.contains(ExactName($0.name)) }.reduce(0) { $0 + $1.byteRange.count }
    let notes =
      same.isEmpty
      ? ["no tensor is the base's own"]
      : ["left out \(same.count) tensor\(same.count == 1 ? "" : "s") of \(bytes) bytes that the base has itself"]
    return AdapterRewriting(self, configText: config.fileText, tensors: tensors, notes: notes)
  }

  private func isBase(_ entry: TensorEntry, _ name: String, _ base: BaseModel) throws(AdapterError) -> Bool {
    let found = try NameResolver(base).resolve(name) ?? base.tiedName(name)
    guard let found, let location = base.checkpoint[found], location.entry.shape == entry.shape,
      location.entry.dtype.isComputable, entry.dtype.isComputable
    else { return false }
    let own = MadeTensor(entry, of: weights.file)
    let other = MadeTensor(location.entry, of: base.checkpoint.shards[location.shard].file)
    // The narrower of the two dtypes holds what both would be.
    let isNarrower = own.dtype.bitCount < other.dtype.bitCount
    return isNarrower
      ? try own.bytes() == other.cast(to: own.dtype).bytes() : try own.cast(to: other.dtype).bytes() == other.bytes()
  }

  /// The adapter with the names that its modules have in a base: parts that wrap a model, such as `language_model`, differ between
  /// releases.
  ///
  /// Throws `.unmatched` with what no module answers to, `.ambiguous`, `.tensorRepeated`, and `.configValue` for a pattern of
  /// ranks or alphas that would mean something else afterwards.
  public func renamed(after base: BaseModel) throws(AdapterError) -> AdapterRewriting {
    let resolver = NameResolver(base)
    var paths: [ExactName: String] = [:]
    var missing: [String] = []
    let modelNames = Dictionary(base.modules.map { ($0.weightName, $0.path) }, uniquingKeysWith: { first, _ in first })
    func renamed(_ path: String) throws(AdapterError) -> String? {
      if let known = paths[ExactName(path)] { return known }
      guard let name = try resolver.resolve("\(path).weight"), let found = modelNames[name] else { return nil }
      paths[ExactName(path)] = found
      return found
    }
    var tensors: [(entry: TensorEntry, name: String)] = []
    for entry in weights.entries {
      guard let name = AdapterName.inModel(entry.name) else {
        tensors.append((entry, entry.name))
        continue
      }
      let part = LoRARole.split(name)
      let path = part?.path ?? AdapterName.withoutWrappers(name).parts().dropLast().joined(separator: ".")
      guard let found = try renamed(path) else {
        missing.append(path)
        continue
      }
      let rest =
        name.hasPrefix(path) ? String(name.dropFirst(path.count)) : "." + (name.parts().last.map(String.init) ?? "")
      tensors.append((entry, "\(Adapter.prefix)\(found)\(rest)"))
    }
    guard missing.isEmpty else {
      throw .unmatched(
        base: base.path, modules: missing, matched: paths.count, total: paths.count + missing.count,
        nearest: resolver.nearest("\(missing[0]).weight"))
    }
    let changed = paths.filter { !$0.key.text.isExactly($0.value) }
    let config = try renamedConfig(paths)
    let example = changed.min { $0.key < $1.key }.map { ", such as '\($0.key)' as '\($0.value)'" } ?? ""
    return AdapterRewriting(
      self, configText: config.fileText, tensors: tensors,
      notes: ["renamed \(changed.count) of \(paths.count) modules\(example)"])
  }

  private func renamedConfig(_ paths: [ExactName: String]) throws(AdapterError) -> PeftConfig {
    var config = self.config
    func name(_ old: String) -> String { paths[ExactName(old)] ?? old }
    switch config.targetModules {
    case .names(let names)?: config.targetModules = .names(names.map(name))
    case .pattern?: config.targetModules = .names(paths.values.sorted(by: naturallyPrecedes))
    case nil: break
    }
    config.rankPattern = PatternMap(config.rankPattern.entries.map { .init(name($0.pattern), $0.value) })
    config.alphaPattern = PatternMap(config.alphaPattern.entries.map { .init(name($0.pattern), $0.value) })
    guard config.peftType == .lora else { return config }
    let (old, new) = (try LoRAScaling(self.config, path: configPath), try LoRAScaling(config, path: configPath))
    for (path, renamed) in paths where try old.values(for: path.text) != new.values(for: renamed) {
      throw .configValue(
        path: configPath, key: "rank_pattern or alpha_pattern",
        expected: "patterns that match '\(renamed)' as '\(path)'",
        found: (config.rankPattern.json).compactText + config.alphaPattern.json.compactText)
    }
    return config
  }

  /// The adapter with a configuration that an earlier release of PEFT reads.
  ///
  /// Throws `.notConvertible` for settings that change something and that the release does not have, `.configValue` for a release that
  /// is not known.
  public func configured(for release: String) throws(AdapterError) -> AdapterRewriting {
    let numbers = release.split(separator: ".").compactMap { Int($0) }
    guard numbers.count >= 2, numbers[0] == 0, numbers[1] >= 4 else {
      throw .configValue(
        path: configPath, key: "the release", expected: "a release of PEFT from 0.4 on", found: release)
    }
    guard config.peftType == .lora else {
      throw .notConvertible(
        path: configPath,
        [
          ConversionObstacle(
            what: "method \(config.peftType.rawValue)", reason: "the keys of each release are known for LoRA only",
            cure: "peft-tool to-lora ADAPTER OUT")
        ])
    }
    let defaults = PeftConfig().json
    var members: [JSONValue.Member] = []
    var dropped: [String] = []
    var obstacles: [ConversionObstacle] = []
    for member in config.json.members ?? [] {
      let first = ConfigRelease.first(with: member.key)
      if let first, first <= numbers[1] {
        members.append(member)
      } else if member.value.isEmptyOrFalse || member.value == defaults[member.key] || member.key == "peft_version"
        || (first == nil && PeftConfig.harmlessKeys.contains(member.key))
      {
        dropped.append(member.key)
      } else {
        obstacles.append(
          ConversionObstacle(
            what: "\(member.key) \(member.value.compactText)",
            reason: first.map { "PEFT has it from 0.\($0) on" } ?? "no release of PEFT has it",
            cure: "peft-tool merge BASE ADAPTER OUT"))
      }
    }
    guard obstacles.isEmpty else { throw .notConvertible(path: configPath, obstacles) }
    return AdapterRewriting(
      self, configText: JSONValue.object(members).pythonText(sortedKeys: true), tensors: unchanged,
      notes: [
        dropped.isEmpty
          ? "the configuration has no key that PEFT \(release) lacks"
          : "left out of the configuration: \(dropped.sorted().joined(separator: ", "))"
      ])
  }
}

/// The releases of PEFT in which keys of a LoRA's configuration came.
///
/// Source: `LoraConfig` and `PeftConfig` of PEFT 0.4.0 to 0.21.2.
enum ConfigRelease {
  private static let table: [(release: Int, keys: String)] = [
    (
      4,
      """
      auto_mapping base_model_name_or_path bias fan_in_fan_out inference_mode init_lora_weights layers_pattern \
      layers_to_transform lora_alpha lora_dropout modules_to_save peft_type r revision target_modules task_type
      """
    ), (6, "alpha_pattern rank_pattern"), (7, "loftq_config megatron_config megatron_core"), (8, "use_rslora"),
    (9, "use_dora"), (10, "layer_replication"), (14, "eva_config exclude_modules lora_bias"),
    (15, "corda_config trainable_token_indices"),
    (16, "qalora_group_size use_qalora"), (17, "target_parameters"),
    (18, "alora_invocation_tokens arrow_config ensure_weight_tying peft_version"), (19, "lora_ga_config use_bdlora"),
    (20, "monteclora_config velora_config"), (21, "kasa_config"),
  ]

  /// The minor number of the first release that has a key; nil if none has it.
  static func first(with key: String) -> Int? {
    table.first { $0.keys.split(whereSeparator: { $0 == " " || $0 == "\n" }).contains(Substring(key)) }?.release
  }
}
