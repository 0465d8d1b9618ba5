internal import TensorFiles

/// What the cache holds of a repository at a revision.
enum HubSnapshot {
  case absent
  /// Some files are there, but not these.
  case incomplete(directory: String, missing: [String])
  /// Weights and configuration are there; the list of the commit's files names more. Transformers leaves a snapshot so: it
  /// fetches what it needs, and the list speaks of everything.
  case usable(directory: String)
  case whole(directory: String)

  /// Looks a revision up as huggingface_hub does: a commit under `snapshots`, anything else by its name under `refs`.
  init(_ repository: Repository, folder: String) {
    var commit = repository.revision
    if !HubListing.isCommit(commit) {
      let text = (try? FileSystem.text("\(folder)/refs/\(commit)")) ?? ""
      commit = text.split(whereSeparator: \.isWhitespace).first.map(String.init) ?? ""
    }
    let directory = "\(folder)/snapshots/\(commit)" + (repository.folder.isEmpty ? "" : "/\(repository.folder)")
    guard HubListing.isCommit(commit), FileSystem.kind(directory) == .directory,
      let names = try? FileSystem.names(in: directory)
    else {
      self = .absent
      return
    }
    // A link whose blob is gone is a file that is not there, and so is one of another size.
    let listing = HubListing(cached: "\(folder)/trees/\(commit).json", commit: commit, prefix: repository.prefix)
    let sizes = Dictionary(
      (listing?.files ?? []).compactMap { file in file.described.map { (file.name, $0.byteCount) } }
    ) { first, _ in first }
    let present = Set(
      names.filter { name in
        guard let count = try? OpenFile.open(reading: "\(directory)/\(name)").byteCount() else { return false }
        return sizes[name].map { $0 == count } ?? true
      })
    let listed = Set(listing?.files.map(\.name) ?? [])
    let missing = Self.missing(present, directory).union(Self.missing(present, listed))
    if !missing.isEmpty {
      self = .incomplete(directory: directory, missing: missing.sorted())
    } else if listed.isSubset(of: present) {
      self = .whole(directory: directory)
    } else {
      self = .usable(directory: directory)
    }
  }

  /// Configurations and the names of weights that are looked for, of those that the list speaks of.
  private static func missing(_ present: Set<String>, _ listed: Set<String>) -> Set<String> {
    var missing = listed.intersection(["config.json", PeftConfig.fileName, Adapter.weightsName]).subtracting(present)
    let forms = listed.intersection([Checkpoint.singleName, Checkpoint.indexName])
    if forms.isDisjoint(with: present) { missing.formUnion(forms) }
    return missing
  }

  /// By what the files that are there say themselves: a configuration, weights, and all shards that an index or a shard's own
  /// name speaks of. A download by this library makes the last weights appear after everything else.
  private static func missing(_ present: Set<String>, _ directory: String) -> Set<String> {
    var needed: Set<String> = []
    if !present.contains("config.json") && !present.contains(PeftConfig.fileName) { needed.insert("config.json") }
    let hasSafetensors = present.contains { $0.hasSuffix(".safetensors") }
    let weights = present.filter { hasSafetensors ? $0.hasSuffix(".safetensors") : $0.hasSuffix(".bin") }
    let indexes = present.filter {
      $0.hasSuffix(".safetensors.index.json") || (!hasSafetensors && $0.hasSuffix(".bin.index.json"))
    }
    for index in indexes {
      guard let shards = (try? ShardIndex(path: "\(directory)/\(index)"))?.tensorsByShard else { continue }
      needed.formUnion(shards.map(\.shard))
    }
    for name in weights { needed.formUnion(companions(of: name)) }
    if weights.isEmpty && indexes.isEmpty { needed.insert(Checkpoint.singleName) }
    return needed.subtracting(present)
  }

  /// The other shards and the index of `model-00001-of-00003.safetensors`; nothing for a name that is no shard's.
  private static func companions(of name: String) -> [String] {
    guard let match = name.wholeMatch(of: /(.+)-(\d{5})-of-(\d{5})(\.[a-z]+)/), let count = Int(match.3) else {
      return []
    }
    let shards = (1...max(1, count)).map { index in
      let digits = String(index)
      return "\(match.1)-\(String(repeating: "0", count: 5 - digits.count))\(digits)-of-\(match.3)\(match.4)"
    }
    return shards + ["\(match.1)\(match.4).index.json"]
  }
}
