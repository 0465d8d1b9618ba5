internal import TensorFiles

/// The rank and scale that a module of an adapter is to have.
struct ModuleRank: Sendable {
  /// What patterns are matched with.
  let key: String
  let rank: Int
  let scale: Double
}

extension PeftConfig {
  /// Sets `r`, `lora_alpha` and both patterns so that each module gets its rank and scale; `use_rslora` stays as it is.
  ///
  /// The most frequent rank is `r`, of equally frequent ones the greatest; modules with another rank or alpha are named by their
  /// whole paths. `lora_alpha` gives the most frequent scale of modules of that rank.
  /// Throws `.patternRunaway`, and `.configContradiction` if two modules of one name need different ranks.
  mutating func setRanks(_ modules: [ModuleRank], path: String) throws(AdapterError) {
    guard !modules.isEmpty else { return }
    rankPattern = PatternMap()
    alphaPattern = PatternMap()
    rank = Self.mostFrequent(modules.map(\.rank))
    let usual = Self.mostFrequent(modules.filter { $0.rank == rank }.map(\.scale))
    alpha = alpha(scale: usual, rank: rank)
    // A pattern also matches what ends in its name: longer names come first, so that each module meets its own.
    let ordered = modules.sorted { left, right in
      let (a, b) = (left.key.utf8.count, right.key.utf8.count)
      return a != b ? a > b : left.key.utf8.lexicographicallyPrecedes(right.key.utf8)
    }
    try setPatterns(ordered, escaping: false)
    if try !agrees(ordered, path) {
      try setPatterns(ordered, escaping: true)
      guard try agrees(ordered, path) else {
        throw .configContradiction(path: path, reason: "two modules of one name need different ranks.")
      }
    }
  }

  /// The alpha that gives a scale.
  func alpha(scale: Double, rank: Int) -> PythonNumber {
    let alpha = scale * (useRSLoRA ? Double(rank).squareRoot() : Double(rank))
    let whole = alpha.rounded()
    return abs(alpha - whole) <= 1e-12 * abs(alpha) && abs(whole) < 0x1p53 ? .integer(Int(whole)) : .real(alpha)
  }

  /// Names every module that differs, and, where others' names would catch them, those that do not.
  private mutating func setPatterns(_ modules: [ModuleRank], escaping: Bool) throws(AdapterError) {
    func pattern(_ key: String) -> String {
      escaping ? key.map { "\\^$.|?*+()[]{}".contains($0) ? "\\\($0)" : "\($0)" }.joined() : key
    }
    let defaultAlpha = alpha
    var ranks: [PatternMap<Int>.Entry] = []
    var alphas: [PatternMap<PythonNumber>.Entry] = []
    let keys = Set(exactly: modules.map(\.key))
    for module in modules {
      let alpha = alpha(scale: module.scale, rank: module.rank)
      let parts = module.key.parts(keepingEmpty: true)
      let others = parts.indices.dropFirst().contains { keys.contains(parts[$0...].joined(separator: ".")) }
      if module.rank != rank || others { ranks.append(.init(pattern(module.key), module.rank)) }
      if alpha != defaultAlpha || others { alphas.append(.init(pattern(module.key), alpha)) }
    }
    rankPattern = PatternMap(Self.unique(ranks))
    alphaPattern = PatternMap(Self.unique(alphas))
  }

  private static func unique<Value>(_ entries: [PatternMap<Value>.Entry]) -> [PatternMap<Value>.Entry] {
    var seen: Set<String> = []
    return entries.filter { seen.insert($0.pattern).inserted }
  }

  private func agrees(_ modules: [ModuleRank], _ path: String) throws(AdapterError) -> Bool {
    let scaling = try LoRAScaling(self, path: path)
    for module in modules {
      let found = try scaling.values(for: module.key)
      if found.rank != module.rank || abs(found.scale - module.scale) > 1e-12 * abs(module.scale) { return false }
    }
    return true
  }

  /// The value that occurs most often, of several the greatest.
  private static func mostFrequent<Value: Hashable & Comparable>(_ values: [Value]) -> Value {
    var counts: [Value: Int] = [:]
    for value in values { counts[value, default: 0] += 1 }
    return counts.max { ($0.value, $0.key) < ($1.value, $1.key) }!.key
  }
}
