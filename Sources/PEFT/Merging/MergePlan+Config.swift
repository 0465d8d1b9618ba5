internal import TensorFiles

extension MergePlan {
  /// config.json as the output needs it: the head untied, the vocabulary's new size, other layers. Nil if the base's own
  /// serves.
  static func editedConfig(_ match: AdapterMatch, original: JSONValue?) -> JSONValue? {
    guard var config = match.base.config, config.members != nil else { return nil }
    if case .parted(_, inConfig: true) = match.tie { set("tie_word_embeddings", .bool(false), in: &config) }
    if let rows = match.vocabularySize { set("vocab_size", .integer(rows), in: &config) }
    return config == original ? nil : config
  }

  /// Sets a key at the top level, and in `text_config` where it stands there.
  private static func set(_ key: String, _ value: JSONValue, in config: inout JSONValue) {
    if var text = config["text_config"], text[key] != nil {
      text[key] = value
      config["text_config"] = text
      if config[key] == nil && key != "tie_word_embeddings" { return }
    }
    config[key] = value
  }
}
