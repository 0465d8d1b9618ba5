internal import TensorFiles
internal import TensorMath

extension Validation {
  /// Looks at the pairs of a LoRA, their ranks, and whether they are those that the configuration targets.
  mutating func checkLoRA(_ file: SafetensorsFile, _ config: PeftConfig, _ seen: [ExactName: ValueScan]) {
    let tokens = ListedTokens(config)
    for entry in file.entries {
      guard let name = AdapterName.inModel(entry.name) else {
        note("tensor", entry.name, "the name does not begin with '\(Adapter.prefix)'; PEFT ignores it")
        continue
      }
      if !entry.dtype.isComputable {
        note("dtype", entry.name, "\(entry.dtype.rawValue) is no floating-point type; expected F32, F16, BF16 or F64")
      }
      if let path = Self.tokenPath(name) { checkTokens(path, entry, tokens) }
    }
    let modules = AdapterName.loraModules(in: file)
    if modules.isEmpty && (config.modulesToSave ?? []).isEmpty {
      note("no-lora", path, "the file holds no lora_A and lora_B")
    }
    let configPath = FileSystem.join(path, PeftConfig.fileName)
    let scaling: LoRAScaling?
    do throws(AdapterError) {
      scaling = try LoRAScaling(config, path: configPath)
      _ = try scaling?.values(for: "")
    } catch {
      note("configuration", error)
      return
    }
    for entry in config.rankPattern.entries where entry.value <= 0 {
      note("configuration", "rank_pattern", "'\(entry.pattern)' has the rank \(entry.value); expected 1 or more")
    }
    for (name, tensors) in modules.sorted(by: { naturallyPrecedes($0.key.text, $1.key.text) }) {
      let module = name.text
      let a = tensors[.a] ?? tensors[.embeddingA]
      let b = tensors[.b] ?? tensors[.embeddingB]
      guard let a, let b else {
        let present = tensors.keys.map(\.ending).sorted().joined(separator: ", ")
        note("unpaired", module, "only \(present) is there; lora_A and lora_B are needed")
        continue
      }
      if let scan = seen[b.name], scan.isZero, b.elementCount > 0 {
        note("zero-B", module, "lora_B is all zero: the adapter changes nothing here")
      }
      checkCompanions(module, tensors, output: b.shape.first ?? 0, config)
      checkRank(module, a, b, config, scaling)
    }
    checkTargets(file, modules.keys.map(\.text).sorted(by: naturallyPrecedes), config)
  }

  /// The embedding of which a tensor holds trained rows; nil for other tensors.
  private static func tokenPath(_ name: String) -> String? {
    let ending = ".token_adapter.trainable_tokens_delta"
    return name.hasSuffix(ending) ? String(name.dropLast(ending.count)) : nil
  }

  private mutating func checkTokens(_ path: String, _ entry: TensorEntry, _ tokens: ListedTokens) {
    guard let listed = tokens.forAll ?? tokens.named(path), entry.shape.count == 2, entry.shape[0] != listed.count
    else { return }
    note("shape", entry.name, "\(entry.shape[0]) rows; trainable_token_indices lists \(listed.count)")
  }

  /// Looks at what stands beside A and B: DoRA's magnitudes, the bias of B, KaSA's singular values.
  private mutating func checkCompanions(
    _ module: String, _ tensors: [LoRARole: TensorEntry], output: Int, _ config: PeftConfig
  ) {
    let companions: [(role: LoRARole, isConfigured: Bool, key: String)] = [
      (.magnitude, config.useDoRA, "use_dora"), (.bias, config.loraBias, "lora_bias"),
      (.diagonal, config.kasaConfig != .null, "kasa_config"),
    ]
    for (role, isConfigured, key) in companions {
      guard (tensors[role] != nil) == isConfigured else {
        note(
          "unpaired", module,
          isConfigured
            ? "\(key) is set, but \(role.ending) is missing" : "\(role.ending) is there, but \(key) is not set")
        continue
      }
      guard role != .diagonal, let entry = tensors[role], entry.elementCount != output else { continue }
      note("shape", module, "\(role.ending) is \(entry.shape), lora_B gives \(output) outputs")
    }
  }

  private mutating func checkRank(
    _ module: String, _ a: TensorEntry, _ b: TensorEntry, _ config: PeftConfig, _ scaling: LoRAScaling?
  ) {
    guard a.shape.count >= 2, b.shape.count == a.shape.count, b.shape.dropFirst(2).allSatisfy({ $0 == 1 }) else {
      note("shape", module, "lora_A is \(a.shape), lora_B \(b.shape)")
      return
    }
    guard Self.haveCommonRank(a.shape, b.shape, config) else {
      note("shape", module, "lora_A \(a.shape) and lora_B \(b.shape) have no common rank")
      return
    }
    var paths = config.targetedParameters(in: ParameterWrapping.unwrapped(module).path).map {
      "\(ParameterWrapping.unwrapped(module).path).\($0)"
    }
    let isParameter = !paths.isEmpty
    if !isParameter { paths = [module] }
    var ranks: [Int] = []
    for path in paths {
      do throws(AdapterError) {
        if let rank = try scaling?.values(for: path, leastExtent: min(a.shape[1], b.shape[0])).rank {
          ranks.append(rank)
        }
      } catch {
        note("configuration", error)
        return
      }
    }
    // A parameter of experts has one rank an expert.
    guard !ranks.isEmpty, !ranks.contains(where: { isParameter ? a.shape[0] % $0 == 0 : a.shape[0] == $0 }) else {
      return
    }
    note("rank", module, "the configuration says \(ranks[0]), the tensors have \(a.shape[0])")
  }

  private static func haveCommonRank(_ a: [Int], _ b: [Int], _ config: PeftConfig) -> Bool {
    if a[0] == b[1] { return true }
    // Each group of a convolution's outputs reads its own part of the rank.
    if a.count > 2, a[0] > 0, b[1] > 0, a[0] % b[1] == 0, b[0] % (a[0] / b[1]) == 0 { return true }
    let blocks = config.useBDLoRA["nblocks"]?.integerValue ?? 1
    return blocks > 1 && checkedProduct(b[1], blocks) == a[0]
  }

  private mutating func checkTargets(_ file: SafetensorsFile, _ modules: [String], _ config: PeftConfig) {
    guard let rule = config.targetModules, !rule.isAllLinear, let matcher = try? TargetMatcher(config) else { return }
    for module in modules {
      let outer = module.firstRange(of: ".base_layer").map { String(module[..<$0.lowerBound]) } ?? module
      guard config.targetedParameters(in: outer).isEmpty, !config.ensureWeightTying else { continue }
      if let verdict = try? matcher.verdict(outer), verdict != .targeted {
        note("not-targeted", module, "target_modules (\(rule.description)) does not name it; PEFT ignores its tensors")
      }
    }
    // With exclude_modules nobody but the base can say whether a name has a module left.
    guard case .names(let names) = rule, config.excludeModules == nil else { return }
    let saved = file.entries.compactMap { AdapterName.inModel($0.name) }.filter { !$0.contains(LoRARole.mark) }
      .map { AdapterName.withoutWrappers($0).parts().dropLast().joined(separator: ".") }
    let endings = NameEndings(names)
    var isHeld = [Bool](repeating: false, count: names.count)
    for path in modules + saved {
      for place in endings.places(endOf: path) { isHeld[place] = true }
    }
    for (name, isHeld) in zip(names, isHeld) where !isHeld {
      if (try? matcher.verdict(name)) == .excluded { continue }
      note(
        "missing-target", name,
        "target_modules names it, but the file holds no such module: whether the model has one only the base tells")
    }
  }
}
