internal import TensorFiles

extension BaseModel {
  /// The modules that a configuration's rules pick, in order, whatever their kind.
  ///
  /// Throws `.nothingTargeted` with candidates and the nearest names, `.targetNotLinear` if a rule hits a container of
  /// modules, and what `TargetMatcher` throws.
  public func targets(of config: PeftConfig) throws(AdapterError) -> [Module] {
    let config = try expandingTargets(of: config)
    let matcher = try TargetMatcher(config)
    var targeted: [Module] = []
    for module in modules where try matcher.verdict(module.path) == .targeted { targeted.append(module) }
    let weighted = Set(exactly: modules.map(\.path))
    try forEachContainer { container throws(AdapterError) in
      if !weighted.contains(container), try matcher.verdict(container) == .targeted {
        throw .targetNotLinear(base: path, module: container, shape: [])
      }
    }
    guard !targeted.isEmpty else { throw nothingTargeted(config.targetModules) }
    return targeted
  }

  /// As `targets(of:)`, for what only linear layers can carry. Throws `.targetNotLinear` besides.
  public func linearTargets(of config: PeftConfig) throws(AdapterError) -> [Module] {
    let targeted = try targets(of: config)
    for module in targeted where !module.isLinear {
      throw .targetNotLinear(base: path, module: module.path, shape: module.shape)
    }
    return targeted
  }

  /// The configuration with `all-linear` and absent targets replaced by names, as PEFT replaces them before it saves.
  ///
  /// `all-linear` becomes the full paths of all linear layers but the output embedding (with task SEQ_CLS and no output
  /// embedding, but `score` or `classifier`); a list of twenty or more is then shortened to the least suffixes that name
  /// the same modules. Source: peft/tuners/tuners_utils.py `_maybe_include_all_linear_layers`,
  /// `_find_minimal_target_modules`.
  /// Throws `.configValue` for absent targets where PEFT has no default for the model type.
  public func expandingTargets(of config: PeftConfig) throws(AdapterError) -> PeftConfig {
    var config = config
    if config.targetModules == nil && config.targetParameters == nil {
      let defaultTargets = AdapterMethod.named(config.peftType)?.defaultTargets ?? DefaultTargets.lora
      guard let modelType, let rule = defaultTargets(modelType) else {
        throw .configValue(
          path: PeftConfig.fileName, key: "target_modules",
          expected: "names, as there is no default for the model type '\(modelType ?? "unknown")'", found: "null")
      }
      config.targetModules = rule
    }
    if config.targetModules?.isAllLinear == true {
      config.targetModules = .names(allLinear(taskType: config.taskType))
    }
    if case .names(let names)? = config.targetModules, names.count >= 20 {
      config.targetModules = .names(leastEndings(of: names))
    }
    return config
  }

  private func allLinear(taskType: String?) -> [String] {
    var excluded: Set<ExactName> = []
    if let head = family?.head, modules.contains(where: { $0.path == head }), taskType != "SEQ_CLS" {
      excluded = [ExactName(head)]
    } else if taskType == "SEQ_CLS" {
      if let name = ["score", "classifier"].first(where: { name in modules.contains { $0.path == name } }) {
        excluded = [ExactName(name)]
      }
      if let head = family?.head { excluded.insert(head) }
    }
    return modules.filter { $0.isLinear && !excluded.contains($0.path) }.map(\.path)
  }

  /// What PEFT writes as `auto_mapping` where there is no task type: the base's class and its module in transformers.
  var autoMapping: JSONValue {
    guard let name = config?["architectures"]?.elements?.first?.stringValue, let modelType else { return .null }
    let module = modelType.replacing("-", with: "_")
    return .object([
      .init("base_model_class", .string(name)),
      .init("parent_library", .string("transformers.models.\(module).modeling_\(module)")),
    ])
  }

  private func nothingTargeted(_ rule: ModuleRule?) -> AdapterError {
    let candidates = Set(exactly: modules.filter(\.isLinear).map { lastPart($0.path) }).sorted().map(\.text)
    var wanted: [String] = []
    switch rule {
    case .names(let names)?: wanted = names.map(lastPart)
    case .pattern(let pattern)?:
      wanted = pattern.split { !($0.isLetter || $0.isNumber || $0 == "_") }.map(String.init)
    case nil: break
    }
    var nearest: [String] = []
    // Enough for a list that a person wrote; the distances to all names of a long one take hours.
    for name in wanted.prefix(32) where name.utf8.count <= 1000 {
      let matches = nearestNames(to: name, in: Array(candidates.prefix(1000)))
      for match in matches where !nearest.contains(match) { nearest.append(match) }
    }
    return .nothingTargeted(
      base: path, targets: "target_modules \(rule.map(\.description) ?? "null")", candidates: candidates,
      nearest: nearest)
  }
}

/// Up to three names that differ least from `name`, by edit distance, if they differ by less than half.
public func nearestNames(to name: String, in names: [String]) -> [String] {
  let ranked = names.map { (name: $0, distance: editDistance(name, $0)) }
    .filter { $0.distance * 2 <= max(name.count, $0.name.count) }
    .sorted { ($0.distance, $0.name) < ($1.distance, $1.name) }
  return ranked.prefix(3).map(\.name)
}

/// Least number of insertions, deletions and substitutions.
private func editDistance(_ left: String, _ right: String) -> Int {
  let a = Array(left.lowercased().prefix(200))
  let b = Array(right.lowercased().prefix(200))
  var row = Array(0...b.count)
  for i in 0..<a.count {
    var diagonal = row[0]
    row[0] = i + 1
    for j in 0..<b.count {
      let substitution = diagonal + (a[i] == b[j] ? 0 : 1)
      diagonal = row[j + 1]
      row[j + 1] = min(substitution, row[j] + 1, row[j + 1] + 1)
    }
  }
  return row[b.count]
}
