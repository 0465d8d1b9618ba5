internal import TensorFiles
internal import TensorMath

extension AdapterMethod {
  /// (IA)³: learned factors for activations, one an output feature, or one an input of feed-forward layers.
  ///
  /// W' = diag(l)·W and b' = l∘b; feed-forward: W' = W·diag(l). Source: peft/tuners/ia3/layer.py `Linear.merge`, `_ConvNd`.
  static let ia3 = AdapterMethod(
    type: PeftType(rawValue: "IA3"),
    defaults: """
      {"exclude_modules": null, "fan_in_fan_out": false, "feedforward_modules": null, \
      "init_ia3_weights": true, "modules_to_save": null, "target_modules": null}
      """,
    prefixes: ["ia3_"], takesConv1D: true, merging: .rule { module throws(AdapterError) in try IA3Rule(module) },
    start: .modules([.linear, .transposedLinear, .convolution], freshIA3),
    defaultTargets: DefaultTargets.ia3,
    completed: { config, base throws(AdapterError) in
      guard config.settings["feedforward_modules"] == .null else { return }
      guard let names = base.modelType.flatMap(DefaultTargets.ia3FeedForward) else {
        throw .configValue(
          path: PeftConfig.fileName, key: "feedforward_modules",
          expected: "names, as there is no default for the model type '\(base.modelType ?? "unknown")'", found: "null")
      }
      config.settings["feedforward_modules"] = names.json
    })
}

/// Source: peft/tuners/ia3/layer.py `IA3Layer.update_layer`, `_ConvNd.update_layer`.
private func freshIA3(_ module: FreshModule, _ source: inout FreshSource) throws(AdapterError) -> [FreshTensor] {
  let isFeedForward = try MethodModule.isFeedForward(module.config, module.path)
  let count = isFeedForward ? module.input : module.output
  let shape =
    module.kernel.isEmpty ? (isFeedForward ? [1, count] : [count, 1]) : [1, count] + module.kernel.map { _ in 1 }
  let drawn = try source.normal("ia3_l", shape)
  return [module.startsNeutral("init_ia3_weights") ? try source.filled("ia3_l", shape, 1) : drawn]
}

private struct IA3Rule: WeightRule {
  let factors: StoredTensor
  let isFeedForward: Bool
  /// Groups of a convolution.
  private var groups = 1
  private let outputsInGroup: Int

  init(_ module: MethodModule) throws(AdapterError) {
    let shape = module.shape
    // Where the configuration names none, PEFT goes by the model type, as the shape of a linear layer's factors shows.
    isFeedForward =
      module.setting("feedforward_modules") == .null && shape.kernel.isEmpty
      ? module.tensors["ia3_l"]?.shape == [1, shape.input]
      : try MethodModule.isFeedForward(module.config, module.path)
    if shape.kernel.isEmpty {
      factors = try module.tensor("ia3_l", isFeedForward ? [1, shape.input] : [shape.output, 1])
    } else {
      let ones = [Int](repeating: 1, count: shape.kernel.count)
      let channels = shape.channels
      // One factor a channel of the input, of which a group's outputs read their part only.
      let groups =
        isFeedForward ? max(1, (module.tensors["ia3_l"]?.shape.dropFirst().first ?? 0) / max(1, channels)) : 1
      guard shape.output % groups == 0 else {
        throw module.refuse("its \(groups) groups do not divide \(shape.output) outputs.")
      }
      self.groups = groups
      factors = try module.tensor("ia3_l", [1, isFeedForward ? groups * channels : shape.output] + ones)
    }
    outputsInGroup = max(1, shape.output / groups)
  }

  var changesBias: Bool { !isFeedForward }

  func makeChange<Scalar: FactorElement>(scale: Scalar) throws(TensorFileError) -> RowChange<Scalar> {
    let factors = try factors.values(Scalar.self)
    if !isFeedForward {
      return { rows, block in
        for row in rows { block.scaleRow(row - rows.lowerBound, by: factors[row]) }
      }
    }
    let (channels, outputs) = (factors.count / groups, outputsInGroup)
    return { rows, block in
      // A kernel's places share their channel's factor.
      let places = block.columns / channels
      for row in 0..<rows.count {
        let first = (rows.lowerBound + row) / outputs * channels
        for column in 0..<block.columns { block[row, column] *= factors[first + column / places] }
      }
    }
  }

  func changedBias(
    _ bias: [Double], weight: () throws(TensorFileError) -> Matrix<Double>
  ) throws(TensorFileError) -> [Double] {
    zip(bias, try factors.values(Double.self)).map { $0 * $1 }
  }
}

extension MethodModule {
  /// True if `feedforward_modules` names a module. PEFT compares the ends of names, without a dot.
  static func isFeedForward(_ config: PeftConfig, _ path: String) throws(AdapterError) -> Bool {
    let setting = config.settings["feedforward_modules"] ?? .null
    if let pattern = setting.stringValue { return try Pattern(pattern).matchesWhole(path) }
    return (setting.elements ?? []).contains { $0.stringValue.map(path.hasSuffix) ?? false }
  }
}
