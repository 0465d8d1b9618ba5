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

  /// Embedded rows that an encoder makes. Source: peft/peft_model.py `PeftModelForCausalLM.forward`.
  static let promptEncoder = TrainedMethod(
    type: "P_TUNING",
    whole: { reader throws(ModelError) in
      try reader.readEncoder({ $1.prompt = $0.output }, shape: [nil, reader.frozen.embedding.columns])
    })

  /// Keys and values before each layer's own.
  static let prefixTuning = TrainedMethod(
    type: "PREFIX_TUNING",
    whole: { reader throws(ModelError) in
      let layers = reader.frozen.layers
      let width = (layers.first?.attention.keyHeads ?? 0) * (layers.first?.attention.width ?? 0)
      let shape = [nil, 2 * layers.count * width]
      guard !reader.flag("prefix_projection") else {
        return try reader.readEncoder({ $1.prefix = $0.output }, shape: shape)
      }
      let name = try reader.train("prompt_embeddings", shape)
      reader.make { $1.prefix = $0.parameter(name) }
    })
}
