internal import TensorFiles

/// What a run depends on besides its settings: enough to tell it from another one.
public struct RunIdentity: Sendable, Equatable {
  /// `BaseModel.fingerprint`.
  let base: String
  /// SHA-256 over all records.
  let data: String
  /// SHA-256 of adapter_config.json's text.
  let adapter: String
  let paddingSide: String

  init(base: String, records: [TrainingRecord], config: String, padsLeft: Bool) {
    self.base = base
    var hash = SHA256()
    for record in records {
      hash.add(record.tokens.span.bytes)
      hash.add(record.labels.span.bytes)
      hash.add(record.lengths.span.bytes)
    }
    data = hash.finish()
    hash.add(config)
    adapter = hash.finish()
    paddingSide = padsLeft ? "left" : "right"
  }

  var json: JSONValue { .object(parts.map { .init($0.key, .string($0.value)) }) }

  private var parts: [(key: String, name: String, value: String)] {
    [
      ("base", "the base model's fingerprint", base), ("data", "the records' SHA-256", data),
      ("adapter_config", "the SHA-256 of the adapter's configuration", adapter),
      ("padding_side", "the padding side", paddingSide),
    ]
  }

  /// The first key whose values differ in two documents of documents.
  static func firstDifference(_ first: JSONValue?, _ other: JSONValue?) -> String {
    for part in first?.members ?? [] {
      for member in part.value.members ?? [] where other?[part.key]?[member.key] != member.value { return member.key }
    }
    return "its settings"
  }

  /// The first part that is another one in `json`.
  func difference(to json: JSONValue) -> (name: String, found: String, expected: String)? {
    for part in parts where json[part.key] != .string(part.value) {
      return (part.name, part.value, json[part.key]?.stringValue ?? "not recorded")
    }
    return nil
  }
}
