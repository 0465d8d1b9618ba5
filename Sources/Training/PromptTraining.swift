internal import LanguageModels
internal import PEFT
internal import TensorFiles
internal import TensorMath

extension TrainedMethod {
  /// Embedded rows before the input. Source: peft/peft_model.py `PeftModelForCausalLM.forward`.
  static let promptTuning = TrainedMethod(
    type: "PROMPT_TUNING",
    whole: { reader throws(ModelError) in
      let name = try reader.train("prompt_embeddings", [nil, reader.frozen.embedding.columns])
      reader.make { $1.prompt = $0.parameter(name) }
    })

  /// Keys and values before each layer's own, without a projection.
  static let prefixTuning = TrainedMethod(
    type: "PREFIX_TUNING",
    whole: { reader throws(ModelError) in
      guard !reader.flag("prefix_projection") else {
        throw .unsupported(
          what: "training with prefix_projection",
          reason: "a saved adapter has only the projection's results; set prefix_projection false to train those.")
      }
      let layers = reader.frozen.layers
      let width = (layers.first?.attention.keyHeads ?? 0) * (layers.first?.attention.width ?? 0)
      let name = try reader.train("prompt_embeddings", [nil, 2 * layers.count * width])
      reader.make { $1.prefix = $0.parameter(name) }
    })
}
