internal import PEFT
internal import TensorFiles
internal import TensorMath

/// An adapter that learns inputs instead of weights: virtual tokens before the sequence, or keys and values before each layer's.
///
/// Source: peft/peft_model.py `PeftModel.get_prompt`, `PeftModelForCausalLM.forward`.
enum PromptAdapter {
  /// Embedded tokens before the first.
  case tokens(Matrix<Float>)
  /// Keys and values before the first position, by layer.
  case prefix([KeyValues])
  /// Learnt prompts of some layers, by layer.
  case gated([Int: AdaptionPrompt])

  static let types: Set<String> = [
    "PROMPT_TUNING", "P_TUNING", "CPT", "MULTITASK_PROMPT_TUNING", "PREFIX_TUNING", "CARTRIDGE", "ADAPTION_PROMPT",
  ]

  /// - Parameter task: the row of a multitask prompt.
  /// Throws `.adapter` with `.methodShape` or `.tensorMissing` where the file does not fit the model, `.unsupported`.
  init(_ adapter: StoredAdapter, _ model: CausalLanguageModel, task: Int) throws(ModelError) {
    let file = adapter.weights
    func tensor(_ name: String, _ shape: [Int?]) throws(ModelError) -> (values: [Float], shape: [Int]) {
      guard let entry = file[name] else {
        throw .adapter(.tensorMissing(path: file.path, module: "the prompt", tensor: name))
      }
      guard entry.shape.count == shape.count, zip(entry.shape, shape).allSatisfy({ $1 == nil || $0 == $1 }),
        let format = entry.dtype.format
      else {
        throw .adapter(
          .methodShape(path: file.path, tensor: name, found: entry.shape, expected: [shape.map { $0 ?? 0 }]))
      }
      let bytes = try asModelError { () throws(TensorFileError) in try file.file.bytes(entry.byteRange) }
      var values = [Float](repeating: 0, count: entry.elementCount)
      var span = values.mutableSpan
      decode(bytes.span.bytes, from: format, into: &span)
      return (values, entry.shape)
    }
    switch adapter.config.peftType.rawValue {
    case "PREFIX_TUNING", "CARTRIDGE":
      let layouts = model.attentions.map(\.layout)
      let width = (layouts.first?.keyHeads ?? 0) * (layouts.first?.width ?? 0)
      let found = try tensor("prompt_embeddings", [nil, 2 * layouts.count * width])
      var layers: [KeyValues] = []
      for layer in layouts.indices {
        var held = KeyValues(stride: width)
        for position in 0..<found.shape[0] {
          let start = (position * layouts.count + layer) * 2 * width
          held.append(
            keys: Array(found.values[start..<start + width]),
            values: Array(found.values[start + width..<start + 2 * width]))
        }
        layers.append(held)
      }
      self = .prefix(layers)
    case "ADAPTION_PROMPT":
      var prompts: [Int: AdaptionPrompt] = [:]
      for entry in file.entries where entry.name.hasSuffix(".adaption_prompt") {
        let path = entry.name.dropLast(".adaption_prompt".count)
        guard let index = path.parts().compactMap({ Int($0) }).last, index < model.attentions.count else {
          throw .adapter(.tensorUnexpected(path: file.path, tensor: entry.name))
        }
        let attention = model.attentions[index]
        let hidden = attention.part(attention.layout.output, as: LinearLayer.self).outFeatures
        let prompt = try tensor(entry.name, [1, nil, hidden])
        let gate = try tensor("\(path).adaption_gate", [1])
        prompts[index] = AdaptionPrompt(
          prompt: Matrix(rows: prompt.shape[1], columns: hidden, values: prompt.values), gate: gate.values[0])
      }
      self = .gated(prompts)
    default:
      let width = model.embeddingWidth
      var found = try tensor("prompt_embeddings", [nil, width])
      if adapter.config.peftType.rawValue == "MULTITASK_PROMPT_TUNING" {
        let columns = try tensor("prefix_task_cols", [nil, found.shape[0], nil])
        let rows = try tensor("prefix_task_rows", [columns.shape[0], columns.shape[2], width])
        guard task >= 0, task < columns.shape[0] else {
          throw .unsupported(what: "task \(task)", reason: "the adapter has tasks 0 to \(columns.shape[0] - 1).")
        }
        let rank = columns.shape[2]
        let (left, right) = (columns.values, rows.values)
        for position in 0..<found.shape[0] {
          for feature in 0..<width {
            var factor: Float = 0
            for inner in 0..<rank {
              factor +=
                left[(task * found.shape[0] + position) * rank + inner] * right[(task * rank + inner) * width + feature]
            }
            found.values[position * width + feature] *= factor
          }
        }
      }
      self = .tokens(Matrix(rows: found.shape[0], columns: width, values: found.values))
    }
  }
}
