internal import TensorFiles

extension BaseModel {
  /// Types whose configuration takes `tie_word_embeddings` from `text_config` unless its own is true: their files once had it there.
  ///
  /// Source: transformers 5.23, `__post_init__` of each type's configuration.
  private static let forwardingTypes: Set<String> = [
    "llava", "llava_next_video", "llava_onevision", "qwen2_vl", "qwen2_5_vl",
  ]

  /// Types that are tied whatever their configuration says. Source: transformers 5.23, `T5Config.__post_init__` and its kin.
  private static let alwaysTiedTypes: Set<String> = ["t5", "mt5", "umt5"]

  /// Whether config.json asks for one weight of head and input embedding.
  static func asksForTie(_ config: JSONValue?, _ family: ModelFamily?) -> Bool {
    let type = config?["model_type"]?.stringValue ?? ""
    if alwaysTiedTypes.contains(type) { return true }
    let own = config?["tie_word_embeddings"]?.boolValue
    let nested = config?["text_config"]?["tie_word_embeddings"]?.boolValue
    if forwardingTypes.contains(type) { return own == true || nested ?? false }
    guard let family else { return own ?? nested ?? false }
    return own ?? family.tiedByDefault
  }

  /// Whether head and input embedding share their weight: config.json asks for it, and the checkpoint does not hold two that
  /// differ. One that it lacks is the other.
  ///
  /// Cost: reads both where it holds both, up to the first value that differs.
  /// Source: transformers 5.23, modeling_utils.py `tie_weights`.
  /// Throws `.system`, `.shortRead`.
  static func areTied(
    _ checkpoint: Checkpoint, names: [ExactName: String], config: JSONValue?, family: ModelFamily?
  ) throws(TensorFileError) -> Bool {
    guard asksForTie(config, family) else { return false }
    guard let head = family?.head, let embedding = family?.embedding,
      let one = names["\(head).weight"].flatMap({ checkpoint[$0] }),
      let other = names["\(embedding).weight"].flatMap({ checkpoint[$0] })
    else { return true }
    let (first, second) = (checkpoint.shards[one.shard].file, checkpoint.shards[other.shard].file)
    return try StoredTensor(file: first, entry: one.entry).holdsSameValues(
      as: StoredTensor(file: second, entry: other.entry))
  }

  /// The checkpoint's name of the weight that stands for `name` because the two are tied: the head's for an embedding that it does
  /// not hold, and the other way. Nil if there is none.
  package func tiedName(_ name: String) -> String? {
    guard isTied, let head = family?.head, let embedding = family?.embedding else { return nil }
    switch name {
    case "\(head).weight": return storedName("\(embedding).weight")
    case "\(embedding).weight": return storedName("\(head).weight")
    default: return nil
    }
  }
}

extension BaseModel {
  /// What a model is that is no causal language model.
  public enum OtherKind: Sendable, Equatable {
    /// The class that config.json names.
    case architecture(String)
    /// The checkpoint has another head's weight, and no language head.
    case head(tensor: String)
  }

  /// What a model is other than a causal language model; nil if it may be one.
  ///
  /// The class that `architectures` names decides; where it names none, a causal one, or the model below any head, which a tied
  /// embedding makes a language model, a classifier's head without a language head.
  package var otherThanCausal: OtherKind? {
    if let name = config?["architectures"]?.elements?.first?.stringValue,
      !name.contains("CausalLM") && !name.contains("LMHead"), name.contains("For") || !name.hasSuffix("Model")
    {
      return .architecture(name)
    }
    guard storedName("\(family?.head ?? "lm_head").weight") == nil else { return nil }
    let heads = ModelNames.heads.subtracting(["lm_head"])
    let found = checkpoint.names.filter { name in
      heads.contains { name.hasPrefix("\($0).") } && name.hasSuffix(".weight")
    }
    return found.min().map { .head(tensor: $0) }
  }
}
