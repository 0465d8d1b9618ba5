public import TensorFiles

/// What can be wrong with an adapter, its configuration, or its fit to a base. Each case carries the facts; the wording is
/// in `AdapterError+Description.swift`.
public enum AdapterError: Error, Sendable, Equatable {
  /// A file of tensors, or the file system, failed.
  case file(TensorFileError)

  // Configuration.

  /// Neither adapter_config.json nor a config.json with `peft_type`.
  case configMissing(directory: String)
  /// The configuration is no JSON object.
  case configNotObject(path: String)
  /// A key has a value of the wrong type.
  case configValue(path: String, key: String, expected: String, found: String)
  /// Two keys contradict each other.
  case configContradiction(path: String, reason: String)
  /// A key that this version does not know has a value that may change the numbers.
  case unknownConfigKey(path: String, key: String, value: String)
  /// An adapter in another form than PEFT's.
  case foreignAdapter(path: String, format: ForeignAdapter)
  /// An adapter in another form than PEFT's whose content is not what the form says.
  case foreignContent(path: String, reason: String)
  /// What an adapter has that another form cannot carry.
  case notConvertible(path: String, [ConversionObstacle])
  /// A `peft_type` that PEFT does not have.
  case unknownPeftType(path: String, found: String)

  // Patterns.

  /// A regular expression that Python would refuse too.
  case patternInvalid(pattern: String, offset: Int, reason: String)
  /// A regular expression with Python syntax that has no translation.
  case patternUnsupported(pattern: String, construct: String)
  /// A match took more steps than allowed, or all patterns of a configuration do. The subject is empty where they were made.
  case patternRunaway(pattern: String, subject: String)

  /// A pattern of a configuration's file failed in one of the ways above.
  indirect case configPattern(path: String, AdapterError)

  // The adapter's tensors.

  /// No adapter_model.safetensors.
  case weightsMissing(directory: String, found: [String])
  /// The file of weights holds nothing.
  case noTensors(path: String)
  /// A tensor whose name belongs to no known part of an adapter.
  case tensorUnexpected(path: String, tensor: String)
  /// One of lora_A and lora_B without the other.
  case unpaired(path: String, module: String, present: String)
  /// Two tensors that name the same part of the same module.
  case tensorRepeated(path: String, tensor: String, other: String)
  /// A and B do not fit each other or the configured rank.
  case rankMismatch(path: String, module: String, expectedRank: Int, shapeA: [Int], shapeB: [Int])
  /// An adapter tensor of a dtype that cannot be computed with.
  case adapterDType(path: String, tensor: String, dtype: DType)
  /// A tensor of a module holds infinities or NaNs.
  case adapterNotFinite(path: String, tensor: String, module: String, count: Int, of: Int)
  /// What a module's change is multiplied by is no finite number of the precision that it is computed in.
  case factorNotFinite(path: String, module: String, factor: Double)
  /// A module of another method than LoRA lacks a tensor that the method needs.
  case tensorMissing(path: String, module: String, tensor: String)
  /// A tensor of a method has another shape than its module and configuration need.
  case methodShape(path: String, tensor: String, found: [Int], expected: [[Int]], form: String = "")
  /// A stored index points outside of what it indexes.
  case methodIndex(path: String, tensor: String, limit: Int)
  /// A method or variant that is not merged.
  case unsupported(path: String, what: String, reason: String)
  /// What the workbench cannot make of an adapter, or of several.
  case notPossible(path: String, what: String, reason: String)
  /// The same, of what an option makes possible.
  case optionNeeded(path: String, what: String, reason: String, option: Remedy)
  /// A method or variant of which no fresh adapter is made.
  case notMade(path: String, what: String, reason: String)
  /// A tensor of a fresh adapter would be far larger than the weights that it adapts.
  case freshTensorTooLarge(path: String, tensor: String, shape: [Int])
  /// Parameters that cannot be counted from what is given.
  case uncountable(path: String, what: String, reason: String)
  /// The file holds a module that the configuration does not target.
  case moduleNotTargeted(path: String, module: String, targets: String)

  // The fit to a base.

  /// An adapter module that no base tensor answers to.
  case unmatched(base: String, modules: [String], matched: Int, total: Int, nearest: [String])
  /// An adapter module that several base tensors answer to.
  case ambiguous(base: String, module: String, candidates: [String])
  /// Two adapter modules that resolve to the same base tensor.
  case collision(base: String, tensor: String, modules: [String])
  /// A tensor that two adapters change, at least one of them by more than a sum.
  case conflict(base: String, tensor: String, adapters: [String])
  /// The base tensor does not have the shape that A and B need.
  case shapeMismatch(base: String, tensor: String, found: [Int], expected: [Int])
  /// The base tensor is quantized or otherwise not a float.
  case baseDType(base: String, tensor: String, dtype: DType)
  /// The base is quantized, and has no weight in floating point that the adapter could change.
  case quantizedBase(base: String, method: String, module: String)
  /// The configuration targets modules of the base that the adapter file does not hold.
  case missingFromAdapter(path: String, modules: [String])
  /// The target rule matches nothing in the base.
  case nothingTargeted(base: String, targets: String, candidates: [String], nearest: [String])
  /// The target rule hits a module that cannot carry a LoRA.
  case targetNotLinear(base: String, module: String, shape: [Int])
  /// The base has no config.json where one is needed.
  case baseConfigMissing(base: String, reason: String)
  /// A replaced tensor and its replacement differ in shape.
  case replacementShape(base: String, tensor: String, found: [Int], replacement: [Int])
  /// An address that leads to no model's repository.
  case badAddress(found: String, expected: String)
  /// A repository that is not in the cache, while nothing may be downloaded.
  case notInCache(name: String, revision: String, cache: String)
  /// A repository of which the cache holds only a part, while nothing may be downloaded.
  case incompleteInCache(name: String, directory: String, missing: [String])
  /// The hub does not give a repository: it does not exist, or needs a token, or a licence to be accepted.
  ///
  /// - Parameter code: what the hub itself says it is, such as "GatedRepo"; may be empty.
  case hubRefused(name: String, revision: String, page: String, status: Int, code: String, hasToken: Bool)
  /// The hub asks to come back later than is waited for.
  case hubBusy(name: String, reason: String, seconds: Int)
  /// A download was ended from outside.
  case downloadInterrupted(name: String)
  /// A repository could not be downloaded.
  case download(name: String, reason: String)
  /// The base says that this adapter has been merged into it already.
  case alreadyMerged(base: String, adapter: String, weight: Double)
  /// The model's record of merges does not name this adapter with this weight; `merged` is what it names.
  case notMerged(model: String, adapter: String, weight: Double, merged: [Provenance.Merged])
  /// The adapter was merged with another configuration than it has now.
  case configChanged(model: String, path: String)
  /// A later merge set a tensor to something else than itself and a change.
  case overwritten(model: String, adapter: String, tensor: String, by: String)
  /// What was merged cannot be taken out of the result.
  case irreversible(path: String, what: String, reason: String)
  /// The parts of a merge do not come together.
  case parts(MergePartsError)
  /// A shard size that cannot hold even one tensor's header, or is not a size.
  case shardSize(found: String)
}

/// Runs `body`, naming the configuration in the errors of its patterns.
func locatingPatterns<Value>(
  in path: String, _ body: () throws(AdapterError) -> Value
) throws(AdapterError) -> Value {
  do throws(AdapterError) {
    return try body()
  } catch {
    switch error {
    case .patternInvalid, .patternUnsupported, .patternRunaway: throw .configPattern(path: path, error)
    default: throw error
    }
  }
}

/// Runs `body`, turning file errors into adapter errors.
func asAdapterError<Value>(_ body: () throws(TensorFileError) -> Value) throws(AdapterError) -> Value {
  do throws(TensorFileError) {
    return try body()
  } catch {
    throw .file(error)
  }
}
