internal import TensorFiles

/// Modules with a square weight whose orientation only `fan_in_fan_out` tells.
struct SquareWeights {
  private var byFlag: [(path: String, isTransposed: Bool)] = []

  fileprivate mutating func add(_ path: String, isTransposed: Bool) { byFlag.append((path, isTransposed)) }

  /// Says which square weights are taken as `fan_in_fan_out` says, which PEFT keeps of one module only.
  var note: String? {
    guard let first = byFlag.first else { return nil }
    let others = byFlag.count - 1
    return "'\(first.path)'\(others == 0 ? " is" : " and \(others) more are") square, and taken as stored "
      + "\(first.isTransposed ? "[in, out]" : "[out, in]"), as fan_in_fan_out says of the last module that PEFT adapted"
  }
}

extension MatchedAdapter {
  /// Whether W is stored `[in, out]`, for a LoRA of that input and output. The factors' shapes decide; where W is square,
  /// the base or the configuration.
  ///
  /// - Parameter shape: W's as the adapter has it.
  func isTransposed(
    _ entry: TensorEntry, _ shape: [Int], of module: Adapter.Module, input: Int, output: Int,
    _ squares: inout SquareWeights
  ) throws(AdapterError) -> Bool {
    let known = base.module(ofWeight: entry.name)?.kind
    if input != output {
      if shape == [output, input], known != .transposedLinear { return false }
      if shape == [input, output], known == .transposedLinear || base.model.family == nil { return true }
    } else if shape == [output, input] {
      return try isTransposed(entry, path: module.path, moduleCount: adapter.moduleCount, &squares)
    }
    if known == .embedding && shape == [input, output] {
      throw .unsupported(
        path: file.path, what: "a linear LoRA on the embedding '\(entry.name)'",
        reason: "an embedding takes lora_embedding_A and lora_embedding_B.")
    }
    if known == .transposedLinear, config.initLoRAWeights.stringValue?.lowercased() == "olora" {
      throw .unsupported(
        path: file.path, what: "OLoRA on '\(module.path)'",
        reason:
          "PEFT gives its factors the sizes of a weight stored [out, in]; this one is [in, out], and cannot run so.")
    }
    throw .shapeMismatch(
      base: base.path, tensor: entry.name, found: entry.shape,
      expected: known == .transposedLinear ? [input, output] : [output, input])
  }

  /// Whether a matrix of the base is stored `[in, out]`, as far as its adapter's shapes do not tell.
  ///
  /// What the base does not tell, `fan_in_fan_out` does: PEFT sets it to what the last module needed that it adapted.
  /// Source: peft/tuners/lora/model.py `_create_new_module`.
  /// - Parameter moduleCount: modules that the adapter acts on.
  /// Throws `.unsupported` where neither tells.
  func isTransposed(
    _ entry: TensorEntry, path: String, moduleCount: Int, _ squares: inout SquareWeights
  ) throws(AdapterError) -> Bool {
    let finding = base.module(ofWeight: entry.name)?.orientation ?? .linear
    let method = AdapterMethod.named(config.peftType)
    switch finding {
    case .linear: return false
    case .transposed: return true
    case .unknown, .mixed:
      guard method?.takesConv1D ?? true else { return false }
      let keepsFlag = method?.keepsFanInFanOut ?? true
      if keepsFlag, finding == .unknown || moduleCount == 1 {
        if moduleCount > 1 { squares.add(path, isTransposed: config.fanInFanOut) }
        return config.fanInFanOut
      }
      if !keepsFlag, config.fanInFanOut { return true }
      throw .unsupported(
        path: file.path, what: "\(config.peftType.rawValue) on '\(path)'",
        reason: "its weight is square, and neither the base nor the configuration says whether it is stored [out, in] "
          + "(torch's Linear) or [in, out] (transformers' Conv1D)."
          + (keepsFlag ? "" : " If all square ones are Conv1D, set fan_in_fan_out to true in adapter_config.json."))
    }
  }
}
