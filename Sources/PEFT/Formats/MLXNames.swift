/// How modules are called in mlx-lm's models.
enum MLXNames {
  /// GPT-2's and GPT-NeoX's models have other names there than in transformers: by what PEFT's paths begin with.
  private static let prefixes: [(type: String, peft: String, mlx: String)] = [
    ("gpt2", "transformer.", "model."), ("gpt_neox", "gpt_neox.layers.", "model.h."),
    ("gpt_neox", "gpt_neox.", "model."),
    ("gpt_neox", "embed_out", "lm_head"),
  ]

  /// PEFT's path as mlx-lm's.
  static func mlx(_ path: String, _ base: BaseFacts?) -> String {
    for prefix in prefixes where path.hasPrefix(prefix.peft) && isOf(prefix.type, path, base) {
      return prefix.mlx + path.dropFirst(prefix.peft.count)
    }
    return path
  }

  /// mlx-lm's path as PEFT's.
  static func peft(_ path: String) -> String {
    guard path.hasPrefix("model.h.") else { return path }
    let isGPT2 = [".c_attn", ".c_proj", ".c_fc"].contains { path.hasSuffix($0) }
    return (isGPT2 ? "transformer.h." : "gpt_neox.layers.") + path.dropFirst("model.h.".count)
  }

  /// GPT-BigCode has GPT-2's names and keeps them.
  private static func isOf(_ type: String, _ path: String, _ base: BaseFacts?) -> Bool {
    if let base { return base.modelType == type }
    return type != "gpt2" || path.contains(".c_") || path.hasSuffix(".wte")
  }

  /// `keys` and `num_layers` of a configuration: paths within a block where all blocks from one on to the last have the same
  /// modules, otherwise whole paths, which mlx-lm takes as well.
  static func keys(_ paths: [String], layers: Int?, config: PeftConfig) -> (keys: [String], layers: Int) {
    var blocks: [Int: Set<String>] = [:]
    var others: [String] = []
    for path in paths {
      if let (layer, rest) = block(path) { blocks[layer, default: []].insert(rest) } else { others.append(path) }
    }
    let last = blocks.keys.max() ?? 0
    let total = layers ?? last + 1
    let first = blocks.keys.min() ?? total
    // Without the model, adapters of chosen layers may end before its last.
    let isWhole = layers != nil || (config.layersToTransform == nil && !targetsWholePaths(config))
    let same = Set(blocks.values)
    if isWhole, same.count == 1, last == total - 1, blocks.count == total - first, let keys = same.first {
      return ((Array(keys) + others).sorted(by: naturallyPrecedes), total - first)
    }
    return (paths.sorted(by: naturallyPrecedes), total)
  }

  private static func targetsWholePaths(_ config: PeftConfig) -> Bool {
    guard case .names(let names)? = config.targetModules else { return true }
    return names.contains { block($0) != nil }
  }

  /// The number of a path's block and what follows it.
  static func block(_ path: String) -> (layer: Int, rest: String)? {
    let parts = path.split(separator: ".", omittingEmptySubsequences: false)
    for (index, part) in parts.enumerated().dropFirst() where parts[index - 1] == "layers" || parts[index - 1] == "h" {
      guard let layer = Int(part), layer >= 0, layer < 1 << 20 else { continue }
      return (layer, parts[(index + 1)...].joined(separator: "."))
    }
    return nil
  }
}

/// The names of one expert of a group: `mlp.experts.3.gate_proj` in PEFT's paths, `mlp.switch_mlp.gate_proj` in mlx-lm's.
struct ExpertNames {
  /// Up to `experts` or `switch_mlp`, with the dot.
  private let block: String
  /// gate_proj, up_proj or down_proj.
  let projection: String
  let index: Int
  private let isMixtral: Bool

  private static let mixtral = ["w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"]
  static let projections = ["gate_proj", "up_proj", "down_proj"]

  /// Nil for what is no expert of a group.
  init?(peft path: String) {
    let parts = path.split(separator: ".").map(String.init)
    guard parts.count >= 4, parts[parts.count - 3] == "experts", let index = Int(parts[parts.count - 2]), index >= 0,
      let last = parts.last, let projection = Self.mixtral[last] ?? (Self.projections.contains(last) ? last : nil)
    else { return nil }
    (self.index, self.projection) = (index, projection)
    isMixtral = Self.mixtral[last] != nil
    block = parts.dropLast(3).joined(separator: ".") + "."
  }

  /// Nil for what is no group of experts.
  init?(mlx path: String) {
    let parts = path.split(separator: ".").map(String.init)
    guard parts.count >= 3, parts[parts.count - 2] == "switch_mlp", let last = parts.last,
      Self.projections.contains(last)
    else { return nil }
    self.init(block: parts.dropLast(2).joined(separator: ".") + ".", projection: last)
  }

  /// - Parameter block: the path of the experts' block, with a dot.
  init(block: String, projection: String) {
    self.block = block
    self.projection = projection
    index = 0
    isMixtral = block.hasSuffix("block_sparse_moe.")
  }

  /// PEFT's path of an expert of this group.
  func path(_ index: Int) -> String {
    let last = isMixtral ? Self.mixtral.first { $0.value == projection }?.key ?? projection : projection
    return "\(block)experts.\(index).\(last)"
  }

  var mlx: String { "\(block)switch_mlp.\(projection)" }
  /// The path of the block that holds the experts.
  var blockPath: String { String(block.dropLast()) }
}
