internal import TensorFiles
internal import TensorMath

/// llama.cpp's files of a LoRA.
///
/// A tensor's scale is alpha over its own rank; one alpha holds for all.
/// Source: llama.cpp src/llama-adapter.cpp `llama_adapter_lora_init_impl`, convert_lora_to_gguf.py.
enum GGUFDialect {
  static let fileName = "adapter.gguf"
  /// Keys of ours, which llama.cpp reads past: the configuration of PEFT that the adapter had, and what it needs to go back.
  private static let originKey = "peft_tool.peft_config"
  private static let headsKey = "peft_tool.head_count"
  private static let keyValueHeadsKey = "peft_tool.head_count_kv"
  private static let tokensKey = "adapter.alora.invocation_tokens"

  // MARK: Reading

  /// Throws `.foreignContent`, `.file`.
  static func read(_ path: String, base: BaseFacts?) throws(AdapterError) -> CarriedAdapter {
    let file = try asAdapterError { () throws(TensorFileError) in try GGUFFile(path: path) }
    func text(_ key: String) -> String { file[key]?.stringValue ?? "" }
    guard text("general.type") == "adapter", text("adapter.type") == "lora" else {
      throw .foreignContent(
        path: path,
        reason: text("general.architecture") == "controlvector"
          ? "a control vector, which is added to hidden states and is no change of weights"
          : "not a LoRA (general.type '\(text("general.type"))', adapter.type '\(text("adapter.type"))')")
    }
    guard let architecture = GGUFArchitecture.all.first(where: { $0.name == text("general.architecture") }) else {
      throw .foreignContent(
        path: path,
        reason: "architecture '\(text("general.architecture"))'; known are "
          + GGUFArchitecture.all.map(\.name).joined(separator: ", "))
    }
    guard let alpha = file["adapter.lora.alpha"]?.numberValue, alpha.isFinite else {
      throw .foreignContent(path: path, reason: "adapter.lora.alpha is missing or no number")
    }
    guard !file.tensors.isEmpty else { throw .noTensors(path: path) }
    let heads =
      base.flatMap(HeadCounts.init)
      ?? HeadCounts(file[headsKey]?.integerValue, file[keyValueHeadsKey]?.integerValue)
    var config = PeftConfig()
    config.taskType = "CAUSAL_LM"
    config.inferenceMode = true
    config.peftVersion = PeftConfig.mirroredVersion
    if let tokens = file[tokensKey]?.elements {
      config.aloraInvocationTokens = .array(tokens.map { $0.integerValue.map { .integer($0) } ?? .null })
    }
    var modules: [CarriedModule] = []
    for (name, pair) in try pairs(file) {
      guard let place = architecture.module(name, in: base) else {
        throw .foreignContent(path: path, reason: "'\(name)' is no module of \(architecture.name)")
      }
      modules += try read(name, pair, place, alpha, architecture, heads, path: path)
    }
    let adapter = CarriedAdapter(modules, config: config)
    guard let text = file[originKey]?.stringValue, let json = JSONValue(parsing: text),
      let kept = try? PeftConfig(json: json, path: path)
    else { return adapter }
    return adapter.adopting(kept) ?? adapter
  }

  private struct Pair {
    let a: MadeTensor
    let b: MadeTensor
  }

  private static func pairs(_ file: GGUFFile) throws(AdapterError) -> [(String, Pair)] {
    var parts: [ExactName: [Bool: MadeTensor]] = [:]
    for tensor in file.tensors {
      let isA = tensor.name.hasSuffix(".weight.lora_a")
      guard isA || tensor.name.hasSuffix(".weight.lora_b") else {
        throw .foreignContent(path: file.path, reason: "tensor '\(tensor.name)' is no factor of a LoRA")
      }
      guard let made = MadeTensor(tensor, of: file.file) else {
        throw .foreignContent(
          path: file.path, reason: "tensor '\(tensor.name)' is \(tensor.type.name); F32, F16, BF16 and Q8_0 are read")
      }
      parts[ExactName(String(tensor.name.dropLast(".weight.lora_a".count))), default: [:]][isA] = made
    }
    var pairs: [(String, Pair)] = []
    for (name, found) in parts {
      guard let a = found[true], let b = found[false] else {
        throw .unpaired(path: file.path, module: name.text, present: found[true] == nil ? "lora_b" : "lora_a")
      }
      pairs.append((name.text, Pair(a: a, b: b)))
    }
    return pairs
  }

  private static func read(
    _ name: String, _ pair: Pair, _ place: GGUFArchitecture.Named, _ alpha: Double, _ architecture: GGUFArchitecture,
    _ heads: HeadCounts?, path: String
  ) throws(AdapterError) -> [CarriedModule] {
    let (a, b) = (pair.a, pair.b)
    func unfit(_ form: String) -> AdapterError {
      .foreignContent(path: path, reason: "'\(name)' has lora_a \(a.shape) and lora_b \(b.shape); \(form) are needed")
    }
    func effective(_ rank: Int) -> Double { alpha == 0 ? Double(rank) : alpha }
    switch place {
    case .experts(let experts):
      guard a.shape.count == 3, b.shape.count == 3, a.shape[0] == b.shape[0], a.shape[1] == b.shape[2], a.shape[1] > 0
      else { throw unfit("[experts, r, in] and [experts, out, r]") }
      let rank = a.shape[1]
      return (0..<a.shape[0]).map { index in
        CarriedModule(
          path: experts.path(index),
          tensors: [
            LoRARole.a.ending: a.rows(index..<index + 1).reshaped([rank, a.shape[2]]),
            LoRARole.b.ending: b.rows(index..<index + 1).reshaped([b.shape[1], rank]),
          ], rank: rank, alpha: effective(rank))
      }
    case .module(let module) where ModelFamily.namesEmbedding(module):
      guard a.shape.count == 2, b.shape.count == 2, a.shape[1] == b.shape[1], a.shape[1] > 0 else {
        throw unfit("[tokens, r] and [dimensions, r]")
      }
      return [
        CarriedModule(
          path: module, tensors: [LoRARole.embeddingA.ending: a.transposed, LoRARole.embeddingB.ending: b],
          rank: a.shape[1], alpha: effective(a.shape[1]))
      ]
    case .module(let module):
      guard a.shape.count == 2, b.shape.count == 2, a.shape[0] == b.shape[1], a.shape[0] > 0 else {
        throw unfit("[r, in] and [out, r]")
      }
      var restored = b
      if let order = try architecture.rowOrder(name, rows: b.shape[0], heads: heads, path: path) {
        var inverse = order
        for (new, old) in order.enumerated() { inverse[old] = new }
        restored = b.rows(inverse)
      }
      return [
        CarriedModule(
          path: module, tensors: [LoRARole.a.ending: a, LoRARole.b.ending: restored], rank: a.shape[0],
          alpha: effective(a.shape[0]))
      ]
    }
  }

  // MARK: Writing

  private static func architecture(_ base: BaseFacts) -> GGUFArchitecture? {
    GGUFArchitecture.all.first { $0.modelTypes.contains(base.modelType) }
  }

  static func obstacles(_ adapter: CarriedAdapter, base: BaseFacts?) -> [ConversionObstacle] {
    var found = adapter.obstacles(takesMagnitudes: false, takesInvocationTokens: true)
    func add(_ what: String, _ reason: String, _ cure: String = "peft-tool merge BASE ADAPTER OUT") {
      found.append(ConversionObstacle(what: what, reason: reason, cure: cure))
    }
    guard let base else {
      add("the model is not known", "names and the order of rows depend on its config.json", "say it with --base BASE")
      return found
    }
    guard let architecture = architecture(base) else {
      add(
        "model_type '\(base.modelType)'",
        "known here are \(GGUFArchitecture.all.flatMap(\.modelTypes).joined(separator: ", "))")
      return found
    }
    var groups: [String: Set<Int>] = [:]
    for module in adapter.modules {
      guard let name = architecture.name(of: module.path) else {
        add("module '\(module.path)'", "\(architecture.name) has no tensor for it")
        continue
      }
      if let expert = ExpertNames(peft: module.path) { groups[name, default: []].insert(expert.index) }
      if base.isTied, name == "token_embd" || name == "output" {
        add(
          "'\(module.path)' of a tied model",
          name == "output" ? "the file of the model has no such tensor" : "llama.cpp would apply it to the output too")
      }
      if let a = module.a, a.shape.count > 2 { add("the convolution '\(module.path)'", "the form has matrices only") }
      for (_, tensor) in module.tensors where tensor.dtype == .f64 {
        add("F64 in '\(module.path)'", "llama.cpp does not compute with it", "--dtype f32")
        break
      }
      if let rows = module.b?.shape.first {
        do throws(AdapterError) {
          _ = try architecture.rowOrder(name, rows: rows, heads: HeadCounts(base), path: base.path)
        } catch { add("'\(module.path)'", error.description, "give the model that the adapter was trained on") }
      }
    }
    let experts = base.count("num_local_experts", "num_experts")
    for (name, indices) in groups.sorted(by: { naturallyPrecedes($0.key, $1.key) })
    where indices != Set(0..<(experts ?? indices.count)) {
      add(
        "experts of '\(name)'",
        "\(indices.count) of \(experts ?? indices.count) have an adapter, and all are stored as one")
    }
    return found
  }

  /// Traps where `obstacles` is not empty.
  static func output(_ adapter: CarriedAdapter, base: BaseFacts?) throws(AdapterError) -> DialectOutput {
    guard let base, let architecture = architecture(base) else { preconditionFailure("obstacles first") }
    var notes: [String] = []
    var groups: [String: [CarriedModule]] = [:]
    for module in adapter.modules { groups[architecture.name(of: module.path) ?? "", default: []].append(module) }
    // The members of a group of experts have one rank.
    for (name, members) in groups where members.count > 1 {
      let rank = members.map(\.rank).max() ?? 0
      groups[name] = members.map { $0.padded(to: rank) }
    }
    let alphas = groups.values.flatMap { $0 }.map(\.effectiveAlpha)
    let alpha = CarriedAdapter.mostFrequent(alphas.filter { $0 != 0 }.sorted()) ?? 1
    let folded = groups.values.flatMap { $0 }.filter { $0.effectiveAlpha != alpha }
    if !folded.isEmpty {
      let isExact = folded.allSatisfy { ($0.effectiveAlpha / alpha).significand == 1 || $0.effectiveAlpha == 0 }
      notes.append(FoldNote.text(folded.count, isExact: isExact))
    }
    if Double(Float(alpha)) != alpha {
      notes.append("alpha \(alpha) stored in 32 bits, within one unit in the last place")
    }
    let heads = HeadCounts(base)
    var tensors: [NamedTensor] = []
    for (name, members) in groups.sorted(by: { naturallyPrecedes($0.key, $1.key) }) {
      let modules = members.map { $0.effectiveAlpha == alpha ? $0 : $0.folded(to: alpha / Double($0.rank)) }
      guard let first = modules.first, let a = first.a, let b = first.b else { continue }
      let isGroup = ExpertNames(peft: first.path) != nil
      var (madeA, madeB) = (a, b)
      if isGroup {
        let ordered = modules.sorted { naturallyPrecedes($0.path, $1.path) }
        madeA = .stacked(ordered.compactMap(\.a))
        madeB = .stacked(ordered.compactMap(\.b))
      } else if first.isEmbedding {
        madeA = a.transposed
      } else if let order = try architecture.rowOrder(name, rows: b.shape[0], heads: heads, path: base.path) {
        madeB = b.rows(order)
      }
      tensors.append(NamedTensor("\(name).weight.lora_a", madeA))
      tensors.append(NamedTensor("\(name).weight.lora_b", madeB))
    }
    return DialectOutput(
      files: [(fileName, .gguf(tensors, metadata: metadata(adapter, architecture, alpha, heads, tensors)))],
      notes: notes)
  }

  private static func metadata(
    _ adapter: CarriedAdapter, _ architecture: GGUFArchitecture, _ alpha: Double, _ heads: HeadCounts?,
    _ tensors: [NamedTensor]
  ) -> [GGUFFile.Member] {
    var members: [GGUFFile.Member] = [
      .init("general.architecture", .string(architecture.name)), .init("general.type", .string("adapter")),
      .init("adapter.type", .string("lora")), .init("adapter.lora.alpha", .f32(Float(alpha))),
    ]
    if let tokens = adapter.config.aloraInvocationTokens.elements, !tokens.isEmpty {
      members.append(.init(tokensKey, .array(.u32, tokens.map { .u32(UInt32(clamping: $0.integerValue ?? 0)) })))
    }
    // llama.cpp's numbers for files that are f32, mostly f16 or mostly bf16.
    let fileTypes: [DType: UInt32] = [.f32: 0, .f16: 1, .bf16: 32]
    let dtype = CarriedAdapter.mostFrequent(tensors.map(\.tensor.dtype)) ?? .f32
    members.append(.init("general.file_type", .u32(fileTypes[dtype] ?? 0)))
    members.append(.init("general.quantization_version", .u32(2)))
    if let heads, architecture.order != .same {
      members.append(.init(headsKey, .u32(UInt32(heads.query))))
      members.append(.init(keyValueHeadsKey, .u32(UInt32(heads.keyValue))))
    }
    members.append(.init(originKey, .string(adapter.peftConfig.json.compactText)))
    return members
  }
}

extension MadeTensor {
  /// A tensor of a GGUF file; blocks of Q8_0 as f32. Nil for other types with blocks.
  init?(_ tensor: GGUFFile.Tensor, of file: OpenFile) {
    if let dtype = tensor.type.dtype {
      guard dtype.isComputable else { return nil }
      self.init(dtype, tensor.shape) { () throws(AdapterError) in
        try asAdapterError { () throws(TensorFileError) in try file.bytes(tensor.byteRange) }
      }
      return
    }
    guard tensor.type.name == "Q8_0" else { return nil }
    self.init(.f32, tensor.shape) { () throws(AdapterError) in
      let blocks = try asAdapterError { () throws(TensorFileError) in try file.bytes(tensor.byteRange) }
      var scales: [UInt8] = []
      for start in stride(from: 0, to: blocks.count, by: 34) { scales += blocks[start..<start + 2] }
      let factors = Float.decoded(scales, .f16)
      var bytes: [UInt8] = []
      bytes.reserveCapacity(blocks.count / 34 * 128)
      for (block, factor) in factors.enumerated() {
        for byte in blocks[block * 34 + 2..<(block + 1) * 34] {
          let bits = (factor * Float(Int8(bitPattern: byte))).bitPattern
          for shift in stride(from: 0, to: 32, by: 8) { bytes.append(UInt8(truncatingIfNeeded: bits >> shift)) }
        }
      }
      return bytes
    }
  }
}
