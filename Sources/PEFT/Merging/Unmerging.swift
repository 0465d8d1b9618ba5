internal import TensorFiles

/// What is known of a model that adapters are taken out of, and so of the result.
public enum Restoration: Sendable, Equatable {
  /// The adapters are all that the last merge added: the result is what was there before it, but for two roundings; in the
  /// tensors `copies` it is what the adapter held in their place, which was not the base's.
  case lastMerge(copies: [String])
  /// The adapters are in the model, among others or with merges since: what remains, and how many passes have rounded
  /// since the first of the adapters was merged.
  case amongOthers(remaining: [Provenance.Merged], passes: Int)
  /// As `lastMerge`, but by the record of a release that did not note the configuration.
  case incompleteRecord
  /// The model has no record of merges that can be read.
  case unrecorded
}

/// The adapters that are taken out of a model, as its record has them.
struct Unmerging {
  private let knowledge: Restoration
  /// What is subtracted, in the order in which it was added where that is known. Weights are negative.
  let adapters: [Adapter]
  let weights: [Double]
  /// Merges since the first of the adapters.
  private let later: [Provenance.Step]
  /// Tensors that the merges of the adapters did not only add to.
  private let overwritten: Set<ExactName>
  /// Keys of config.json that the merge changed, which stay so.
  let configKeys: [String]

  /// Throws `.notMerged` and `.configChanged` where the record contradicts what is asked for.
  init(_ adapters: [Adapter], weights: [Double], from model: BaseModel) throws(AdapterError) {
    let record = Provenance(of: model.checkpoint)
    guard record.isKnown, !record.steps.isEmpty else {
      self.init(.unrecorded, adapters, weights.map { -$0 }, later: [], overwritten: [], configKeys: [])
      return
    }
    var digests: [String] = []
    for adapter in adapters { digests.append(try adapter.digest()) }
    let asked = Dictionary(zip(digests, weights), uniquingKeysWith: +)
    for (adapter, digest) in zip(adapters, digests) {
      let weight = asked[digest] ?? 0
      let held = record.weight(of: digest)
      guard Provenance.isZero(held - weight), !Provenance.isZero(held) else {
        throw .notMerged(model: model.path, adapter: adapter.directory, weight: weight, merged: record.merged)
      }
      if let config = record.steps.last(where: { $0.adapter == digest })?.config, try adapter.configDigest() != config {
        throw .configChanged(model: model.path, path: adapter.configPath)
      }
    }
    let first = record.steps.first { asked[$0.adapter] != nil }?.pass ?? 0
    let lastPass = record.steps.last?.pass ?? 0
    let last = record.steps.filter { $0.pass == lastPass }
    let lastWeights = Dictionary(last.map { ($0.adapter, $0.weight) }, uniquingKeysWith: +)
    let isLast =
      Set(lastWeights.keys) == Set(asked.keys)
      && lastWeights.allSatisfy { Provenance.isZero($0.value - (asked[$0.key] ?? 0)) }
    let later = record.steps.filter { $0.pass > first }
    let isComplete = record.steps.allSatisfy { $0.pass < first || ($0.overwritten != nil && $0.config != nil) }
    let touched = record.steps.filter { asked[$0.adapter] != nil }
    let configKeys = Set((isLast ? last : touched).flatMap(\.configKeys)).sorted()
    let overwritten = Set(exactly: touched.flatMap { $0.overwritten ?? [] })
    guard isLast else {
      let passes = Set(record.steps.map(\.pass)).filter { $0 >= first }.count
      let remaining = record.merged.filter { asked[$0.adapter] == nil }
      self.init(
        .amongOthers(remaining: remaining, passes: passes), adapters, weights.map { -$0 }, later: later,
        overwritten: overwritten, configKeys: configKeys)
      return
    }
    // The same terms in the same order give the same sum, to the bit.
    let byDigest = Dictionary(zip(digests, adapters), uniquingKeysWith: { first, _ in first })
    self.init(
      isComplete ? .lastMerge(copies: []) : .incompleteRecord, last.compactMap { byDigest[$0.adapter] },
      last.map { -$0.weight },
      later: [], overwritten: overwritten, configKeys: configKeys)
  }

  private init(
    _ restoration: Restoration, _ adapters: [Adapter], _ weights: [Double], later: [Provenance.Step],
    overwritten: Set<ExactName>, configKeys: [String]
  ) {
    knowledge = restoration
    self.adapters = adapters
    self.weights = weights
    self.later = later
    self.overwritten = overwritten
    self.configKeys = configKeys
  }

  /// Throws `.overwritten` if a later merge did not only add to one of these tensors.
  func checkNothingIsLost(_ changed: Set<ExactName>, in model: BaseModel) throws(AdapterError) {
    for step in later {
      if let name = (step.overwritten ?? []).first(where: { changed.contains($0) }) {
        throw .overwritten(
          model: model.path, adapter: adapters[0].directory, tensor: name, by: step.name)
      }
    }
  }

  /// What is known of the result.
  /// - Parameter unused: tensors of which the adapters hold copies of their own.
  func restoration(unused: [String]) -> Restoration {
    if case .lastMerge = knowledge { return .lastMerge(copies: copies(unused)) }
    return knowledge
  }

  private func copies(_ unused: [String]) -> [String] { unused.filter { overwritten.contains($0) }.inExactOrder() }

  /// What is said beside the result.
  func notes(unused: [String]) -> [String] {
    var notes: [String] = []
    switch knowledge {
    case .lastMerge: break
    case .amongOthers(let remaining, let passes):
      let names = remaining.map { "\($0.name) with weight \($0.weight)" }.joined(separator: ", ")
      notes.append(
        (remaining.isEmpty ? "no other merge remains" : "what remains is the merge of \(names)")
          + ", but for the roundings of \(passes) merge\(passes == 1 ? "" : "s") and of this")
    case .incompleteRecord:
      notes.append(
        "the record is of an earlier release, which did not note the adapter's configuration: if rank, alpha or patterns "
          + "have changed since, the result is wrong")
    case .unrecorded:
      notes.append(
        "the model has no record of merges: whether the adapter was merged into it, and with what weight, cannot be "
          + "known. Its change was subtracted; nothing is promised of the result")
    }
    let copies = copies(unused)
    if !copies.isEmpty {
      notes.append(
        "the merge took the adapter's own copy, which was not the base's, for "
          + "\(copies.map { "'\($0)'" }.joined(separator: ", ")): that copy is what is restored, with its number of rows"
      )
    }
    if !configKeys.isEmpty {
      notes.append(
        "what the merge changed in config.json stays (\(configKeys.joined(separator: ", "))), and so do the tensors that "
          + "it belongs to")
    }
    return notes
  }
}
