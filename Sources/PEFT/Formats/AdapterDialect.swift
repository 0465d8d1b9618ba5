internal import TensorFiles

/// A form that adapters are stored in.
public enum AdapterDialect: String, Sendable, CaseIterable {
  /// PEFT's directory.
  case peft
  /// mlx-lm's directory.
  case mlx
  /// llama.cpp's file of a LoRA.
  case gguf
  /// kohya's and LyCORIS's file of a LoRA for image models.
  case kohya
  /// diffusers' file of a LoRA.
  case diffusers
  /// A file that ComfyUI reads without loss.
  case comfy
}

/// The image model that a LoRA is for: names in kohya's files depend on it.
public enum ImageModel: String, Sendable, CaseIterable {
  case sd1, sdxl, sd3, flux
}

/// Something of an adapter that another form cannot carry, and what to do about it.
public struct ConversionObstacle: Sendable, Equatable {
  /// What it is, in a few words.
  public let what: String
  /// Why it cannot be carried.
  public let reason: String
  /// A command or a setting.
  public let cure: String
}

/// What a form needs to know of the model that an adapter is for, from its config.json.
struct BaseFacts: Sendable {
  let path: String
  let config: JSONValue
  /// The configuration of the language model inside.
  private let language: JSONValue

  /// Throws `.baseConfigMissing`, `.file`.
  init(path: String) throws(AdapterError) {
    let directory = FileSystem.kind(path) == .file ? FileSystem.parentDirectory(path) : path
    let found = try asAdapterError { () throws(TensorFileError) -> String? in
      if let path = try ModelFiles.path("config.json", in: directory) { return path }
      return try ModelFiles.path("model_index.json", in: directory)
    }
    guard let found else {
      throw .baseConfigMissing(base: path, reason: "the conversion needs to know the architecture.")
    }
    self.path = path
    config = try asAdapterError { () throws(TensorFileError) in try JSONValue(contentsOf: found) }
    let nested = config["text_config"]
    language = nested?.members == nil ? config : nested ?? config
  }

  /// `model_type`; of a model with parts, the language model's.
  var modelType: String { language["model_type"]?.stringValue ?? config["model_type"]?.stringValue ?? "" }
  /// diffusers' name of the class.
  var className: String? { config["_class_name"]?.stringValue }
  /// Whether head and input embedding are one weight.
  var isTied: Bool {
    BaseModel.asksForTie(config, ModelFamily.named(config["model_type"]?.stringValue ?? ""))
  }

  /// A positive number under the first of the keys that is there.
  func count(_ keys: String...) -> Int? {
    for key in keys {
      if let value = language[key]?.integerValue, value > 0 { return value }
    }
    return nil
  }

  func flag(_ key: String) -> Bool { language[key] == .bool(true) }

  var layers: Int? { count("num_hidden_layers", "n_layer", "num_layers") }
  var heads: Int? { count("num_attention_heads", "n_head") }
  var keyValueHeads: Int? { count("num_key_value_heads", "num_kv_heads", "n_head_kv") ?? heads }
}
