internal import Glibc
internal import TensorFiles
internal import TensorMath

/// What a fresh adapter of virtual tokens is made of.
public struct FreshPrompt: MethodSettings {
  public let config: PeftConfig
  public let configPath: String
  let base: BaseModel
  public let patterns = PatternCache()
  /// The tokens of `prompt_tuning_init_text`; nil if nobody cut it.
  public let text: [Int]?

  /// It belongs to no module.
  public var path: String { "" }

  /// A setting that sizes something.
  public func size(_ key: String) throws(AdapterError) -> Int { try integer(key, 1...1 << 30) }
  /// Virtual tokens of each part of the model.
  public func tokens() throws(AdapterError) -> Int { try size("num_virtual_tokens") }
  /// An encoder and a decoder count as two.
  public func parts() throws(AdapterError) -> Int { try integer("num_transformer_submodules", 1...2) }

  /// The table of the base's tokens, of that width. Throws `.notMade`.
  public func embedding(width: Int) throws(AdapterError) -> BaseModel.Module {
    guard let path = base.family?.embedding, let table = base.modules.first(where: { $0.path == path }),
      table.shape.count == 2, table.shape[1] == width, table.shape[0] > 0
    else {
      throw .notMade(
        path: configPath, what: "prompt_tuning_init \(setting("prompt_tuning_init").compactText)",
        reason: "the base has no embedding of \(width) values a token that is known here.")
    }
    return table
  }

  /// Fills in the model's sizes where the configuration leaves them open.
  ///
  /// Source: peft/utils/other.py `_prepare_prompt_learning_config`; peft/peft_model.py `_setup_prompt_encoder`.
  /// Throws `.configValue` if neither says them.
  static func complete(_ config: inout PeftConfig, _ base: BaseModel) throws(AdapterError) {
    let model = base.config?["text_config"] ?? base.config ?? .null
    func fill(_ key: String, _ names: String...) throws(AdapterError) {
      guard config.settings[key] == .null else { return }
      guard let value = names.compactMap({ model[$0]?.integerValue }).first else {
        throw .configValue(
          path: PeftConfig.fileName, key: key,
          expected: "a number, as the model's configuration has none of \(names.joined(separator: ", "))",
          found: "null")
      }
      config.settings[key] = .integer(value)
    }
    try fill("num_layers", "num_hidden_layers", "num_layers", "n_layer")
    try fill("token_dim", "hidden_size", "n_embd", "d_model")
    try fill("num_attention_heads", "num_attention_heads", "n_head", "num_heads", "encoder_attention_heads")
    if ["PREFIX_TUNING", "CARTRIDGE"].contains(config.peftType.rawValue),
      let heads = model["num_key_value_heads"]?.integerValue
    {
      let width = config.settings["token_dim"]?.integerValue ?? 0
      let all = config.settings["num_attention_heads"]?.integerValue ?? 1
      let head = model["head_dim"]?.integerValue ?? width / max(1, all)
      config.settings["token_dim"] = .integer(head &* heads)
      config.settings["num_attention_heads"] = .integer(heads)
    }
    if config.settings["encoder_hidden_size"] == .null, let width = config.settings["token_dim"] {
      config.settings["encoder_hidden_size"] = width
    }
    if config.settings["num_transformer_submodules"] == .null {
      config.settings["num_transformer_submodules"] = .integer(config.taskType == "SEQ_2_SEQ_LM" ? 2 : 1)
    }
  }
}

/// A table of virtual tokens and the layers that make the prompt or the prefix of it: none of prefix tuning without
/// projection.
///
/// Source: peft/tuners/p_tuning/model.py `PromptEncoder`; prefix_tuning/model.py `PrefixEncoder`.
package struct PromptEncoder: Sendable {
  /// A linear layer with a bias, its weight `[out, in]`.
  package struct Layer: Sendable {
    package var weight: [Float]
    package var bias: [Float]
    package let output: Int
    package let input: Int
  }

  /// What stands between two layers.
  package enum Activation: Sendable {
    case tanh
    case relu
  }

  package let tokens: Int
  package let width: Int
  /// `[tokens, width]`.
  package var table: [Float]
  /// What stands between the table and the layers; p-tuning's LSTM alone.
  package var recurrent: PromptLSTM?
  package var layers: [Layer]
  package let activation: Activation

  /// Values of what is made of a token.
  package var outputWidth: Int { layers.last?.output ?? width }

  /// The encoder of a configuration as PEFT draws it after `torch.manual_seed(seed)`; nil if the type has none.
  ///
  /// Throws what `AdapterInitializer` throws.
  package init?(_ config: PeftConfig, configPath: String, base: BaseModel, seed: UInt64) throws(AdapterError) {
    guard ["P_TUNING", "PREFIX_TUNING"].contains(config.peftType.rawValue) else { return nil }
    var config = config
    try FreshPrompt.complete(&config, base)
    var source = FreshSource(seed: seed, weights: 0, configPath: configPath)
    try self.init(FreshPrompt(config: config, configPath: configPath, base: base, text: nil), &source)
  }

  init(_ prompt: FreshPrompt, _ source: inout FreshSource) throws(AdapterError) {
    let isPrefix = prompt.config.peftType.rawValue == "PREFIX_TUNING"
    tokens = isPrefix ? try prompt.tokens() : try prompt.tokens() * prompt.parts()
    let inner = try prompt.size("token_dim")
    var widths: [Int] = []
    if isPrefix {
      let (all, overflow) = inner.multipliedReportingOverflow(by: try prompt.size("num_layers") * 2)
      let isProjected = prompt.flag("prefix_projection")
      width = isProjected ? inner : overflow ? Int.max : all
      if isProjected { widths = [try prompt.size("encoder_hidden_size"), overflow ? Int.max : all] }
      activation = .tanh
    } else {
      width = inner
      let hidden = try prompt.size("encoder_hidden_size")
      widths = try prompt.isRecurrent() ? [2 * hidden, inner] : [hidden, hidden, inner]
      activation = .relu
    }
    table = try source.normal("prompt_embeddings", [tokens, width]).floats
    layers = []
    var input = width
    if !isPrefix, try prompt.isRecurrent() {
      let hidden = try prompt.size("encoder_hidden_size")
      recurrent = try PromptLSTM(
        input: inner, hidden: hidden, layers: try prompt.integer("encoder_num_layers", 1...1000), &source)
      input = 2 * hidden
    }
    for output in widths {
      let weight = try source.uniform("layer", [output, input], fanIn: input)
      let bias = try source.uniform("layer", [output], within: 1 / Double(input).squareRoot())
      layers.append(Layer(weight: weight.floats, bias: bias.floats, output: output, input: input))
      input = output
    }
    guard isPrefix, prompt.setting("init_weights") == .string("zero") else { return }
    if let last = layers.indices.last {
      layers[last].weight = [Float](repeating: 0, count: layers[last].weight.count)
      layers[last].bias = [Float](repeating: 0, count: layers[last].bias.count)
    } else {
      table = [Float](repeating: 0, count: table.count)
    }
  }

  /// What the layers make of the table, `[tokens, outputWidth]`, in f64 rounded to f32.
  package func encoded() -> [Float] {
    var values = table.map { Double($0) }
    if let recurrent { values = recurrent.encoded(Matrix(rows: tokens, columns: width, values: values)).values }
    for (index, layer) in layers.enumerated() {
      let weight = Matrix(rows: layer.output, columns: layer.input, values: layer.weight.map { Double($0) })
      var next = Matrix(rows: tokens, columns: layer.input, values: values).times(weight.transposed).values
      for place in next.indices {
        next[place] += Double(layer.bias[place % layer.output])
        if index < layers.count - 1 { next[place] = activation.value(next[place]) }
      }
      values = next
    }
    return values.map { Float($0) }
  }
}

extension FreshPrompt {
  /// Whether p-tuning's encoder is the LSTM. Throws `.notMade` for one that drops, `.configValue`.
  fileprivate func isRecurrent() throws(AdapterError) -> Bool {
    let key = "encoder_reparameterization_type"
    switch setting(key) {
    case .string("MLP"): return false
    case .string("LSTM"):
      guard try number("encoder_dropout") == 0 || setting("encoder_num_layers") == .integer(1) else {
        throw .notMade(
          path: configPath, what: "encoder_dropout \(setting("encoder_dropout").compactText)",
          reason: "PEFT draws its masks anew wherever the prompt is read, also when it is saved.")
      }
      return true
    default:
      throw .configValue(path: configPath, key: key, expected: "MLP or LSTM", found: setting(key).compactText)
    }
  }
}

extension PromptEncoder.Activation {
  /// The function's value.
  package func value(_ x: Double) -> Double {
    switch self {
    case .tanh: Glibc.tanh(x)
    case .relu: max(0, x)
    }
  }
}
