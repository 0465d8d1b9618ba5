internal import Synchronization
internal import TensorFiles

/// What a `model_type` of transformers implies for the names in its checkpoints.
///
/// Source: transformers 5.23: each model's `base_model_prefix`, `_tied_weights_keys`, `get_output_embeddings` and the
/// default of `tie_word_embeddings`, read from running models.
public struct ModelFamily: Sendable {
  /// The attribute that holds the base model in a model with a head; nil where there is none to add or strip.
  let prefix: String?
  /// `tie_word_embeddings` where config.json does not say.
  let tiedByDefault: Bool
  /// The output embedding, which `all-linear` leaves out.
  let head: String?
  /// The input embedding, by its path in the model with a head.
  let embedding: String?
  /// True if `tie_word_embeddings` ties more than head and embedding, so that it must stay set.
  let tiesMore: Bool
  /// Weights stored `[in, out]`, by last name.
  var transposed: Set<String> = []
  /// Names in the checkpoint that differ from those in the model: model's name to file's name.
  var fileNames: [String: String] = [:]
  /// How the names of the file's tensors become those of the model's.
  var renaming = Renaming.none

  /// - Parameters:
  ///   - prefix: the attribute that holds the base model in a model with a head, such as `model`; nil where there is none.
  ///   - embedding: the input embedding's path in the model with a head.
  ///   - head: the output embedding's path; nil for a model without.
  ///   - isTied: `tie_word_embeddings` where config.json does not say.
  ///   - transposed: last names of weights stored `[in, out]`.
  public init(
    prefix: String?, embedding: String?, head: String? = "lm_head", isTied: Bool = false, transposed: Set<String> = []
  ) {
    self.init(prefix, tied: isTied, head: head, embedding: embedding, transposed: transposed)
  }

  private init(
    _ prefix: String?, tied: Bool, tiesMore: Bool = false, head: String? = "lm_head", embedding: String? = nil,
    transposed: Set<String> = [], fileNames: [String: String] = [:], renaming: Renaming = .none
  ) {
    self.prefix = prefix
    tiedByDefault = tied
    self.tiesMore = tiesMore
    self.head = head
    self.embedding = embedding
    self.transposed = transposed
    self.fileNames = fileNames
    self.renaming = renaming
  }

  private static func decoder(tied: Bool = false) -> ModelFamily {
    ModelFamily("model", tied: tied, embedding: "model.embed_tokens")
  }

  private static func transformer(
    _ embedding: String, tied: Bool, transposed: Set<String> = []
  ) -> ModelFamily {
    ModelFamily("transformer", tied: tied, embedding: "transformer.\(embedding)", transposed: transposed)
  }

  private static func encoderDecoder() -> ModelFamily {
    ModelFamily("model", tied: true, tiesMore: true, embedding: "model.shared")
  }

  private static func encoder(_ prefix: String, head: String = "cls.predictions.decoder") -> ModelFamily {
    ModelFamily(prefix, tied: true, tiesMore: true, head: head, embedding: "\(prefix).embeddings.word_embeddings")
  }

  private static func vision(_ prefix: String?, _ renaming: Renaming = .none) -> ModelFamily {
    ModelFamily(prefix, tied: false, head: nil, renaming: renaming)
  }

  private static func visionLanguage(tied: Bool = false, _ renaming: Renaming) -> ModelFamily {
    ModelFamily("model", tied: tied, embedding: "model.language_model.embed_tokens", renaming: renaming)
  }

  private static let conv1D: Set<String> = ["c_attn", "c_proj", "c_fc", "q_attn"]

  private static let table: [(types: String, family: ModelFamily)] = [
    (
      """
      llama mistral qwen2 qwen2_moe qwen3 qwen3_moe phi phi3 stablelm olmo olmo2 olmo3 olmoe granite deepseek_v2 \
      deepseek_v3 glm glm4 glm4_moe ernie4_5 ernie4_5_moe jamba gpt_oss persimmon
      """, decoder()
    ),
    (
      "mixtral minimax phimoe",
      ModelFamily("model", tied: false, embedding: "model.embed_tokens", renaming: .sparseBlock)
    ),
    ("granitemoe", ModelFamily("model", tied: false, embedding: "model.embed_tokens", renaming: .graniteExperts)),
    ("gemma gemma2 gemma3_text starcoder2 cohere cohere2 smollm3 xglm", decoder(tied: true)),
    ("llama4_text", ModelFamily(nil, tied: false, embedding: "model.embed_tokens")),
    ("opt", ModelFamily("model", tied: true, embedding: "model.decoder.embed_tokens")),
    ("gpt2", transformer("wte", tied: true, transposed: conv1D)),
    ("openai-gpt", transformer("tokens_embed", tied: true, transposed: conv1D)),
    ("imagegpt", transformer("wte", tied: false, transposed: conv1D)),
    ("decision_transformer", ModelFamily(nil, tied: false, head: nil, transposed: conv1D)),
    ("gpt_neo gpt_bigcode mpt", transformer("wte", tied: true)),
    ("gptj codegen", transformer("wte", tied: false)),
    ("bloom falcon", transformer("word_embeddings", tied: true)),
    ("ctrl", transformer("w", tied: true)),
    (
      "gpt_neox",
      ModelFamily("gpt_neox", tied: false, embedding: "gpt_neox.embed_in", fileNames: ["lm_head": "embed_out"])
    ),
    ("biogpt", ModelFamily("biogpt", tied: true, head: "output_projection", embedding: "biogpt.embed_tokens")),
    ("mamba", ModelFamily("backbone", tied: true, embedding: "backbone.embeddings")),
    ("mamba2", ModelFamily("backbone", tied: false, embedding: "backbone.embeddings")),
    ("t5 mt5 umt5", ModelFamily(nil, tied: true, tiesMore: true, embedding: "shared")),
    ("bart mbart pegasus marian m2m_100 blenderbot", encoderDecoder()),
    ("whisper", ModelFamily("model", tied: true, head: "proj_out", embedding: "model.decoder.embed_tokens")),
    ("bert", encoder("bert")),
    ("roberta xlm-roberta camembert", encoder("roberta", head: "lm_head.decoder")),
    ("distilbert", encoder("distilbert", head: "vocab_projector")),
    ("albert", encoder("albert", head: "predictions.decoder")),
    ("electra", encoder("electra", head: "generator_lm_head")),
    ("convbert", encoder("convbert", head: "generator_lm_head")),
    ("deberta deberta-v2", encoder("deberta")),
    ("mpnet", encoder("mpnet", head: "lm_head.decoder")),
    ("nomic_bert", encoder("nomic_bert")),
    ("modernbert", ModelFamily("model", tied: true, head: "decoder", embedding: "model.embeddings.tok_embeddings")),
    ("vit", vision("vit", .visionTransformer)), ("deit", vision("deit", .visionTransformer)),
    ("vivit", vision("vivit", .visionTransformer)), ("vit_msn", vision("vit", .visionTransformer)),
    ("dinov2", vision("dinov2", .dino)), ("dinov2_with_registers", vision("dinov2_with_registers", .dino)),
    ("beit", vision("beit", .visionTransformer)), ("swin", vision("swin", .swin)), ("resnet", vision("resnet")),
    ("wav2vec2", vision("wav2vec2")),
    ("clip siglip", vision(nil)),
    (
      """
      llava llava_next llava_next_video llava_onevision vipllava aria
      """, visionLanguage(.languageModelInside)
    ),
    (
      "gemma3 paligemma aya_vision got_ocr2 internvl mistral3", visionLanguage(tied: true, .languageModelInside)
    ),
    ("mllama", visionLanguage(.languageModelInside)),
    ("qwen2_vl qwen2_5_vl", visionLanguage(.languageModelOutside)),
    ("qwen3_vl qwen3_vl_moe", visionLanguage(.none)),
  ]

  /// The family of a `model_type`; nil if it is not in the table.
  static func named(_ modelType: String) -> ModelFamily? {
    registered.withLock { $0[ExactName(modelType)] }
      ?? table.first { $0.types.split(separator: " ").contains(Substring(modelType)) }?.family
  }

  private static let registered = Mutex<[ExactName: ModelFamily]>([:])

  /// Says what one more `model_type` implies for names in checkpoints, or what a known one implies otherwise than before.
  public static func register(_ family: ModelFamily, for modelType: String) {
    registered.withLock { $0[ExactName(modelType)] = family }
  }

  /// Last names of embeddings, whose weights have two dimensions as a linear layer's do.
  static let embeddingNames: Set<String> = [
    "embed_tokens", "wte", "wpe", "tokens_embed", "positions_embed", "embed_positions", "embed_in", "word_embeddings",
    "position_embeddings", "token_type_embeddings", "rel_embeddings", "relative_attention_bias", "shared",
    "tok_embeddings", "token_embedding", "position_embedding", "pos_embed", "embeddings", "embed_timestep",
  ]

  /// True if a path's last name is an embedding's.
  static func namesEmbedding(_ path: String) -> Bool {
    embeddingNames.contains(path.split(separator: ".").last.map(String.init) ?? "")
  }

  /// Path parts that only wrap a model: they may differ between the model that an adapter was trained on and the file.
  static let wrapperNames: Set<String> = [
    "model", "transformer", "language_model", "text_model", "base_model", "backbone", "gpt_neox", "bert", "roberta",
    "distilbert", "albert", "electra", "convbert", "deberta", "mpnet", "nomic_bert", "vit", "deit", "dinov2", "beit",
    "swin", "resnet", "wav2vec2", "vivit", "dinov2_with_registers",
  ]
}
