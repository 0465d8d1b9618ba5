internal import TensorFiles

extension AdapterError: CustomStringConvertible {
  /// The description without the option that `remedy` is.
  public var facts: String {
    switch self {
    case .file(let error): error.description
    case .configMissing(let directory):
      "\(directory): no adapter_config.json, and no config.json with a peft_type. Is this an adapter's directory?"
    case .configNotObject(let path): "\(path): not a JSON object."
    case .configValue(let path, let key, let expected, let found):
      "\(path): \(key) is \(found); expected \(expected)."
    case .configContradiction(let path, let reason): "\(path): \(reason)"
    case .unknownConfigKey(let path, let key, let value):
      "\(path): unknown key '\(key)' with the value \(value), which may change the result."
    case .unknownPeftType(let path, let found):
      "\(path): unknown peft_type '\(found)'. Known: \(PeftType.known.map(\.rawValue).joined(separator: ", "))."
    case .patternInvalid(let pattern, let offset, let reason):
      "pattern '\(pattern)': not a valid regular expression at character \(offset): \(reason)."
    case .patternUnsupported(let pattern, let construct):
      "pattern '\(pattern)': \(construct) is Python syntax that has no translation here. Write the pattern without it."
    case .patternRunaway(let pattern, let subject):
      "pattern '\(pattern)': gave up on '\(subject)' after too many steps. Write the pattern with less nesting."
    case .configPattern(let path, let error): "\(path): \(error.description)"
    case .weightsMissing(let directory, let found):
      "\(directory): no adapter_model.safetensors"
        + (found.isEmpty
          ? "." : " (found \(found.joined(separator: ", "))). Save the adapter as safetensors first.")
    case .noTensors(let path):
      "\(path): holds no tensors. The adapter was saved without its weights (common under ZeRO-3); save it again."
    case .tensorUnexpected(let path, let tensor):
      "\(path): tensor '\(tensor)' is no part of a LoRA adapter that is known here; merging without it may be wrong."
    case .unpaired(let path, let module, let present):
      "\(path): module '\(module)' lacks a partner for \(present): both lora_A and lora_B are needed."
    case .tensorRepeated(let path, let tensor, let other):
      "\(path): tensors '\(tensor)' and '\(other)' name the same part of the adapter."
    case .rankMismatch(let path, let module, let rank, let shapeA, let shapeB):
      "\(path): module '\(module)': the configuration says rank \(rank), but lora_A is \(shapeA) and lora_B is \(shapeB); "
        + "expected [\(rank), in] and [out, \(rank)]. The configuration belongs to another adapter."
    case .adapterDType(let path, let tensor, let dtype):
      "\(path): tensor '\(tensor)' is \(dtype.rawValue); expected F32, F16, BF16 or F64. Save the adapter in one of these."
    case .tensorMissing(let path, let module, let tensor):
      "\(path): module '\(module)' lacks its tensor '\(tensor)'. The file is incomplete; save the adapter again."
    case .methodShape(let path, let tensor, let found, let expected, let form):
      "\(path): tensor '\(tensor)' has shape \(found); expected "
        + (expected.isEmpty ? form : expected.map { "\($0)" }.joined(separator: " or "))
        + ". The adapter was trained on a model of another size, or its configuration is another's."
    case .methodIndex(let path, let tensor, let limit):
      "\(path): tensor '\(tensor)' holds an index outside 0 to \(limit - 1). The file is damaged, or the base is another."
    case .unsupported(let path, let what, let reason): "\(path): \(what) is not merged: \(reason)"
    case .notMade(let path, let what, let reason): "\(path): no fresh adapter with \(what) is made: \(reason)"
    case .uncountable(let path, let what, let reason): "\(path): the parameters of \(what) are not counted: \(reason)"
    case .moduleNotTargeted(let path, let module, let targets):
      "\(path): holds module '\(module)', which the configuration does not target (\(targets)); PEFT would ignore it. "
        + "Correct target_modules, or remove the tensors."
    case .unmatched(let base, let modules, let matched, let total, let nearest):
      "\(base): \(matched) of \(total) adapter modules matched; no tensor for \(list(modules))."
        + (nearest.isEmpty ? "" : " Nearest names in the base: \(list(nearest)).")
        + " The adapter was trained on another model or its names have a foreign prefix."
    case .ambiguous(let base, let module, let candidates):
      "\(base): adapter module '\(module)' fits several tensors: \(list(candidates)). Rename the adapter's tensors."
    case .collision(let base, let tensor, let modules):
      "\(base): tensor '\(tensor)' is claimed by several adapter modules: \(list(modules))."
    case .shapeMismatch(let base, let tensor, let found, let expected):
      "\(base): tensor '\(tensor)' has shape \(found); the adapter needs \(expected). "
        + "The adapter was trained on a model of another size."
    case .baseDType(let base, let tensor, let dtype):
      "\(base): tensor '\(tensor)' is \(dtype.rawValue), which cannot be merged into. "
        + "A quantized checkpoint loses the change to rounding: use the 16-bit checkpoint it was made from."
    case .missingFromAdapter(let path, let modules):
      "\(path): the configuration targets \(modules.count) more module\(modules.count == 1 ? "" : "s") of the base, "
        + "which the file does not hold: \(list(modules)). The adapter is incomplete."
    case .nothingTargeted(let base, let targets, let candidates, let nearest):
      "\(base): \(targets) matches no module. Names that can be targeted: \(candidates.joined(separator: ", "))."
        + (nearest.isEmpty ? "" : " Did you mean \(nearest.joined(separator: ", "))?")
    case .targetNotLinear(let base, let module, let shape):
      "\(base): module '\(module)' is targeted but is no linear layer (shape \(shape)). Target linear layers only."
    case .baseConfigMissing(let base, let reason): "\(base): no config.json: \(reason)"
    case .replacementShape(let base, let tensor, let found, let replacement):
      "\(base): tensor '\(tensor)' has shape \(found), its replacement in the adapter \(replacement). "
        + "The model was resized before training; resize the base in the same way first."
    case .notInCache(let name, let revision, let cache):
      "\(name): no such path, and revision '\(revision)' of that repository is not in the cache \(cache). "
        + "Give a path, or leave HF_HUB_OFFLINE unset."
    case .download(let name, let reason): "\(name): cannot be downloaded: \(reason)."
    case .alreadyMerged(let base, let adapter, let weight):
      "\(base): the adapter \(adapter) is merged into it already, with weight \(weight). Merge into the original base."
    case .shardSize(let found):
      "shard size '\(found)': expected a positive number of bytes with an optional unit KB, MB, GB, KiB, MiB or GiB."
    }
  }
}

/// The first five items, quoted, and how many more there are.
private func list(_ items: [String]) -> String {
  let shown = items.prefix(5).map { "'\($0)'" }.joined(separator: ", ")
  return items.count > 5 ? "\(shown) and \(items.count - 5) more" : shown
}
