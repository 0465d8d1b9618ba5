internal import Numerics
internal import TensorFiles

/// Makes a fresh LoRA adapter for a base: A random, B zero, so that it changes nothing yet.
public struct AdapterInitializer: Sendable {
  /// The configuration as it will be written: targets expanded, base named, inference mode set.
  public let config: PeftConfig
  /// The modules that get an adapter, and their ranks.
  public let modules: [(path: String, input: Int, output: Int, rank: Int)]
  /// Names in the adapter and tensors of the base of modules that are stored in full.
  private let saved: [(name: String, location: Checkpoint.Location)]
  private let targets: [BaseModel.Module]
  private let base: BaseModel
  private let seed: UInt64

  /// Matches the configuration's targets against the base.
  ///
  /// - Parameter configPath: names the configuration in errors.
  /// - Parameter seed: the same seed, base and configuration give the same bytes.
  /// Throws `.unsupported` for a variant or method that is not made, `.nothingTargeted`, `.targetNotLinear`, and what
  /// `LoRAScaling` throws.
  public init(
    base: BaseModel, config: PeftConfig, configPath: String, seed: UInt64
  ) throws(AdapterError) {
    try LoRAVariants.refuse(config, path: configPath)
    guard config.trainableTokenIndices.isEmptyOrFalse else {
      throw .unsupported(
        path: configPath, what: "trainable_token_indices", reason: "rows to start from are not written.")
    }
    guard !config.useDoRA || config.initLoRAWeights != .bool(false) else {
      throw .unsupported(
        path: configPath, what: "use_dora with init_lora_weights false",
        reason: "magnitudes are those of the base weight, which needs lora_B to be zero.")
    }
    guard config.initLoRAWeights.boolValue != nil || config.initLoRAWeights == .null else {
      throw .unsupported(
        path: configPath, what: "init_lora_weights \(config.initLoRAWeights.compactText)",
        reason: "only true and false are drawn here.")
    }
    var expanded = try base.expandingTargets(of: config)
    let targets = try base.linearTargets(of: expanded)
    let scaling = try LoRAScaling(expanded, path: configPath)
    var modules: [(String, Int, Int, Int)] = []
    for target in targets {
      let rank = try scaling.values(for: target.path).rank
      modules.append((target.path, target.inFeatures, target.outFeatures, rank))
    }
    var saved: [(name: String, location: Checkpoint.Location)] = []
    if !config.savedModuleNames.isEmpty {
      expanded.modulesToSave = config.savedModuleNames
      saved = try Self.savedTensors(base, config, configPath: configPath)
    }
    saved += Self.baseCopies(base, expanded, targets)
    if config.taskType == nil && config.autoMapping == .null { expanded.autoMapping = base.autoMapping }
    expanded.baseModelNameOrPath = config.baseModelNameOrPath ?? base.path
    expanded.inferenceMode = true
    // PEFT corrects the flag to the last layer that it wraps.
    expanded.fanInFanOut = targets.last?.kind == .transposedLinear
    expanded.peftVersion = config.peftVersion ?? PeftConfig.mirroredVersion
    self.saved = saved
    self.config = expanded
    self.modules = modules
    self.targets = targets
    self.base = base
    self.seed = seed
  }

  /// What PEFT stores of the base beside the LoRA: a targeted head's weight, and biases that are trained.
  ///
  /// Source: peft/utils/save_and_load.py `get_peft_model_state_dict`.
  private static func baseCopies(
    _ base: BaseModel, _ config: PeftConfig, _ targets: [BaseModel.Module]
  ) -> [(name: String, location: Checkpoint.Location)] {
    let targeted = Set(exactly: targets.map(\.path))
    var tensors: [(String, Checkpoint.Location)] = []
    for module in base.modules where !config.savesModule(module.path) {
      let isTarget = targeted.contains(module.path)
      let path = Adapter.prefix + module.path + (isTarget ? ".base_layer" : "")
      if isTarget, module.path == "lm_head", config.targetModules?.namesHead == true,
        let weight = base.checkpoint[module.weightName]
      {
        tensors.append(("\(path).weight", weight))
      }
      guard !module.isTiedHead, config.bias == "all" || (config.bias == "lora_only" && isTarget) else { continue }
      let bias = module.weightName.dropLast("weight".count) + "bias"
      if let location = base.checkpoint[String(bias)] { tensors.append(("\(path).bias", location)) }
    }
    return tensors
  }

  /// The parameters of the modules to save, as the base has them.
  private static func savedTensors(
    _ base: BaseModel, _ config: PeftConfig, configPath: String
  ) throws(AdapterError) -> [(name: String, location: Checkpoint.Location)] {
    var tensors: [(String, Checkpoint.Location)] = []
    for module in base.modules where config.savesModule(module.path) {
      let stem = module.weightName.dropLast("weight".count)
      for parameter in ["weight", "bias"] where !(module.isTiedHead && parameter == "bias") {
        guard let location = base.checkpoint[stem + parameter] else { continue }
        tensors.append(("\(Adapter.prefix)\(module.path).\(parameter)", location))
      }
    }
    guard !tensors.isEmpty else {
      throw .unsupported(
        path: configPath, what: "modules_to_save \(config.savedModuleNames.joined(separator: ", "))",
        reason: "the base has no such module to start from. Save the base with its head first.")
    }
    return tensors
  }

  /// Writes adapter_config.json, adapter_model.safetensors (f32) and README.md to `output`, whole or not at all.
  ///
  /// A is kaiming-uniform with a = √5, drawn with torch's generator in the order of `modules`; B is zero, or with
  /// `init_lora_weights` false also kaiming-uniform. Source: peft/tuners/lora/layer.py `reset_lora_parameters`.
  /// Throws `.file`.
  public func write(to output: String, replacing: Bool = false) throws(AdapterError) {
    try asAdapterError { () throws(TensorFileError) in
      let directory = try OutputDirectory(
        target: output, replacing: replacing, inputs: [base.directory ?? base.path])
      do throws(TensorFileError) {
        try writeTensors(directory.path(Adapter.weightsName))
        try File.create(directory.path(PeftConfig.fileName)).write(config.fileText)
        try File.create(directory.path(ModelCard.fileName)).write(ModelCard(config: config, isFresh: true).text)
        try directory.commit(durable: false)
      } catch {
        directory.discard()
        throw error
      }
    }
  }

  private func writeTensors(_ path: String) throws(TensorFileError) {
    var values: [ExactName: [Float]] = [:]
    var items: [SafetensorsLayout.Item] = []
    var generator = TorchGenerator(seed: seed)
    for module in modules {
      let name = Adapter.prefix + module.path
      let (a, b) = ("\(name).lora_A.weight", "\(name).lora_B.weight")
      values[a] = generator.kaimingUniform(count: module.rank * module.input, fanIn: module.input)
      if config.initLoRAWeights == .bool(false) {
        values[b] = generator.kaimingUniform(count: module.output * module.rank, fanIn: module.rank)
      }
      items.append(SafetensorsLayout.Item(name: a, dtype: .f32, shape: [module.rank, module.input]))
      items.append(SafetensorsLayout.Item(name: b, dtype: .f32, shape: [module.output, module.rank]))
    }
    for target in targets {
      let name = Adapter.prefix + target.path
      if config.useDoRA {
        let magnitude = "\(name).lora_magnitude_vector"
        values[magnitude] = try base.outputNorms(target)
        items.append(SafetensorsLayout.Item(name: magnitude, dtype: .f32, shape: [target.outFeatures]))
      }
      if config.loraBias {
        items.append(SafetensorsLayout.Item(name: "\(name).lora_B.bias", dtype: .f32, shape: [target.outFeatures]))
      }
    }
    for tensor in saved {
      let entry = tensor.location.entry
      items.append(SafetensorsLayout.Item(name: tensor.name, dtype: entry.dtype, shape: entry.shape))
    }
    let layout = try SafetensorsLayout(path: path, items: SafetensorsLayout.libraryOrder(items), alignment: .library)
    let file = try layout.create(at: path)
    for entry in layout.entries {
      if let location = saved.first(where: { $0.name.isExactly(entry.name) })?.location {
        let shard = base.checkpoint.shards[location.shard].file
        try file.copy(location.entry.byteRange, from: shard, to: entry.byteRange.lowerBound)
        continue
      }
      let floats = values[entry.name] ?? [Float](repeating: 0, count: entry.elementCount)
      try file.write(floats.span.bytes, at: entry.byteRange.lowerBound)
    }
  }
}

extension BaseModel {
  /// The norm of each output feature's inputs in a linear module's weight: where DoRA's magnitudes start.
  ///
  /// Precision: f64 sums, rounded to f32. Source: peft/tuners/lora/dora.py `DoraLinearLayer.get_weight_norm`.
  fileprivate func outputNorms(_ module: Module) throws(TensorFileError) -> [Float] {
    guard let location = checkpoint[module.weightName], let format = location.entry.dtype.format else { return [] }
    let file = checkpoint.shards[location.shard].file
    let (rows, columns) = (module.shape[0], module.shape[1])
    let isTransposed = module.kind == .transposedLinear
    var squares = [Double](repeating: 0, count: isTransposed ? columns : 0)
    let step = max(1, MergeWork.blockBytes / 4 / max(1, columns))
    for first in stride(from: 0, to: rows, by: step) {
      let count = min(step, rows - first)
      let start = location.entry.byteRange.lowerBound + first * columns * format.byteCount
      let values = Float.decoded(try file.bytes(start..<start + count * columns * format.byteCount), format)
      if isTransposed {
        addSquareSums(values.span, columns: columns, along: .columns, to: &squares)
      } else {
        var sums = [Double](repeating: 0, count: count)
        addSquareSums(values.span, columns: columns, along: .rows, to: &sums)
        squares += sums
      }
    }
    return squares.map { Float($0.squareRoot()) }
  }
}

extension ModuleRule {
  /// PEFT's test for a targeted head: the name among the names, or inside the pattern.
  fileprivate var namesHead: Bool {
    switch self {
    case .names(let names): names.contains("lm_head")
    case .pattern(let pattern): pattern.contains("lm_head")
    }
  }
}
