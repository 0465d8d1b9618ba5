internal import TensorFiles

/// Adapters in other forms than PEFT's, told by their configuration, their files or the names of their tensors.
public enum ForeignAdapter: String, Sendable, CaseIterable {
  case adapterHub
  case diffusers
  case gguf
  case kohya
  case leRobot
  case lycoris
  case mlx

  /// What a configuration without `peft_type` belongs to; nil if it has one, or is not known.
  init?(config: JSONValue) {
    guard config["peft_type"] == nil else { return nil }
    if config["fine_tune_type"] != nil || config["lora_parameters"] != nil || config["lora_layers"] != nil {
      self = .mlx
    } else if config["config"]?.members != nil || config["config"]?.stringValue != nil,
      ["model_class", "model_name", "model_type", "hidden_size"].contains(where: { config[$0] != nil })
    {
      self = .adapterHub
    } else if config["method_type"] != nil || config["full_training_modules"] != nil
      || (config["type"] != nil && config["input_features"] != nil)
    {
      self = .leRobot
    } else {
      return nil
    }
  }

  /// What a directory without PEFT's configuration, or a file in its place, belongs to; nil if that is not known.
  init?(path: String) {
    let isFile = FileSystem.kind(path) == .file
    let names = isFile ? [FileSystem.lastComponent(path)] : (try? FileSystem.names(in: path)) ?? []
    if names.contains(where: { $0.hasSuffix(".gguf") && GGUFFile.isOne(isFile ? path : FileSystem.join(path, $0)) }) {
      self = .gguf
      return
    }
    if names.contains("adapters.safetensors") || names.contains("adapters.npz") {
      self = .mlx
      return
    }
    if names.contains("pytorch_adapter.bin") || names.contains("adapter.safetensors") {
      self = .adapterHub
      return
    }
    let configPath = FileSystem.join(path, "config.json")
    if !isFile, let config = try? JSONValue(contentsOf: configPath), let format = ForeignAdapter(config: config) {
      self = format
      return
    }
    for name in names.sorted().filter({ $0.hasSuffix(".safetensors") }).prefix(8) {
      guard let file = try? SafetensorsFile(path: isFile ? path : FileSystem.join(path, name)) else { continue }
      if let format = ForeignAdapter(tensors: file.entries.map(\.name)) {
        self = format
        return
      }
    }
    guard names.contains("pytorch_lora_weights.safetensors") || names.contains("pytorch_lora_weights.bin") else {
      return nil
    }
    self = .diffusers
  }

  /// What the names of tensors belong to; nil if that is not known.
  init?(tensors names: [String]) {
    guard !names.contains(where: { $0.hasPrefix(Adapter.prefix) }) else { return nil }
    func any(_ parts: String...) -> Bool { names.contains { name in parts.contains { name.contains($0) } } }
    let isFlat = names.contains { name in ImageKey.flatPrefixes.contains { name.hasPrefix($0.prefix) } }
    if isFlat, any(".hada_w1", ".lokr_w", ".oft_blocks", ".dora_scale", ".on_input") {
      self = .lycoris
    } else if isFlat, any(".lora_down.", ".lora_up.", ".alpha") {
      self = .kohya
    } else if names.contains(where: { $0.hasSuffix(".lora_a") }) {
      self = .mlx
    } else if names.contains(where: { name in
      [
        "unet.", "transformer.", "text_encoder.", "text_encoder_2.", "text_encoder_3.", "diffusion_model.",
        "model.diffusion_model.", "double_blocks.", "single_blocks.", "text_encoders.",
      ].contains { name.hasPrefix($0) }
    }),
      any(
        ".lora_A.", ".lora.down.", "_lora.down.", ".lora_down.", "_lora1.down.", "_lora2.down.", ".lora_linear_layer.")
    {
      self = .diffusers
    } else {
      return nil
    }
  }

  /// The form that it is read as; nil if it is not read.
  var dialect: AdapterDialect? {
    switch self {
    case .mlx: .mlx
    case .gguf: .gguf
    case .kohya, .lycoris: .kohya
    case .diffusers: .diffusers
    case .adapterHub, .leRobot: nil
    }
  }
}
