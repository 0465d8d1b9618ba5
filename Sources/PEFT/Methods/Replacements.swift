internal import TensorFiles
internal import TensorMath

extension AdapterMethod {
  /// LayerNorm tuning: whole copies of norms take the place of the base's. Source: peft/tuners/ln_tuning/layer.py `merge`.
  static let lnTuning = AdapterMethod(
    type: PeftType(rawValue: "LN_TUNING"),
    defaults: """
      {"exclude_modules": null, "modules_to_save": null, "target_modules": null}
      """,
    prefixes: ["ln_tuning_"], merging: .replacement(infix: "ln_tuning_layers"),
    start: .modules([.other, .linear, .transposedLinear, .embedding], freshCopy),
    defaultTargets: DefaultTargets.lnTuning)

  /// Trainable tokens: rows of an embedding that take the place of the base's, despite the tensor's name.
  ///
  /// Source: peft/tuners/trainable_tokens/layer.py `get_merged_weights`.
  static let trainableTokens = AdapterMethod(
    type: PeftType(rawValue: "TRAINABLE_TOKENS"),
    defaults: """
      {"init_weights": true, "target_modules": null, "token_indices": []}
      """,
    prefixes: ["trainable_tokens_"], merging: .rows(tensor: "trainable_tokens_delta", setting: "token_indices"),
    start: .modules([.embedding, .linear], freshRows),
    completed: { config, base throws(AdapterError) in
      guard config.targetModules == nil, let embedding = base.family?.embedding else { return }
      config.targetModules = .pattern(embedding)
    })
}

/// A copy of the module. Source: peft/tuners/ln_tuning/layer.py `LNTuningLayer.update_layer`.
private func freshCopy(_ module: FreshModule, _ source: inout FreshSource) throws(AdapterError) -> [FreshTensor] {
  let stem = module.module.weightName.dropLast("weight".count)
  return ["weight", "bias"].compactMap { parameter in
    guard let location = module.base.checkpoint[stem + parameter] else { return nil }
    return FreshTensor(
      name: "ln_tuning_layers.\(parameter)", shape: location.entry.shape, values: .copy(location))
  }
}

/// Rows of the table as they are. Source: peft/tuners/trainable_tokens/layer.py `TrainableTokensLayer.update_layer`.
private func freshRows(_ module: FreshModule, _ source: inout FreshSource) throws(AdapterError) -> [FreshTensor] {
  var tokens: [Int] = []
  for row in module.setting("token_indices").elements ?? [] {
    guard let token = row.integerValue, (-module.output..<module.output).contains(token) else {
      throw module.refuse("token_indices", expected: "whole numbers below \(module.output)")
    }
    tokens.append(token < 0 ? token + module.output : token)
  }
  let (name, shape) = ("trainable_tokens_delta", [tokens.count, module.input])
  var rows = try source.filled(name, shape)
  if module.startsNeutral() {
    rows = FreshTensor(name, shape, try module.base.rows(tokens, of: module.module))
  } else {
    guard module.base.checkpoint[module.module.weightName]?.entry.dtype == .f32 else {
      throw module.unmade("init_weights false", "PEFT draws it in the weight's own dtype, which is not f32.")
    }
    rows = try source.normal(name, shape)
  }
  // A head that shares the table shares its rows: PEFT stores them under its name too.
  guard module.base.asksForTie, module.path == module.base.family?.embedding, let head = module.base.family?.head else {
    return [rows]
  }
  return [rows, FreshTensor("model.\(head).\(name)", shape, rows.floats).shared]
}

extension BaseModel {
  /// Rows of a module's weight in f32. Traps if one is outside. Throws `.file`.
  func rows(_ rows: [Int], of module: Module) throws(AdapterError) -> [Float] {
    try asAdapterError { () throws(TensorFileError) in
      guard let location = checkpoint[module.weightName], let format = location.entry.dtype.format else { return [] }
      let width = module.shape.dropFirst().reduce(1, *) * format.byteCount
      let file = checkpoint.shards[location.shard].file
      var values: [Float] = []
      for row in rows {
        precondition((0..<module.shape[0]).contains(row), "a row outside the table")
        let start = location.entry.byteRange.lowerBound + row * width
        values += Float.decoded(try file.bytes(start..<start + width), format)
      }
      return values
    }
  }
}
