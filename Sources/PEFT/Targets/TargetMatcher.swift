internal import TensorFiles

/// PEFT's rules for which modules carry an adapter.
///
/// A module is named by its path in the model, such as `model.layers.0.self_attn.q_proj`.
/// Source: peft/tuners/tuners_utils.py `check_target_module_exists`.
public struct TargetMatcher {
  private let targetNames: NameEndings
  private let excludedNames: NameEndings
  private let fullNames: Set<ExactName>
  private let target: Pattern?
  private let exclusion: Pattern?
  /// Names of `modules_to_save` that are plain words, and the others.
  private let savedWords: Set<ExactName>
  private let saved: [Pattern]
  /// The layers of `layers_to_transform`; nil for all.
  private let layers: Set<Int>?
  private let layerIndex: [Pattern]

  /// Compiles the configuration's patterns. `all-linear` and absent targets match nothing here: expand them first, with
  /// `BaseModel.expandingTargets`.
  /// Throws `.patternInvalid`, `.patternUnsupported`.
  public init(_ config: PeftConfig) throws(AdapterError) {
    let budget = PatternBudget()
    targetNames = Self.names(config.targetModules)
    excludedNames = Self.names(config.excludeModules)
    fullNames = Set(exactly: targetNames.names)
    target =
      if case .pattern(let pattern)? = config.targetModules, !(config.targetModules?.isAllLinear ?? false) {
        try Pattern(pattern, budget)
      } else { nil }
    exclusion = if case .pattern(let pattern)? = config.excludeModules { try Pattern(pattern, budget) } else { nil }
    var saved: [Pattern] = []
    var savedWords: Set<ExactName> = []
    for name in config.savedModuleNames {
      if Self.isWord(name) {
        savedWords.insert(name)
      } else {
        saved.append(try Pattern("(^|.*\\.)\(name)($|\\..*)", budget))
      }
    }
    self.saved = saved
    self.savedWords = savedWords
    let chosen = config.layersToTransform.map { Set($0.values) } ?? []
    layers = chosen.isEmpty ? nil : chosen
    let layers = (config.layersPattern?.values ?? []).filter { !$0.isEmpty }
    var layerIndex: [Pattern] = []
    for layer in layers { layerIndex.append(try Pattern("(?:^|.*?\\.)\(layer)\\.(?P<idx>\\d+)\\.", budget)) }
    if layers.isEmpty { layerIndex = [try Pattern(".*?\\.[^.]*\\.(?P<idx>\\d+)\\.", budget)] }
    self.layerIndex = layerIndex
  }

  private static func names(_ rule: ModuleRule?) -> NameEndings {
    if case .names(let names)? = rule { NameEndings(names) } else { NameEndings([]) }
  }

  /// True for a name that means itself as a pattern, and is a part of a path if it is in one.
  private static func isWord(_ name: String) -> Bool {
    !name.isEmpty
      && name.utf8.allSatisfy { byte in
        switch UnicodeScalar(byte) {
        case "a"..."z", "A"..."Z", "0"..."9", "_": true
        default: false
        }
      }
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
    } else if excludedNames.contains(endOf: module) {
      return .excluded
    }
    if !savedWords.isEmpty, module.parts().contains(where: { savedWords.contains(String($0)) }) { return .excluded }
    for pattern in saved where try pattern.matchesStart(module) { return .excluded }
    if let target { return try target.matchesWhole(module) ? .targeted : .unmatched }
    if fullNames.contains(module) { return .targeted }
    guard targetNames.contains(endOf: module) else { return .unmatched }
    return try isInChosenLayer(module) ? .targeted : .unmatched
  }

  private func isInChosenLayer(_ module: String) throws(AdapterError) -> Bool {
    guard let layers else { return true }
    for pattern in layerIndex {
      guard let digits = try pattern.group("idx", inStartOf: module) else { continue }
      return Int(digits).map(layers.contains) ?? false
    }
    return false
  }
}

extension ModuleRule: CustomStringConvertible {
  /// As an error names it: "target_modules q_proj, v_proj" without the key.
  public var description: String {
    switch self {
    case .names(let names): names.isEmpty ? "an empty list" : Self.list(names)
    case .pattern(let pattern): "the pattern '\(pattern)'"
    }
  }

  /// The names, or the first hundred of them that have room in an error.
  private static func list(_ names: [String]) -> String {
    var count = 0
    var room = 3000
    for name in names.prefix(100) {
      room -= name.utf8.count + 2
      if room < 0 && count > 0 { break }
      count += 1
    }
    let list = names.prefix(count).joined(separator: ", ")
    return count < names.count ? "\(list) and \(names.count - count) more" : list
  }
}
