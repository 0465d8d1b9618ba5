internal import TensorFiles

/// diffusers' files of a LoRA: PEFT's names with that of the pipeline's part before them, and PEFT's configurations in the metadata.
///
/// Source: diffusers/loaders/lora_base.py `_save_lora_weights`, `_pack_dict_with_prefix`; loaders/peft.py `load_lora_adapter`.
enum DiffusersDialect {
  static let fileName = "pytorch_lora_weights.safetensors"

  static func obstacles(_ adapter: CarriedAdapter) -> [ConversionObstacle] {
    var found = adapter.obstacles(takesMagnitudes: true)
    if adapter.component == nil {
      found.append(
        ConversionObstacle(
          what: "the part of the pipeline is not known", reason: "names begin with it", cure: "say it with --component")
      )
    }
    return found
  }

  static func output(_ adapters: [CarriedAdapter]) -> DialectOutput {
    var tensors: [NamedTensor] = []
    var settings: [JSONValue.Member] = []
    for adapter in adapters {
      let component = adapter.component ?? "unet"
      for module in adapter.modules {
        for (ending, tensor) in module.tensors.sorted(by: { $0.key < $1.key }) {
          tensors.append(NamedTensor("\(component).\(module.path).\(ending)", tensor))
        }
      }
      settings += (adapter.peftConfig.json.members ?? []).map { .init("\(component).\($0.key)", $0.value) }
    }
    let metadata: [JSONValue.Member] = [
      .init("format", .string("pt")),
      .init(ImageFiles.diffusersKey, .string(JSONValue.object(settings).pythonText(sortedKeys: true))),
    ]
    return DialectOutput(files: [(fileName, .safetensors(tensors, metadata: metadata, namesFormat: true))])
  }
}
