internal import TensorFiles

/// What stands on the base model in a class of transformers: it decides which of a checkpoint's tensors the class takes.
enum ModelHead: Sendable, Hashable {
  case none, languageModel, sequenceClassifier, tokenClassifier, answerer, imageClassifier
  /// A class that takes what its own checkpoint holds.
  case other

  /// By a class's name, such as `LlamaForCausalLM`.
  init(className name: String) {
    let endings: [(String, ModelHead)] = [
      ("ForCausalLM", .languageModel), ("LMHeadModel", .languageModel), ("ForConditionalGeneration", .languageModel),
      ("ForMaskedLM", .languageModel), ("ForSequenceClassification", .sequenceClassifier),
      ("ForTokenClassification", .tokenClassifier), ("ForQuestionAnswering", .answerer),
      ("ForImageClassification", .imageClassifier), ("Model", .none),
    ]
    // T5's and CLIP's halves.
    let isHalf = ["EncoderModel", "DecoderModel", "TextModel", "VisionModel"].contains { name.hasSuffix($0) }
    self = isHalf ? .other : endings.first { name.hasSuffix($0.0) }?.1 ?? .other
  }

  /// By an adapter's `task_type`; nil where it names none.
  init?(taskType: String?) {
    switch taskType {
    case "CAUSAL_LM"?, "SEQ_2_SEQ_LM"?: self = .languageModel
    case "SEQ_CLS"?: self = .sequenceClassifier
    case "TOKEN_CLS"?: self = .tokenClassifier
    case "QUESTION_ANS"?: self = .answerer
    case "FEATURE_EXTRACTION"?: self = .none
    default: return nil
    }
  }

  /// Parts of a model beside its base, by the beginnings of their names, and the heads that have them.
  private static let parts: [(names: String, heads: Set<ModelHead>)] = [
    (
      """
      lm_head proj_out output_projection vocab_transform vocab_layer_norm vocab_projector predictions \
      generator_predictions generator_lm_head cls.predictions lm_predictions
      """, [.languageModel, .other]
    ),
    ("cls.seq_relationship sop_classifier discriminator_predictions mask_predictions", [.other]),
    ("score classifier", [.sequenceClassifier, .tokenClassifier, .imageClassifier, .other]),
    ("pre_classifier classification_head", [.sequenceClassifier, .other]),
    ("qa_outputs", [.answerer, .other]),
  ]

  /// Parts that hold what the adapter's task learns: a class that has one of them cannot do without.
  var learntParts: [String] {
    switch self {
    case .sequenceClassifier, .tokenClassifier, .imageClassifier: ["classifier", "score", "classification_head"]
    case .answerer: ["qa_outputs", "classifier"]
    default: []
    }
  }

  /// Whether a class with this head takes a tensor of the model type's checkpoint; `name` is the model's.
  func takes(_ name: String, modelType: String) -> Bool {
    func begins(_ part: some StringProtocol) -> Bool { name.hasPrefix("\(part).") }
    if self == .other { return true }
    if modelType == "modernbert" {
      if begins("head") || begins("classifier") && self == .answerer { return self != .none }
      if begins("decoder") { return self == .languageModel }
    }
    for (names, heads) in Self.parts where names.split(separator: " ").contains(where: begins) {
      return heads.contains(self)
    }
    if let dense = DenseLayer.named(modelType), begins(dense.part) || name.contains(".\(dense.part).") {
      return dense.heads.contains(self)
    }
    return true
  }

  /// The square layer between base and head that some classes of a model type have, made anew where a checkpoint lacks it.
  ///
  /// Source: transformers 5.23, `add_pooling_layer` and the like of each class.
  struct DenseLayer: Sendable {
    let part: String
    let heads: Set<ModelHead>

    private static let table: [(types: String, layer: DenseLayer)] = [
      ("bert albert", DenseLayer(part: "pooler", heads: [.none, .sequenceClassifier])),
      ("roberta xlm-roberta camembert mpnet vit deit", DenseLayer(part: "pooler", heads: [.none])),
      ("deberta deberta-v2", DenseLayer(part: "pooler", heads: [.sequenceClassifier])),
      ("distilbert", DenseLayer(part: "pre_classifier", heads: [.sequenceClassifier])),
    ]

    static func named(_ modelType: String) -> DenseLayer? {
      table.first { $0.types.split(separator: " ").contains(Substring(modelType)) }?.layer
    }

    /// The hidden size, which is the layer's input and output; nil where config.json does not say it.
    static func extent(_ config: JSONValue?) -> Int? {
      for key in ["pooler_hidden_size", "hidden_size", "dim"] {
        if let size = config?[key]?.integerValue, (1...1 << 20).contains(size) { return size }
      }
      return nil
    }
  }

  /// Model types whose language heads hold more than the output embedding's weight.
  static let typesWithLargeLanguageHeads: Set<String> = [
    "bert", "roberta", "xlm-roberta", "camembert", "distilbert", "albert", "electra", "convbert", "deberta",
    "deberta-v2",
    "mpnet", "nomic_bert", "modernbert", "gptj", "codegen", "phi", "ctrl", "wav2vec2",
  ]
}
