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
  }

  public let steps: [Step]

  /// The metadata's key.
  public static let key = "peft_tool_merges"
  /// The version of this package.
  public static let version = "0.3.0"

  /// What a checkpoint says of itself; nothing if it has no such metadata.
  public init(of checkpoint: Checkpoint) {
    let text = checkpoint.shards.lazy.compactMap { shard in
      shard.metadata.first { $0.key == Self.key }?.value.stringValue
    }.first
    steps = (text.flatMap { JSONValue(parsing: $0) }?.elements ?? []).compactMap { json in
      guard let adapter = json["adapter_sha256"]?.stringValue, let base = json["base_fingerprint"]?.stringValue else {
        return nil
      }
      let weight = json["weight"].flatMap { PythonNumber(json: $0) }?.doubleValue ?? 1
      return Step(
        adapter: adapter, name: json["adapter"]?.stringValue ?? "", weight: weight, base: base,
        version: json["version"]?.stringValue ?? "")
    }
  }

  init(steps: [Step]) { self.steps = steps }

  /// The sum of the weights with which an adapter was merged.
  func weight(of adapter: String) -> Double { steps.reduce(0) { $0 + ($1.adapter == adapter ? $1.weight : 0) } }

  /// The metadata's value.
  var text: String {
    JSONValue.array(
      steps.map { step in
        .object([
          .init("adapter", .string(step.name)), .init("adapter_sha256", .string(step.adapter)),
          .init("weight", .number(step.weight)), .init("base_fingerprint", .string(step.base)),
          .init("version", .string(step.version)),
        ])
      }
    ).compactText
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
