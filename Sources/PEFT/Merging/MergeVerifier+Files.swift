internal import TensorFiles

/// What differs beside the tensors between a model and what the merge would write.
public struct FileDifference: Sendable, Equatable {
  /// What it is about.
  public enum Subject: String, Sendable {
    /// A key of config.json, or the whole file.
    case config
    /// A key of the metadata in a header.
    case metadata
    /// The record of merges in the metadata.
    case record
    /// How tensors are divided into files, ordered in them, or named.
    case header
  }

  public let subject: Subject
  /// The file, without the path to it.
  public let file: String
  /// The facts: found against expected.
  public let message: String
  /// True if the model is not what the merge makes; false for what changes no number.
  public let decides: Bool
}

extension MergeVerifier {
  /// Differences of headers, metadata and config.json, in that order.
  ///
  /// With `Rounding.peft`, what PEFT and transformers write anew when they save a model decides nothing: keys that only one
  /// config.json has, metadata that is just a format, and a tie that PEFT's merge keeps.
  /// - Parameter directory: where the model's config.json should be; nil where a single file is compared.
  /// Throws `.file`.
  public func fileDifferences(directory: String?) throws(AdapterError) -> [FileDifference] {
    try ties() + headers() + metadata() + records()
      + (directory.map { path throws(AdapterError) in try config(path) } ?? [])
  }

  private func ties() -> [FileDifference] {
    sharedTensors().filter(\.isChanged).map { shared in
      FileDifference(
        subject: .header, file: model.shards.first.map { FileSystem.lastComponent($0.path) } ?? "",
        message: "'\(shared.held)' is tied to '\(shared.absent)' and holds the changes of both, as PEFT's merge leaves "
          + "it; the adapter changes each for itself",
        decides: false)
    }
  }

  private func headers() -> [FileDifference] {
    var differences: [FileDifference] = []
    let files = model.shards.map { FileSystem.lastComponent($0.path) }
    if files != plan.shardNames {
      differences.append(
        FileDifference(
          subject: .header, file: files.first ?? "",
          message: "the tensors are in \(list(files)); the merge writes \(list(plan.shardNames))", decides: false))
    }
    for shard in plan.shards {
      guard let file = model.shards.first(where: { FileSystem.lastComponent($0.path) == shard.name }) else { continue }
      let (found, expected) = (file.entries.map(\.name), shard.outputs.map(\.item.name))
      guard found != expected else { continue }
      let isOrder = Set(found) == Set(expected)
      // Tensors that are missing or unexpected are findings of their own.
      let renamed = expected.contains { model[$0] == nil && nameInModel($0) != nil }
      guard isOrder || renamed else { continue }
      differences.append(
        FileDifference(
          subject: .header, file: shard.name,
          message: isOrder
            ? "the tensors stand in another order" : "the tensors' names begin otherwise than the base's",
          decides: false))
    }
    return differences
  }

  private func metadata() -> [FileDifference] {
    var differences: [FileDifference] = []
    for file in model.shards where !file.path.hasSuffix(".bin") {
      let name = FileSystem.lastComponent(file.path)
      guard let shard = plan.shards.first(where: { $0.name == name }) ?? plan.shards.first else { continue }
      var expected = Self.texts(shard.metadata)
      expected["format"] = expected["format"] ?? "pt"
      let found = Self.texts(file.metadata)
      let isPlain = rounding == .peft && found == ["format": "pt"]
      for key in Set(expected.keys).union(found.keys).sorted() where expected[key] != found[key] {
        differences.append(
          FileDifference(
            subject: .metadata, file: name,
            message: "'\(key)' is \(Self.quoted(found[key])); the merge writes \(Self.quoted(expected[key]))",
            decides: !isPlain))
      }
    }
    return differences
  }

  private func records() -> [FileDifference] {
    let file = model.shards.first.map { FileSystem.lastComponent($0.path) } ?? ""
    let expected = Provenance(
      text: plan.shards.first?.metadata.first { $0.key == Provenance.key }?.value.stringValue)
    let found = Provenance(of: model)
    guard found.isKnown else {
      let isDamaged = model.shards.contains { $0.metadata.contains { $0.key == Provenance.key } }
      return [
        FileDifference(
          subject: .record, file: file,
          message: isDamaged ? "the record of merges is damaged, or not the same in all files" : "no record of merges",
          decides: isDamaged)
      ]
    }
    guard found.merged.map(Self.identity).sorted() != expected.merged.map(Self.identity).sorted() else { return [] }
    func text(_ record: Provenance) -> String {
      record.merged.isEmpty
        ? "no adapter" : record.merged.map { "\($0.name) with weight \($0.weight)" }.joined(separator: ", ")
    }
    return [
      FileDifference(
        subject: .record, file: file,
        message: "the record of merges names \(text(found)), not these adapters: \(text(expected))", decides: true)
    ]
  }

  private static func identity(_ merged: Provenance.Merged) -> String {
    "\(merged.adapter) \((merged.weight * 1e9).rounded())"
  }

  private func config(_ directory: String) throws(AdapterError) -> [FileDifference] {
    let name = "config.json"
    guard let expected = plan.editedConfig ?? plan.base.config else { return [] }
    let path = FileSystem.join(directory, name)
    guard FileSystem.exists(path) else {
      return [FileDifference(subject: .config, file: name, message: "is missing", decides: true)]
    }
    let found = try asAdapterError { () throws(TensorFileError) in try JSONValue(contentsOf: path) }
    guard let members = found.members else {
      return [FileDifference(subject: .config, file: name, message: "is no JSON object", decides: true)]
    }
    let keys = Set((expected.members ?? []).map(\.key)).union(members.map(\.key)).sorted()
    let keepsTie = sharedTensors().contains(where: \.isChanged)
    return keys.filter { expected[$0] != found[$0] }.map { key in
      let isInert = isInert(key, expected[key], found[key], keepsTie: keepsTie)
      return FileDifference(
        subject: .config, file: name,
        message: "'\(key)' is \(Self.short(found[key])); the merge writes \(Self.short(expected[key]))",
        decides: !isInert)
    }
  }

  /// Whether a key that differs changes no number. With `Rounding.peft` an object is looked into: transformers fills in what
  /// it lacks, or has as null.
  private func isInert(_ key: String, _ expected: JSONValue?, _ found: JSONValue?, keepsTie: Bool) -> Bool {
    if Self.inertKeys.contains(key) { return true }
    guard rounding == .peft else { return false }
    guard let expected, let found, expected != .null, found != .null, key != "architectures" else { return true }
    // Transformers 5 goes by the tensors: it ties what is stored once, and leaves apart what is stored apart.
    if key == "tie_word_embeddings" { return keepsTie || found == .bool(false) }
    guard let members = expected.members, found.members != nil else { return false }
    return members.allSatisfy { member in
      member.value == found[member.key] || isInert(member.key, member.value, found[member.key], keepsTie: keepsTie)
    }
  }

  /// Keys of config.json that say where a model comes from.
  private static let inertKeys: Set<String> = ["transformers_version", "_name_or_path"]

  private static func texts(_ metadata: [JSONValue.Member]) -> [String: String] {
    Dictionary(
      metadata.filter { $0.key != Provenance.key }.map { ($0.key, $0.value.stringValue ?? $0.value.compactText) },
      uniquingKeysWith: { first, _ in first })
  }

  private static func quoted(_ text: String?) -> String { text.map { "'\($0)'" } ?? "not there" }

  private static func short(_ value: JSONValue?) -> String {
    guard let text = value?.compactText else { return "not there" }
    return text.count > 60 ? "\(text.prefix(60))…" : text
  }

  private func list(_ names: [String]) -> String {
    names.count == 1 ? "the file \(names[0])" : "\(names.count) files from \(names.first ?? "") on"
  }
}
