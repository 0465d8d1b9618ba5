internal import TensorFiles

extension BaseModel {
  /// How the base is quantized, such as "quantization_config: gptq"; nil if nothing says so.
  ///
  /// config.json decides; without it the names of tensors that only quantized layers have.
  package var quantization: String? {
    for (key, found) in [
      ("quantization_config", config?["quantization_config"] ?? config?["text_config"]?["quantization_config"]),
      ("compression_config", config?["compression_config"]), ("quantization", config?["quantization"]),
    ] {
      guard let found, found.members != nil else { continue }
      return "\(key): \(Self.method(found) ?? (key == "compression_config" ? "compressed-tensors" : "mlx"))"
    }
    for (ending, method) in Self.endings {
      guard let name = checkpoint.names.first(where: { $0.hasSuffix(ending) }) else { continue }
      return "\(method), as its tensor '\(name)' shows"
    }
    return nil
  }

  private static func method(_ settings: JSONValue) -> String? {
    if let name = settings["quant_method"]?.stringValue { return name }
    // Early configurations of bitsandbytes have its switches only.
    return settings["load_in_4bit"] == nil && settings["load_in_8bit"] == nil ? nil : "bitsandbytes"
  }

  /// Ends of names that only a method's layers have.
  private static let endings: [(String, String)] = [
    (".qweight", "GPTQ or AWQ"), (".weight.absmax", "bitsandbytes"), (".SCB", "bitsandbytes"),
    (".weight_packed", "compressed-tensors"), (".weight_scale_inv", "fp8"), ("_proj_blocks", "mxfp4"),
    (".W_q", "hqq"), (".codebooks", "aqlm"),
  ]

  /// The error to give in the place of one that only says that a module does not fit, where quantization is the reason.
  func explained(_ error: AdapterError) -> AdapterError {
    let module: String
    switch error {
    case .unmatched(_, let modules, _, _, _):
      module = modules.first ?? ""
      // Something else than quantization is the reason where the base has nothing of that name.
      let name = lastPart(module)
      guard checkpoint.names.contains(where: { $0.contains("\(name).") || $0.contains("\(name)_") }) else {
        return error
      }
    case .baseDType(_, let tensor, _): module = tensor
    case .nothingTargeted(_, let targets, _, _): module = targets
    default: return error
    }
    guard let quantization else { return error }
    return .quantizedBase(base: path, method: quantization, module: module)
  }
}
