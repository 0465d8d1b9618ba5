internal import TensorFiles

/// What keeps an adapter from being served as it is, and the command that cures it.
public struct ServingCheck: Sendable {
  /// A place where adapters run.
  public enum Server: String, Sendable, CaseIterable {
    case vllm, sglang, lorax
    case llamaCpp = "llama.cpp"
    case mlx, ollama
  }

  /// One thing that the server refuses or leaves out.
  public struct Blocker: Sendable, Equatable {
    public let feature: String
    /// What the server does with it.
    public let effect: String
    /// What to do.
    public let cure: String
  }

  /// How large a rank a server takes.
  struct RankLimits: Sendable {
    /// Without an option.
    let byDefault: Int
    /// The values that its option takes, rising.
    let allowed: [Int]
  }

  public let server: Server
  /// The release whose behaviour is told, or what was read instead.
  public var version: String { ServingTable.rules(of: server).version }
  public let blockers: [Blocker]

  /// Judges an adapter by its configuration, the names and shapes of its tensors and the files beside them.
  ///
  /// Throws as `AdapterSummary.init`.
  public init(directory: String, server: Server) throws(AdapterError) {
    let adapter = try ServedAdapter(directory: directory)
    let rules = ServingTable.rules(of: server)
    self.server = server
    var blockers: [Blocker] = []
    for rule in rules.blockers {
      guard let feature = adapter.finding(rule.feature, limits: rules.ranks) else { continue }
      blockers.append(
        Blocker(
          feature: feature, effect: rule.effect,
          cure: Self.text(rule.cure, adapter, directory: directory, limits: rules.ranks)))
      // What reads no adapter of this kind at all has nothing to say of its parts.
      if rule.isFinal { break }
    }
    self.blockers = blockers
  }

  private static func text(
    _ cure: ServingTable.Cure, _ adapter: ServedAdapter, directory: String, limits: RankLimits?
  ) -> String {
    let keys = adapter.config.doubtfulKeys.map(\.key)
    let ignoring = keys.map { " --ignore-config-key \($0)" }.joined()
    let merge =
      "peft-tool merge BASE \(directory) OUT\(ignoring)"
      + (keys.isEmpty ? "" : ", if what it ignores changes no number")
    switch cure {
    case .merge:
      guard let refusal = adapter.mergeRefusal else { return merge }
      return "run it with PEFT: it cannot be merged, because \(refusal)"
    case .convert: return "peft-tool convert \(directory) OUT"
    case .greaterRank:
      let needed = limits?.allowed.first { $0 >= adapter.greatestRank } ?? adapter.greatestRank
      return "start the server with --max-lora-rank \(needed)"
    case .mergeOr(let other):
      return adapter.mergeRefusal == nil ? "\(merge), or \(other)" : other
    case .other(let text): return text.replacing("ADAPTER", with: directory)
    }
  }
}
