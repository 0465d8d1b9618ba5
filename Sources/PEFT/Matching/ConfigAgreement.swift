internal import TensorFiles

/// Checks both ways that an adapter's file holds what its configuration targets.
struct ConfigAgreement {
  let part: MatchedAdapter
  /// Weights that the adapter changes.
  var weights: Set<ExactName> = []
  /// Modules that are a tied weight's second name.
  var secondNames: Set<ExactName> = []

  /// Throws `.moduleNotTargeted`, `.missingFromAdapter`, and what the configuration's patterns throw.
  func check() throws(AdapterError) {
    let (adapter, base) = (part.adapter, part.base.model)
    guard adapter.moduleCount > 0 || !(adapter.config.targetModules == nil) else { return }
    var config = adapter.config
    if config.targetModules == nil {
      guard config.peftType == .lora, let modelType = base.modelType,
        let rule = DefaultTargets.lora(modelType: modelType)
      else { return }
      config.targetModules = rule
    }
    if config.targetModules?.isAllLinear == true { config = try base.expandingTargets(of: config) }
    let matcher = try TargetMatcher(config)
    let paths = adapter.modules.map(\.path) + adapter.methodParts.map(\.path)
    if !part.options.allowUntargeted {
      for path in paths where !secondNames.contains(path) {
        if try isTargeted(path, matcher) { continue }
        throw .moduleNotTargeted(
          path: adapter.file.path, module: path,
          targets: config.targetModules?.description ?? "nothing")
      }
    }
    guard !part.options.allowMissing else { return }
    let missing = try missing(from: paths, config, matcher)
    guard missing.isEmpty else { throw .missingFromAdapter(path: adapter.file.path, modules: missing) }
  }

  private func missing(
    from paths: [String], _ config: PeftConfig, _ matcher: TargetMatcher
  ) throws(AdapterError) -> [String] {
    var heldParameters: Set<Int> = []
    for module in part.adapter.modules {
      heldParameters.formUnion(config.parameterTargets.places(in: ParameterWrapping.unwrapped(module.path).path))
    }
    var missing = (config.targetParameters ?? []).enumerated().filter { !heldParameters.contains($0.offset) }.map(
      \.element)
    // transformers 5 holds a layer's experts as one parameter, which target_modules does not reach.
    let adaptsExperts = paths.contains(where: Self.isInExpert)
    let method = AdapterMethod.named(config.peftType)
    let present = Set(exactly: paths)
    for module in part.base.model.modules where module.kind != .other && !present.contains(module.path) {
      if Self.isInExpert(module.path) && !adaptsExperts { continue }
      if module.kind != .linear, method?.passesOverOthers ?? false { continue }
      if try matcher.verdict(module.path) == .targeted, !weights.contains(module.weightName) {
        missing.append(module.path)
      }
    }
    return missing
  }

  /// True if the configuration names the module, the module that it is a part of, or a parameter in it.
  private func isTargeted(_ path: String, _ matcher: TargetMatcher) throws(AdapterError) -> Bool {
    if try matcher.verdict(path) == .targeted { return true }
    if part.tiesOnPurpose, path == part.base.tiedHead || path == part.base.embedding { return true }
    let outer = path.firstRange(of: ".base_layer").map { String(path[..<$0.lowerBound]) } ?? path
    if !part.config.targetedParameters(in: outer).isEmpty { return true }
    return try matcher.verdict(outer) == .targeted
  }

  /// True for a module of one of several experts: `…experts.3.up_proj`.
  private static func isInExpert(_ path: String) -> Bool {
    guard path.holds(".experts."), let range = path.firstRange(of: ".experts.") else { return false }
    return path[range.upperBound...].first?.isNumber ?? false
  }
}
