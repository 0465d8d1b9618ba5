public import TensorFiles

/// What a merged model says of its making, in the metadata of its files: which adapters went into which base.
public struct Provenance: Sendable, Equatable {
  /// One merge of one adapter.
  public struct Step: Sendable, Equatable {
    /// SHA-256 of adapter_model.safetensors.
    public let adapter: String
    /// The adapter's directory, without the path to it.
    public let name: String
    public let weight: Double
    /// `BaseModel.fingerprint` of the model that it was merged into.
    public let base: String
    /// The version of this package.
    public let version: String
    /// Which pass over the model it was, counted from one; adapters of one pass were added up and rounded once.
    public var pass: Int
    /// `Adapter.configDigest` of the adapter's configuration; nil in records of 0.3.0 and earlier.
    public var config: String?
    /// Tensors that the pass did not only add to; nil in records of 0.3.0 and earlier.
    public var overwritten: [String]?
    /// Keys of config.json that the pass changed.
    public var configKeys: [String] = []
  }

  /// What is left of an adapter in a model.
  public struct Merged: Sendable, Equatable {
    /// SHA-256 of adapter_model.safetensors.
    public let adapter: String
    public let name: String
    /// The sum of all weights with which it was merged and taken out.
    public let weight: Double
  }

  public let steps: [Step]
  /// False if there is no record, or none that can be read: then nothing follows from `steps`.
  public let isKnown: Bool

  /// The metadata's key.
  public static let key = "peft_tool_merges"
  /// The version of this package.
  public static let version = "0.3.0"

  /// What a checkpoint says of itself. A record that is damaged, or not the same in all files, counts as none.
  public init(of checkpoint: Checkpoint) {
    let texts = Set(
      checkpoint.shards.map { shard in shard.metadata.first { $0.key == Self.key }?.value.stringValue })
    self.init(text: texts.count == 1 ? texts.first.flatMap { $0 } : nil)
  }

  /// What the metadata's value says.
  init(text: String?) {
    let elements = text.flatMap { JSONValue(parsing: $0) }?.elements
    var steps: [Step] = []
    for json in elements ?? [] {
      guard let step = Step(json, after: steps.last) else { break }
      steps.append(step)
    }
    isKnown = elements != nil && steps.count == elements?.count
    self.steps = isKnown ? steps : []
  }

  init(steps: [Step]) {
    self.steps = steps
    isKnown = true
  }

  /// The sum of the weights with which an adapter was merged.
  func weight(of adapter: String) -> Double { steps.reduce(0) { $0 + ($1.adapter == adapter ? $1.weight : 0) } }

  /// Refuses to add an adapter of that digest to the model that the record is of, if it is there already.
  ///
  /// Throws `.alreadyMerged`.
  func requireAbsent(
    _ adapter: Adapter, digest: String, weight: Double, in model: BaseModel
  ) throws(AdapterError) {
    let held = self.weight(of: digest)
    guard held > 0, weight > 0 else { return }
    throw .alreadyMerged(base: model.path, adapter: adapter.directory, weight: held)
  }

  /// The adapters that are still in the model, in the order of their first merge.
  public var merged: [Merged] {
    var seen: Set<String> = []
    return steps.filter { seen.insert($0.adapter).inserted }.compactMap { step in
      let weight = weight(of: step.adapter)
      return Self.isZero(weight) ? nil : Merged(adapter: step.adapter, name: step.name, weight: weight)
    }
  }

  /// True for what a sum of decimal weights may leave of zero.
  static func isZero(_ weight: Double) -> Bool { abs(weight) < 1e-9 }

  /// The metadata's value.
  var text: String { JSONValue.array(steps.map(\.json)).compactText }
}

extension Provenance.Step {
  fileprivate init?(_ json: JSONValue, after last: Self?) {
    guard let adapter = json["adapter_sha256"]?.stringValue, let base = json["base_fingerprint"]?.stringValue,
      let weight = json["weight"].flatMap({ PythonNumber(json: $0) })?.doubleValue, weight.isFinite
    else { return nil }
    self.adapter = adapter
    name = json["adapter"]?.stringValue ?? ""
    self.weight = weight
    self.base = base
    version = json["version"]?.stringValue ?? ""
    // Records without the pass tell passes apart by the model that they began with.
    pass = json["pass"]?.integerValue ?? (last.map { $0.base == base ? $0.pass : $0.pass + 1 } ?? 1)
    config = json["config_sha256"]?.stringValue
    overwritten = json["overwritten"]?.elements?.compactMap(\.stringValue)
    configKeys = json["config_keys"]?.elements?.compactMap(\.stringValue) ?? []
  }

  fileprivate var json: JSONValue {
    var members: [JSONValue.Member] = [
      .init("adapter", .string(name)), .init("adapter_sha256", .string(adapter)), .init("weight", .number(weight)),
      .init("base_fingerprint", .string(base)), .init("version", .string(version)), .init("pass", .integer(pass)),
    ]
    if let config { members.append(.init("config_sha256", .string(config))) }
    if let overwritten { members.append(.init("overwritten", .array(overwritten.map { .string($0) }))) }
    if !configKeys.isEmpty { members.append(.init("config_keys", .array(configKeys.map { .string($0) }))) }
    return .object(members)
  }
}

extension Adapter {
  /// SHA-256 of the weights' file. Throws `.file`.
  func digest() throws(AdapterError) -> String {
    try asAdapterError { () throws(TensorFileError) in try SHA256.digest(of: file.file) }
  }

  /// SHA-256 of what the configuration says, but for where the adapter comes from and how it was trained. Throws `.file`.
  func configDigest() throws(AdapterError) -> String {
    let path = FileSystem.exists(configPath) ? configPath : FileSystem.join(directory, "config.json")
    var json =
      isInMemory ? config.json : try asAdapterError { () throws(TensorFileError) in try JSONValue(contentsOf: path) }
    for key in ["base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "lora_dropout"] {
      json[key] = nil
    }
    var hash = SHA256()
    hash.add(json.pythonText(sortedKeys: true))
    return hash.finish()
  }
}

extension BaseModel {
  /// SHA-256 over every tensor's name, dtype and shape and its first and last 64 bytes.
  ///
  /// Tells models apart without reading them whole, which would take longer than a merge; it is no proof that every byte is
  /// the same. Throws `.file`.
  public func fingerprint() throws(AdapterError) -> String {
    try asAdapterError { () throws(TensorFileError) in
      var hash = SHA256()
      for name in checkpoint.names {
        guard let location = checkpoint[name] else { continue }
        let (entry, file) = (location.entry, checkpoint.shards[location.shard].file)
        hash.add("\(name) \(entry.dtype.rawValue) \(entry.shape)\n")
        let range = entry.byteRange
        let first = try file.bytes(range.lowerBound..<min(range.lowerBound + 64, range.upperBound))
        hash.add(first.span.bytes)
        let last = try file.bytes(max(range.upperBound - 64, range.lowerBound)..<range.upperBound)
        hash.add(last.span.bytes)
      }
      return hash.finish()
    }
  }
}
