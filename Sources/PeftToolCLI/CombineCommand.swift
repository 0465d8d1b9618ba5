internal import PEFT
internal import TensorFiles

/// The options of `combine` that say how changes become one.
enum CombineFlags {
  static let methods = [
    "sum", "ties", "dare_linear", "dare_ties", "magnitude_prune", "breadcrumbs", "della", "della_linear", "slerp",
    "nuslerp",
  ]

  static let all: [Flag] = [
    Flag(
      "method", letter: "m", value: "METHOD", "how the changes are combined: \(methods.joined(separator: ", "))",
      detail:
        "All work on the changes themselves, never on A and B apart, and need --rank or --energy. slerp and nuslerp take two "
        + "adapters.", default: "sum", takes: .choice(methods)),
    Flag("density", value: "P", "the share of each change that a method keeps", default: "0.5"),
    Flag("gamma", value: "P", "the share of greatest magnitude that breadcrumbs leaves out", default: "0.01"),
    Flag("epsilon", value: "P", "how far della's probabilities lie from the density", default: "0.15"),
    Flag("normalize", "divide ties' sums by the weights of what agrees: a mean in the place of a sum"),
    Flag("seed", value: "N", "the same seed draws the same masks", default: "0"),
    Flag(
      "as-peft", value: "TYPE", "do what PEFT's add_weighted_adapter does, its errors included",
      detail:
        "TYPE is its combination_type; --rank is its svd_rank, --density and --seed as there. Types that draw masks need --base.",
      takes: .choice(PeftCombination.Kind.allCases.map(\.rawValue)), excludes: "method"),
    Flag(
      "by-frequency", "with --as-peft: elect signs by their number, as majority_sign_method=\"frequency\"",
      needs: "as-peft"),
    Flag(
      "base", value: "DIR", "the base model: for adapters that are more than factors, as DoRA is",
      detail: "Their changes are computed whole, a module at a time. With --as-peft: for types that draw masks.",
      isModel: true, remedy: .giveBase),
  ]

  /// The method that was chosen; nil for the sum. Throws `UsageError.badValue`.
  static func method(_ invocation: Invocation) throws(UsageError) -> CombinationMethod? {
    let density = try share("density", 0.5, invocation)
    switch invocation.value("method") {
    case "ties": return .ties(density: density, normalizes: invocation.has("normalize"))
    case "dare_linear": return .dare(density: density, elects: false)
    case "dare_ties": return .dare(density: density, elects: true)
    case "magnitude_prune": return .magnitude(density: density)
    case "breadcrumbs": return .breadcrumbs(density: density, gamma: try share("gamma", 0.01, invocation))
    case "della": return .della(density: density, epsilon: try share("epsilon", 0.15, invocation), elects: true)
    case "della_linear": return .della(density: density, epsilon: try share("epsilon", 0.15, invocation), elects: false)
    case "slerp": return .slerp
    case "nuslerp": return .nuslerp
    default: return nil
    }
  }

  /// A number above 0 and at most 1. Throws `UsageError.badValue`.
  static func share(_ name: String, _ usual: Double, _ invocation: Invocation) throws(UsageError) -> Double {
    let value = try invocation.number(name) ?? usual
    guard value > 0, value <= 1 else {
      throw .badValue(flag: name, found: "\(value)", expected: "a number above 0 and at most 1")
    }
    return value
  }

  static func seed(_ invocation: Invocation) throws(UsageError) -> UInt64 {
    let seed = try invocation.integer("seed") ?? 0
    guard seed >= 0 else { throw .badValue(flag: "seed", found: "\(seed)", expected: "a whole number from 0") }
    return UInt64(seed)
  }
}

/// `peft-tool combine ADAPTER... OUT`
@Sendable func combineCommand(_ invocation: Invocation, _ console: Console) async throws -> Int32 {
  let started = Clock.seconds
  var adapters: [(adapter: StoredAdapter, weight: Double)] = []
  for word in invocation.operands.dropLast() {
    let input = try adapterInput(word)
    adapters.append((try StoredAdapter(directory: input.directory), input.weight))
  }
  let output = invocation.operands[invocation.operands.count - 1]
  let report: WorkbenchReport
  if let kind = invocation.value("as-peft").flatMap(PeftCombination.Kind.init(rawValue:)) {
    var options = PeftCombination.Options(kind)
    options.rank = try invocation.integer("rank")
    options.density = try invocation.value("density") == nil ? nil : CombineFlags.share("density", 1, invocation)
    options.countsSigns = invocation.has("by-frequency")
    options.seed = try CombineFlags.seed(invocation)
    options.base = invocation.value("base")
    options.ignoredConfigKeys = Set(invocation.all("ignore-config-key"))
    report = try PeftCombination(adapters, options: options).write(to: output, replacing: invocation.has("force"))
  } else {
    var options = AdapterCombination.Options()
    options.rule = try RankFlags.rule(invocation)
    options.method = try CombineFlags.method(invocation)
    options.seed = try CombineFlags.seed(invocation)
    options.isPlain = invocation.has("plain")
    options.averagesSaved = invocation.has("average-saved")
    options.ignoredConfigKeys = Set(invocation.all("ignore-config-key"))
    options.base = invocation.value("base")
    report = try await AdapterCombination(adapters, options: options).write(
      to: output, replacing: invocation.has("force"), workers: try workerCount(invocation))
  }
  console.report(report, of: output, seconds: Clock.seconds - started, asJSON: invocation.has("json"))
  return 0
}
