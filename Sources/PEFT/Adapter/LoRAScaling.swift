internal import TensorFiles

/// The one place where rank, alpha and scale of a module come from.
///
/// Source: peft/utils/other.py `get_pattern_key`; peft/tuners/lora/layer.py `LoraLayer.update_layer`.
public struct LoRAScaling {
  /// What applies to one module.
  public struct Values: Sendable, Hashable {
    public let rank: Int
    public let alpha: PythonNumber
    /// alpha / rank, or alpha / √rank with rsLoRA.
    public let scale: Double
  }

  /// No weight has more rows or columns: a greater rank is a damaged file.
  public static let greatestRank = 1 << 20

  private let config: PeftConfig
  private let path: String
  private let ranks: [(pattern: Pattern, value: Int)]
  private let alphas: [(pattern: Pattern, value: PythonNumber)]

  /// - Parameter path: names the configuration in errors.
  /// Throws `.patternInvalid`, `.patternUnsupported`.
  public init(_ config: PeftConfig, path: String) throws(AdapterError) {
    self.config = config
    self.path = path
    let budget = PatternBudget()
    var ranks: [(Pattern, Int)] = []
    for entry in config.rankPattern.entries { ranks.append((try Self.pattern(entry.pattern, budget), entry.value)) }
    var alphas: [(Pattern, PythonNumber)] = []
    for entry in config.alphaPattern.entries { alphas.append((try Self.pattern(entry.pattern, budget), entry.value)) }
    self.ranks = ranks
    self.alphas = alphas
  }

  private static func pattern(_ key: String, _ budget: PatternBudget) throws(AdapterError) -> Pattern {
    try Pattern("(.*\\.)?(\(key))$", budget)
  }

  /// Rank, alpha and scale of a module; the first matching pattern counts, each map on its own.
  ///
  /// The output projection of torch's MultiheadAttention has the rank and alpha of its attention, and twice the scale: PEFT
  /// runs an attention by merging it, and its merge adds the projection's change once itself and once by the projection's
  /// own merge. Source: peft/tuners/lora/layer.py `MultiheadAttention.merge`.
  /// Throws `.patternRunaway`, and `.configValue` for a rank below one or over `greatestRank`, or an absent alpha.
  public func values(for module: String) throws(AdapterError) -> Values {
    if let attention = config.attention(ofOutput: module) {
      let values = try values(for: attention)
      return Values(rank: values.rank, alpha: values.alpha, scale: 2 * values.scale)
    }
    let rank = try Self.first(ranks, module) ?? config.rank
    guard rank > 0, rank <= Self.greatestRank else {
      throw .configValue(
        path: path, key: "r", expected: "a rank from 1 to \(Self.greatestRank) for '\(module)'", found: "\(rank)")
    }
    guard let alpha = try Self.first(alphas, module) ?? config.alpha else {
      throw .configValue(path: path, key: "lora_alpha", expected: "a number", found: "null")
    }
    let divisor = config.useRSLoRA ? Double(rank).squareRoot() : Double(rank)
    return Values(rank: rank, alpha: alpha, scale: alpha.doubleValue / divisor)
  }

  /// Rank and scale of a module, or of the parameter of experts that it holds.
  ///
  /// - Parameter rows: lora_A's; a parameter's are a multiple of its rank.
  /// Throws as `values(for:)`.
  func values(ofModule path: String, rows: Int) throws(AdapterError) -> Values {
    let outer = ParameterWrapping.unwrapped(path).path
    for name in config.targetedParameters(in: outer) {
      let values = try values(for: "\(outer).\(name)")
      if rows % values.rank == 0 { return values }
    }
    return try values(for: path)
  }

  /// As `values(for:)`, the rank no greater than the weight's lesser extent where the initialisation decomposes the weight.
  ///
  /// Source: peft/tuners/lora/layer.py `pissa_init`, `olora_init`, which slice what has no more rows; the scale stays.
  func values(for module: String, leastExtent: Int) throws(AdapterError) -> Values {
    let values = try values(for: module)
    guard let name = config.initLoRAWeights.stringValue?.lowercased(), name == "pissa" || name == "olora" else {
      return values
    }
    return Values(rank: min(values.rank, leastExtent), alpha: values.alpha, scale: values.scale)
  }

  private static func first<Value>(
    _ entries: [(pattern: Pattern, value: Value)], _ module: String
  ) throws(AdapterError) -> Value? {
    for entry in entries where try entry.pattern.matchesStart(module) { return entry.value }
    return nil
  }
}

extension PeftConfig {
  /// The path of the torch MultiheadAttention whose output projection the module is: PEFT calls it
  /// `attn.base_layer.out_proj`. Nil for every other module.
  func attention(ofOutput module: String) -> String? {
    let suffix = ".base_layer.out_proj"
    guard module.hasSuffix(suffix) else { return nil }
    let attention = String(module.dropLast(suffix.count))
    // A LoRA on one of the attention's bare parameters wraps it too, and leaves the projection to be targeted apart.
    return targetedParameters(in: attention).isEmpty ? attention : nil
  }
}
