internal import Numerics
internal import TensorFiles

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
    prefixes: ["ia3_"], merging: .rule { module throws(AdapterError) in try IA3Rule(module) })
}

private struct IA3Rule: WeightRule {
  let factors: StoredTensor
  let isFeedForward: Bool

  init(_ module: MethodModule) throws(AdapterError) {
    let shape = module.shape
    isFeedForward = try Self.isFeedForward(module)
    if shape.kernel.isEmpty {
      factors = try module.tensor("ia3_l", isFeedForward ? [1, shape.input] : [shape.output, 1])
    } else {
      let ones = [Int](repeating: 1, count: shape.kernel.count)
      factors = try module.tensor("ia3_l", [1, isFeedForward ? shape.channels : shape.output] + ones)
    }
  }

  /// PEFT compares the ends of names, without a dot.
  private static func isFeedForward(_ module: MethodModule) throws(AdapterError) -> Bool {
    if let pattern = module.setting("feedforward_modules").stringValue {
      return try Pattern(pattern, module.patterns).matchesWhole(module.path)
    }
    return (module.setting("feedforward_modules").elements ?? []).contains {
      $0.stringValue.map(module.path.hasSuffix) ?? false
    }
  }

  var changesBias: Bool { !isFeedForward }

  func makeChange<Scalar: FactorElement>(scale: Scalar) throws(TensorFileError) -> RowChange<Scalar> {
    let factors = try factors.values(Scalar.self)
    if !isFeedForward {
      return { rows, block in
        for row in rows { block.scaleRow(row - rows.lowerBound, by: factors[row]) }
      }
    }
    return { rows, block in
      // A kernel's places share their channel's factor.
      let places = block.columns / factors.count
      for row in 0..<rows.count {
        for column in 0..<block.columns { block[row, column] *= factors[column / places] }
      }
    }
  }

  func changedBias(
    _ bias: [Double], weight: () throws(TensorFileError) -> Matrix<Double>
  ) throws(TensorFileError) -> [Double] {
    zip(bias, try factors.values(Double.self)).map { $0 * $1 }
  }
}
