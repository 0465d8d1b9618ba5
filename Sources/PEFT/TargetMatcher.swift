internal import TensorFiles

/// PEFT's rules for which modules carry an adapter.
///
/// A module is named by its path in the model, such as `model.layers.0.self_attn.q_proj`.
/// Source: peft/tuners/tuners_utils.py `check_target_module_exists`.
public struct TargetMatcher {
  private let config: PeftConfig
  private let targetNames: Set<ExactName>
  private let excludedNames: Set<ExactName>
  private let target: Pattern?
  private let exclusion: Pattern?
  private let saved: [Pattern]
  private let layerIndex: [Pattern]

  /// Compiles the configuration's patterns. `all-linear` and absent targets match nothing here: expand them first, with
  /// `BaseModel.expandingTargets`.
  /// Throws `.patternInvalid`, `.patternUnsupported`.
  public init(_ config: PeftConfig) throws(AdapterError) {
    self.config = config
    let budget = PatternBudget()
    targetNames = Self.names(config.targetModules)
    excludedNames = Self.names(config.excludeModules)
    target =
      if case .pattern(let pattern)? = config.targetModules, !(config.targetModules?.isAllLinear ?? false) {
        try Pattern(pattern, budget)
      } else { nil }
    exclusion = if case .pattern(let pattern)? = config.excludeModules { try Pattern(pattern, budget) } else { nil }
    var saved: [Pattern] = []
    for name in config.savedModuleNames { saved.append(try Pattern("(^|.*\\.)\(name)($|\\..*)", budget)) }
    self.saved = saved
    let layers = (config.layersPattern?.values ?? []).filter { !$0.isEmpty }
    var layerIndex: [Pattern] = []
    for layer in layers { layerIndex.append(try Pattern("(?:^|.*?\\.)\(layer)\\.(?P<idx>\\d+)\\.", budget)) }
    if layers.isEmpty { layerIndex = [try Pattern(".*?\\.[^.]*\\.(?P<idx>\\d+)\\.", budget)] }
    self.layerIndex = layerIndex
  }

  private static func names(_ rule: ModuleRule?) -> Set<ExactName> {
    if case .names(let names)? = rule { Set(exactly: names) } else { [] }
  }

  /// What PEFT does with a module.
  public enum Verdict: Sendable, Equatable {
    case targeted
    case excluded
    case unmatched
  }

  /// Judges one module. Throws `.patternRunaway`.
  public func verdict(_ module: String) throws(AdapterError) -> Verdict {
    if let exclusion {
      if try exclusion.matchesWhole(module) { return .excluded }
    } else if Self.matches(excludedNames, module) {
      return .excluded
    }
    for pattern in saved where try pattern.matchesStart(module) { return .excluded }
    if let target { return try target.matchesWhole(module) ? .targeted : .unmatched }
    if targetNames.contains(module) { return .targeted }
    guard Self.matches(targetNames, module) else { return .unmatched }
    return try isInChosenLayer(module) ? .targeted : .unmatched
  }

  /// True if a name equals the path or ends it after a dot.
  static func matches(_ names: Set<ExactName>, _ module: String) -> Bool {
    guard !names.isEmpty else { return false }
    var rest = Substring(module)
    while !names.contains(String(rest)) {
      guard let dot = rest.utf8.firstIndex(of: UInt8(ascii: ".")) else { return false }
      rest = rest[rest.utf8.index(after: dot)...]
    }
    return true
  }

  private func isInChosenLayer(_ module: String) throws(AdapterError) -> Bool {
    guard let layers = config.layersToTransform else { return true }
    if case .many(let values) = layers, values.isEmpty { return true }
    for pattern in layerIndex {
      guard let digits = try pattern.group("idx", inStartOf: module) else { continue }
      return Int(digits).map(layers.values.contains) ?? false
    }
    return false
  }
}

extension ModuleRule: CustomStringConvertible {
  /// As an error names it: "target_modules q_proj, v_proj" without the key.
  public var description: String {
    switch self {
    case .names(let names) where names.count > 100:
      "\(names.prefix(100).joined(separator: ", ")) and \(names.count - 100) more"
    case .names(let names): names.isEmpty ? "an empty list" : names.joined(separator: ", ")
    case .pattern(let pattern): "the pattern '\(pattern)'"
    }
  }
}
