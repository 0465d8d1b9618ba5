internal import TensorFiles

extension BaseModel {
  /// The base with its layers stacked anew, each copy with tensors of its own: what `layer_replication` describes.
  ///
  /// PEFT lets the copies share their weights, so that its merge adds the changes of all copies to one tensor; here each
  /// copy gets its own, which is what the model computes while the adapter is apart.
  /// - Parameter setting: `[[first, end], …]`, ends exclusive.
  /// Source: peft/tuners/tuners_utils.py `replicate_layers`.
  /// Throws `.configValue` for a setting that is no list of ranges of the base's layers, `.unsupported` if the base has
  /// no single stack of layers.
  func replicatingLayers(
    _ setting: JSONValue, configPath: String, taskType: String?
  ) throws(AdapterError) -> BaseModel {
    let stack = try layerStack(configPath)
    var order: [Int] = []
    var copies = 0
    for range in setting.elements ?? [] {
      let ends = (range.elements ?? []).compactMap(\.integerValue)
      guard ends.count == 2, ends[0] >= 0, ends[0] < ends[1], ends[1] <= stack.count else {
        throw .configValue(
          path: configPath, key: "layer_replication", expected: "ranges of the base's \(stack.count) layers",
          found: range.compactText)
      }
      for layer in ends[0]..<ends[1] {
        // A number without a tensor takes a place all the same.
        copies += max(1, stack.tensorCounts[layer] ?? 0)
        guard copies <= Self.copyLimit else {
          throw .configValue(
            path: configPath, key: "layer_replication", expected: "fewer layers, of fewer tensors",
            found: range.compactText)
        }
        order.append(layer)
      }
    }
    guard !order.isEmpty else {
      throw .configValue(
        path: configPath, key: "layer_replication", expected: "a list of ranges", found: setting.compactText)
    }
    let places = Dictionary(grouping: order.indices) { order[$0] }
    let prefix = "\(stack.prefix)."
    let replicated = checkpoint.renamed { name in
      guard name.hasPrefix(prefix) else { return [name] }
      let rest = name.dropFirst(prefix.count)
      guard let dot = rest.firstIndex(of: "."), let layer = Self.layerNumber(rest[..<dot]) else { return [name] }
      return (places[layer] ?? []).map { "\(prefix)\($0)\(rest[dot...])" }
    }
    return try BaseModel(
      path: path, directory: directory, checkpoint: replicated, config: config.map { Self.config($0, order) },
      taskType: taskType)
  }

  /// Tensors of all copies that are planned for.
  private static let copyLimit = 1 << 20

  /// The number that a part of a name spells as torch does, without sign and leading zeros; nil for one that no model reaches.
  private static func layerNumber(_ part: Substring) -> Int? {
    guard let number = Int(part), (0..<1 << 20).contains(number), part.isExactly(String(number)) else { return nil }
    return number
  }

  private func layerStack(_ configPath: String) throws(AdapterError) -> (
    prefix: String, count: Int, tensorCounts: [Int: Int]
  ) {
    var counts: [ExactName: Int] = [:]
    var tensorCounts: [Int: Int] = [:]
    for name in checkpoint.names {
      let parts = name.parts()
      guard let index = parts.indices.dropLast().first(where: { Self.layerNumber(parts[$0 + 1]) != nil }),
        ["layers", "layer", "h"].contains(parts[index]), let layer = Self.layerNumber(parts[index + 1])
      else { continue }
      let prefix = parts[...index].joined(separator: ".")
      counts[prefix] = max(counts[prefix] ?? 0, layer + 1)
      tensorCounts[layer, default: 0] += 1
    }
    guard counts.count == 1, let stack = counts.first else {
      throw .unsupported(
        path: configPath, what: "layer_replication",
        reason: "the base has \(counts.count) stacks of layers; expected one.")
    }
    return (stack.key.text, stack.value, tensorCounts)
  }

  private static func config(_ config: JSONValue, _ order: [Int]) -> JSONValue {
    guard config.members != nil else { return config }
    var config = config
    for key in ["num_hidden_layers", "n_layer", "n_layers", "num_layers"] where config[key]?.integerValue != nil {
      config[key] = .integer(order.count)
    }
    if let types = config["layer_types"]?.elements, order.allSatisfy({ $0 < types.count }) {
      config["layer_types"] = .array(order.map { types[$0] })
    }
    return config
  }
}
