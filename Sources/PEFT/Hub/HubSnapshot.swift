internal import TensorFiles

/// What the cache holds of a repository at a revision.
enum HubSnapshot {
  case absent
  /// Some files are there, but not these.
  case incomplete(directory: String, missing: [String])
  case whole(directory: String)

  /// Looks a revision up as huggingface_hub does: a commit under `snapshots`, anything else by its name under `refs`.
  init(_ repository: Repository, folder: String) {
    var commit = repository.revision
    if !HubListing.isCommit(commit) {
      let text = (try? FileSystem.text("\(folder)/refs/\(commit)")) ?? ""
      commit = text.split(whereSeparator: \.isWhitespace).first.map(String.init) ?? ""
    }
    let directory = "\(folder)/snapshots/\(commit)"
    guard HubListing.isCommit(commit), FileSystem.kind(directory) == .directory,
      let names = try? FileSystem.names(in: directory)
    else {
      self = .absent
      return
    }
    // A link whose blob is gone is a file that is not there.
    let present = Set(names.filter { FileSystem.kind("\(directory)/\($0)") == .file })
    let missing =
      HubListing(cached: "\(folder)/trees/\(commit).json", commit: commit).map { Self.missing($0, directory) }
      ?? Self.missing(present, directory)
    self = missing.isEmpty ? .whole(directory: directory) : .incomplete(directory: directory, missing: missing.sorted())
  }

  /// By the list of files that huggingface_hub keeps of what it downloads. A model's description may be missing: it changes
  /// nothing.
  private static func missing(_ listing: HubListing, _ directory: String) -> [String] {
    listing.files.filter { name, described in
      guard !name.hasSuffix(".md") else { return false }
      guard let file = try? File.open(reading: "\(directory)/\(name)"), let count = try? file.byteCount() else {
        return true
      }
      return described.map { $0.byteCount != count } ?? false
    }.map(\.name)
  }

  /// By what the files that are there say themselves: a configuration, weights, and all shards that an index or a shard's own
  /// name speaks of. A download by this library makes the last weights appear after everything else.
  private static func missing(_ present: Set<String>, _ directory: String) -> [String] {
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
    return Array(needed.subtracting(present))
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
