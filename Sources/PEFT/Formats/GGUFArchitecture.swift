internal import TensorFiles

/// What llama.cpp calls the modules of one architecture.
///
/// Source: gguf/tensor_mapping.py `TensorNameMap`, gguf/constants.py `MODEL_TENSORS`; the classes of llama.cpp's conversion for
/// rows that are put into another order.
struct GGUFArchitecture: Sendable {
  /// How a conversion orders the rows of attention weights.
  enum RowOrder: Sendable {
    case same
    /// The two halves of each head of q and k interleaved.
    case interleavedHeads
    /// A fused projection as all queries, all keys, all values, not group by group.
    case ungrouped
  }

  /// `general.architecture`.
  let name: String
  let modelTypes: [String]
  /// PEFT's path of the blocks, with a dot.
  var blocks = "model.layers."
  /// What a block has: PEFT's path there, and llama.cpp's name after `blk.N.`; of several of one name the first is read back.
  let leaves: [(peft: String, gguf: String)]
  /// Modules outside of blocks.
  var others = [("model.embed_tokens", "token_embd"), ("lm_head", "output")]
  var order = RowOrder.same
  /// PEFT's path of the block of experts inside a block; nil where there are none.
  var experts: String?

  private static let attention = [
    ("self_attn.q_proj", "attn_q"), ("self_attn.k_proj", "attn_k"), ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
  ]
  private static let gated = [("mlp.gate_proj", "ffn_gate"), ("mlp.up_proj", "ffn_up"), ("mlp.down_proj", "ffn_down")]
  private static let tied = [("model.embed_tokens", "token_embd")]

  static let all: [GGUFArchitecture] = [
    GGUFArchitecture(
      name: "llama", modelTypes: ["llama", "mistral", "mixtral"],
      leaves: attention + gated + [("block_sparse_moe.gate", "ffn_gate_inp"), ("mlp.gate", "ffn_gate_inp")],
      order: .interleavedHeads, experts: "block_sparse_moe"),
    GGUFArchitecture(name: "qwen2", modelTypes: ["qwen2"], leaves: attention + gated),
    GGUFArchitecture(name: "qwen3", modelTypes: ["qwen3"], leaves: attention + gated),
    GGUFArchitecture(
      name: "qwen2moe", modelTypes: ["qwen2_moe"],
      leaves: attention + [
        ("mlp.gate", "ffn_gate_inp"), ("mlp.shared_expert.gate_proj", "ffn_gate_shexp"),
        ("mlp.shared_expert.up_proj", "ffn_up_shexp"), ("mlp.shared_expert.down_proj", "ffn_down_shexp"),
        ("mlp.shared_expert_gate", "ffn_gate_inp_shexp"),
      ], experts: "mlp"),
    GGUFArchitecture(
      name: "qwen3moe", modelTypes: ["qwen3_moe"], leaves: attention + [("mlp.gate", "ffn_gate_inp")], experts: "mlp"),
    GGUFArchitecture(name: "gemma", modelTypes: ["gemma"], leaves: attention + gated, others: tied),
    GGUFArchitecture(name: "gemma2", modelTypes: ["gemma2"], leaves: attention + gated, others: tied),
    GGUFArchitecture(name: "gemma3", modelTypes: ["gemma3_text", "gemma3"], leaves: attention + gated),
    GGUFArchitecture(
      name: "phi3", modelTypes: ["phi3"],
      leaves: [
        ("self_attn.qkv_proj", "attn_qkv"), ("self_attn.o_proj", "attn_output"), ("mlp.gate_up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
      ]),
    GGUFArchitecture(
      name: "gpt2", modelTypes: ["gpt2"], blocks: "transformer.h.",
      leaves: [
        ("attn.c_attn", "attn_qkv"), ("attn.c_proj", "attn_output"), ("mlp.c_fc", "ffn_up"), ("mlp.c_proj", "ffn_down"),
      ], others: [("transformer.wte", "token_embd"), ("transformer.wpe", "position_embd"), ("lm_head", "output")]),
    GGUFArchitecture(
      name: "falcon", modelTypes: ["falcon"], blocks: "transformer.h.",
      leaves: [
        ("self_attention.query_key_value", "attn_qkv"), ("self_attention.dense", "attn_output"),
        ("mlp.dense_h_to_4h", "ffn_up"), ("mlp.dense_4h_to_h", "ffn_down"),
      ], others: [("transformer.word_embeddings", "token_embd"), ("lm_head", "output")], order: .ungrouped),
  ]

  /// What may stand in the place of `model.` where a language model lies in another.
  private static let otherBlocks = ["model.language_model.", "language_model.model."]

  /// llama.cpp's name of a module without `.weight`; of an expert that of its group. Nil if the architecture has no such module.
  func name(of path: String) -> String? {
    var path = path
    for prefix in Self.otherBlocks where blocks.hasPrefix("model.") && path.hasPrefix(prefix) {
      path = "model." + path.dropFirst(prefix.count)
    }
    if let other = others.first(where: { $0.0 == path }) { return other.1 }
    guard path.hasPrefix(blocks) else { return nil }
    let parts = path.dropFirst(blocks.count).split(separator: ".", maxSplits: 1)
    guard parts.count == 2, let layer = Int(parts[0]), layer >= 0 else { return nil }
    let rest = String(parts[1])
    if let leaf = leaves.first(where: { $0.peft == rest }) { return "blk.\(layer).\(leaf.gguf)" }
    guard let experts, let expert = ExpertNames(peft: rest), [experts, "mlp"].contains(expert.blockPath) else {
      return nil
    }
    return "blk.\(layer).ffn_\(expert.projection.prefix { $0 != "_" })_exps"
  }

  /// PEFT's path of a module, or the group of experts that it is. Nil if the architecture has no such module.
  func module(_ name: String, in base: BaseFacts?) -> Named? {
    let isInside = base?.config["text_config"]?.members != nil && blocks.hasPrefix("model.")
    func inside(_ path: String) -> String {
      isInside && path.hasPrefix("model.") ? "model.language_model." + path.dropFirst("model.".count) : path
    }
    if let other = others.first(where: { $0.1 == name }) { return .module(inside(other.0)) }
    let parts = name.split(separator: ".", maxSplits: 2)
    guard parts.count == 3, parts[0] == "blk", let layer = Int(parts[1]), layer >= 0, layer < 1 << 20 else {
      return nil
    }
    let rest = String(parts[2])
    if let leaf = leaves.first(where: { $0.gguf == rest }) { return .module(inside("\(blocks)\(layer).\(leaf.peft)")) }
    guard let experts,
      let projection = ExpertNames.projections.first(where: { rest == "ffn_\($0.prefix { $0 != "_" })_exps" })
    else { return nil }
    return .experts(ExpertNames(block: inside("\(blocks)\(layer).\(experts)."), projection: projection))
  }

  /// What a name stands for.
  enum Named {
    case module(String)
    case experts(ExpertNames)
  }

  // MARK: The order of rows

  /// For each row of llama.cpp's weight the row of transformers' that it is; nil if all are in the same order.
  ///
  /// - Parameter name: as `name(of:)` gives it.
  /// Throws `.foreignContent` if the rows are no whole heads.
  func rowOrder(_ name: String, rows: Int, heads: HeadCounts?, path: String) throws(AdapterError) -> [Int]? {
    let leaf = name.split(separator: ".").last.map(String.init) ?? name
    switch (order, leaf) {
    case (.interleavedHeads, "attn_q"), (.interleavedHeads, "attn_k"):
      guard let heads else { throw Self.headsMissing(name, path) }
      let count = leaf == "attn_q" ? heads.query : heads.keyValue
      guard rows % (2 * count) == 0 else {
        throw .foreignContent(
          path: path, reason: "'\(name)' has \(rows) rows, which are no \(count) heads of even size")
      }
      let size = rows / count
      return (0..<rows).map { row in
        let (head, place) = (row / size, row % size)
        return head * size + place % 2 * (size / 2) + place / 2
      }
    case (.ungrouped, "attn_qkv"):
      guard let heads else { throw Self.headsMissing(name, path) }
      let group = heads.query / heads.keyValue + 2
      guard heads.query % heads.keyValue == 0, rows % (group * heads.keyValue) == 0 else {
        throw .foreignContent(
          path: path,
          reason: "'\(name)' has \(rows) rows, which are no \(heads.query) heads of \(heads.keyValue) groups")
      }
      let size = rows / (group * heads.keyValue)
      var order: [Int] = []
      for places in [0..<group - 2, group - 2..<group - 1, group - 1..<group] {
        for head in 0..<heads.keyValue {
          for place in places { order += (head * group + place) * size..<(head * group + place + 1) * size }
        }
      }
      return order
    default: return nil
    }
  }

  private static func headsMissing(_ name: String, _ path: String) -> AdapterError {
    .foreignContent(
      path: path,
      reason:
        "the rows of '\(name)' are ordered by heads, and how many there are is not known; give the base model too")
  }
}

/// How many heads attention has.
struct HeadCounts: Sendable, Equatable {
  let query: Int
  let keyValue: Int

  init?(_ query: Int?, _ keyValue: Int?) {
    guard let query, let keyValue, query > 0, keyValue > 0, query <= 1 << 16, keyValue <= query else { return nil }
    (self.query, self.keyValue) = (query, keyValue)
  }

  /// Falcon without its newer blocks has one group of keys, or as many as heads, whatever it says of their number.
  init?(_ base: BaseFacts) {
    var keyValue = base.keyValueHeads
    if base.modelType == "falcon", !base.flag("new_decoder_architecture") {
      keyValue = base.config["multi_query"] == .bool(false) ? base.heads : 1
    }
    self.init(base.heads, keyValue)
  }
}
