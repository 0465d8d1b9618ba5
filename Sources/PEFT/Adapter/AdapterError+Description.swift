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
    case .foreignAdapter(let path, let format): "\(path): \(format.description)"
    case .foreignContent(let path, let reason): "\(path): \(reason). Nothing was converted."
    case .notConvertible(let path, let obstacles):
      "\(path): cannot be converted without loss: "
        + obstacles.prefix(5).map { "\($0.what) (\($0.reason); cure: \($0.cure))" }.joined(separator: "; ")
        + (obstacles.count > 5 ? "; and \(obstacles.count - 5) more" : "") + "."
    case .unknownPeftType(let path, let found):
      "\(path): unknown peft_type '\(found)'. Known: \(PeftType.known.map(\.rawValue).joined(separator: ", "))."
    case .patternInvalid(let pattern, let offset, let reason):
      "pattern '\(pattern)': not a valid regular expression at character \(offset): \(reason)."
    case .patternUnsupported(let pattern, let construct):
      "pattern '\(pattern)': \(construct) is Python syntax that has no translation here. Write the pattern without it."
    case .patternRunaway(let pattern, let subject):
      "pattern '\(pattern)': gave up\(subject.isEmpty ? "" : " on '\(subject)'") after too many steps. "
        + "Use fewer patterns, or write them with less nesting."
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
    case .adapterNotFinite(let path, let tensor, let module, let count, let total):
      "\(path): tensor '\(tensor)' of module '\(module)': \(count) of \(total) values are infinite or not a number. "
        + "The training diverged or the file is damaged: take an earlier checkpoint."
    case .factorNotFinite(let path, let module, let factor):
      "\(path): module '\(module)': its change would be multiplied by \(factor), which is no finite number in the "
        + "precision that it is computed in. Correct the weight, or lora_alpha and r."
    case .tensorMissing(let path, let module, let tensor):
      "\(path): module '\(module)' lacks its tensor '\(tensor)'. The file is incomplete; save the adapter again."
    case .methodShape(let path, let tensor, let found, let expected, let form):
      "\(path): tensor '\(tensor)' has shape \(found); expected "
        + (expected.isEmpty ? form : expected.map { "\($0)" }.joined(separator: " or "))
        + ". The adapter was trained on a model of another size, or its configuration is another's."
    case .methodIndex(let path, let tensor, let limit):
      "\(path): tensor '\(tensor)' holds an index outside 0 to \(limit - 1). The file is damaged, or the base is another."
    case .unsupported(let path, let what, let reason): "\(path): \(what) is not merged: \(reason)"
    case .notPossible(let path, let what, let reason), .optionNeeded(let path, let what, let reason, _):
      "\(path): \(what) is not possible: \(reason)"
    case .notMade(let path, let what, let reason): "\(path): no fresh adapter with \(what) is made: \(reason)"
    case .freshTensorTooLarge(let path, let tensor, let shape):
      "\(path): a fresh adapter would hold '\(tensor)' of shape \(shape), far more than the weights that it adapts. Lower the "
        + "sizes in the configuration."
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
    case .conflict(let base, let tensor, let adapters):
      "\(base): tensor '\(tensor)' is changed by the adapters \(list(adapters)), and not by sums alone: what is stored in "
        + "full or multiplies has no sum. Merge one of them, or one into the result of the other if that is meant."
    case .shapeMismatch(let base, let tensor, let found, let expected):
      "\(base): tensor '\(tensor)' has shape \(found); the adapter needs \(expected). "
        + "The adapter was trained on a model of another size."
    case .baseDType(let base, let tensor, let dtype):
      "\(base): tensor '\(tensor)' is \(dtype.rawValue), which cannot be merged into. "
        + "A quantized checkpoint loses the change to rounding: use the 16-bit checkpoint it was made from."
    case .quantizedBase(let base, let method, let module):
      "\(base): is quantized (\(method)), so '\(module)' has no weight that a change could be added to. Merge into the 16-bit "
        + "model that it was made from, and quantize the result again."
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
    case .badAddress(let found, let expected): "\(found): is no model's address; expected \(expected)."
    case .notInCache(let name, let revision, let cache):
      "\(name): no such path, and revision '\(revision)' of that repository is not in the cache \(cache). "
        + "Give a path, or leave HF_HUB_OFFLINE unset."
    case .incompleteInCache(let name, let directory, let missing):
      "\(name): its download was not finished: \(directory) lacks \(list(missing)). "
        + "With HF_HUB_OFFLINE unset the rest is fetched."
    case .hubRefused(let name, let revision, let page, let status, let code, let hasToken):
      "\(name): " + refusal(revision, page, status, code, hasToken)
    case .hubBusy(let name, let reason, let seconds):
      "\(name): cannot be downloaded: \(reason) and asks to wait \(seconds) s. Try again then; what is here is kept."
    case .downloadInterrupted(let name):
      "\(name): the download was interrupted. What is here is kept; the next run goes on from there."
    case .download(let name, let reason): "\(name): cannot be downloaded: \(reason)."
    case .alreadyMerged(let base, let adapter, let weight):
      "\(base): the adapter \(adapter) is merged into it already, with weight \(weight). Merge into the original base."
    case .notMerged(let model, let adapter, let weight, let merged):
      "\(model): the record in its metadata does not say that the adapter \(adapter) was merged into it with weight "
        + "\(weight). "
        + (merged.isEmpty
          ? "By the record no merge is left in it."
          : "By the record it holds: \(merged.map { "\($0.name) with weight \($0.weight)" }.joined(separator: ", ")).")
        + " Give the same adapter file and the same weight."
    case .configChanged(let model, let path):
      "\(path): is not the configuration with which the adapter was merged, by the record in the metadata of \(model). "
        + "Restore it: rank, alpha and patterns decide what is taken out."
    case .overwritten(let model, let adapter, let tensor, let other):
      "\(model): tensor '\(tensor)' no longer holds the change of \(adapter): the later merge of \(other) did not add to "
        + "the tensor but set it anew. Merge the others into the original base instead."
    case .irreversible(let path, let what, let reason):
      "\(path): \(what) cannot be taken out of a merged model: \(reason) Merge into the original base instead."
    case .parts(let error): error.description
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

/// What a hub's refusal means, and what helps.
private func refusal(_ revision: String, _ page: String, _ status: Int, _ code: String, _ hasToken: Bool) -> String {
  if code == "RevisionNotFound" {
    return "the hub has no revision '\(revision)' of it (\(status)). See \(page)/tree/main."
  }
  if code == "EntryNotFound" { return "the hub lists a file that it does not have (\(status)). Try again later." }
  let token =
    hasToken
    ? "The token from HF_TOKEN or `hf auth login` must be valid and of an account that may read it."
    : "No token was sent: set HF_TOKEN, or log in with `hf auth login`."
  if code == "GatedRepo" || (status == 403 && code.isEmpty) {
    return "the hub gives it only to those who accepted its licence (\(status)). Accept it at \(page). " + token
  }
  if status == 401 || status == 403 || status == 404 {
    return "the hub has no such repository, or it is private or gated (\(status)). Check the name. " + token
      + " A gated model's licence is accepted at \(page)."
  }
  return "cannot be downloaded: the hub answers \(status)."
}

extension ForeignAdapter: CustomStringConvertible {
  /// What it is, and what to do with it.
  public var description: String {
    switch self {
    case .adapterHub:
      "an adapter of AdapterHub's library, not of PEFT. Load it there, and merge it with merge_adapter."
    case .diffusers:
      "a LoRA in diffusers' form, not PEFT's. Write it as PEFT's with 'peft-tool convert', or fuse it in diffusers."
    case .gguf:
      "a LoRA in llama.cpp's form, not PEFT's. Write it as PEFT's with 'peft-tool convert'."
    case .kohya:
      "a LoRA in kohya's form, not PEFT's. Write it as PEFT's with 'peft-tool convert', or fuse it in diffusers."
    case .leRobot:
      "belongs to a LeRobot policy. Give the policy's own directory as the base, or merge the adapter in LeRobot."
    case .lycoris:
      "an adapter in LyCORIS's form, not PEFT's. Write it as PEFT's with 'peft-tool convert', or merge it with LyCORIS."
    case .mlx:
      "an adapter of mlx-lm, not of PEFT. Write it as PEFT's with 'peft-tool convert', or merge it with mlx_lm.fuse."
    }
  }
}
