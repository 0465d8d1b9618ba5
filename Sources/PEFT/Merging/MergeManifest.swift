internal import TensorFiles

/// What a merge is made of, so that its parts can be told from those of another merge. Paths are not in it: programs on
/// several machines may know the same files by other names.
struct MergeManifest {
  let json: JSONValue
  /// How many parts there are.
  let count: Int

  private static let format = 1
  private static let keys = [
    ("format", "the form of the directory"), ("version", "the version of peft-tool"), ("parts", "the number of parts"),
    ("base_fingerprint", "the base's fingerprint"), ("adapters", "what is merged"), ("options", "the set of options"),
    ("files", "the SHA-256 of the files to be written"),
  ]

  /// Reads the adapters once more, for their digests. Throws `.file`.
  init(_ plan: MergePlan, count: Int) throws(AdapterError) {
    self.count = count
    var adapters: [JSONValue] = []
    for (adapter, weight) in zip(plan.adapters, plan.weights) {
      let digest = try adapter.digest()
      let config = try adapter.configDigest()
      adapters.append(
        .object([
          .init("adapter_sha256", .string(digest)), .init("config_sha256", .string(config)),
          .init("weight", .number(weight)),
        ]))
    }
    let fingerprint = try plan.base.fingerprint()
    let files = try Self.files(plan)
    let options = plan.options
    let json = JSONValue.object([
      .init("format", .integer(Self.format)), .init("version", .string(Provenance.version)),
      .init("parts", .integer(count)), .init("base_fingerprint", .string(fingerprint)),
      .init("adapters", .array(adapters)),
      .init(
        "options",
        .object([
          .init("allow_missing", .bool(options.allowMissing)),
          .init("allow_untargeted", .bool(options.allowUntargeted)),
          .init("allow_repeated", .bool(options.allowRepeated)),
          .init("allow_non_finite", .bool(options.allowNonFinite)),
          .init("max_shard_bytes", options.maxShardBytes.map { .integer($0) } ?? .null),
          .init("ignored_config_keys", .array(options.ignoredConfigKeys.sorted().map { .string($0) })),
        ])),
      .init("files", .string(files)),
    ])
    // As it is when it has been written and read.
    self.json = JSONValue(parsing: json.compactText) ?? json
  }

  /// A manifest that stands in a file. Throws `.parts` with `.badManifest`, `.file`.
  init(path: String) throws(AdapterError) {
    let text = try asAdapterError { () throws(TensorFileError) in try FileSystem.text(path, limit: 16 << 20) }
    guard let json = JSONValue(parsing: text), let count = json["parts"]?.integerValue,
      MergePart(number: 1, of: count) != nil
    else { throw .parts(.badManifest(path: path)) }
    self.json = json
    self.count = count
  }

  var text: String { json.compactText + "\n" }

  /// Stands for all of it.
  var digest: String {
    var hash = SHA256()
    hash.add(text)
    return hash.finish()
  }

  /// The first thing in which another manifest differs: as it is here and as it is there.
  func difference(to other: MergeManifest) -> (what: String, found: String, expected: String)? {
    for (key, what) in Self.keys where json[key] != other.json[key] {
      return (what, json[key]?.compactText ?? "nothing", other.json[key]?.compactText ?? "nothing")
    }
    return nil
  }

  /// Over the names and headers of all files of tensors, config.json, and names and lengths of what is copied beside.
  private static func files(_ plan: MergePlan) throws(AdapterError) -> String {
    try asAdapterError { () throws(TensorFileError) in
      var hash = SHA256()
      for shard in plan.shards {
        hash.add("\(shard.name)\n")
        let layout = try shard.layout(at: shard.name)
        hash.add(layout.header.span.bytes)
      }
      hash.add(plan.editedConfig?.compactText ?? "")
      for item in plan.sideFiles.items {
        let file = try OpenFile.open(reading: item.source)
        let count = try file.byteCount()
        hash.add("\n\(item.name) \(count)")
      }
      return hash.finish()
    }
  }
}

extension MergePlan.Shard {
  /// Where everything stands in the file. Throws `.headerTooLargeToWrite`.
  func layout(at path: String) throws(TensorFileError) -> SafetensorsLayout {
    try SafetensorsLayout(path: path, items: outputs.map(\.item), metadata: metadata)
  }
}
