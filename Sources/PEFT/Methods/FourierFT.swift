internal import Glibc
internal import TensorFiles
internal import TensorMath

extension AdapterMethod {
  /// FourierFT: ΔW = scaling · Re(ifft2(F)), F holding a few coefficients at places that a seed draws.
  ///
  /// The transform of n coefficients is a product of rank 2n, as cos(x + y) = cos x·cos y - sin x·sin y.
  /// Source: peft/tuners/fourierft/layer.py `FourierFTLinear.get_delta_weight`, `FourierFTLayer.update_layer`.
  static let fourierFT = AdapterMethod(
    type: PeftType(rawValue: "FOURIERFT"),
    defaults: """
      {"bias": "none", "exclude_modules": null, "fan_in_fan_out": false, "init_weights": false, \
      "layers_pattern": null, "layers_to_transform": null, "modules_to_save": null, "n_frequency": 1000, \
      "n_frequency_pattern": {}, "random_loc_seed": 777, "scaling": 150.0, "target_modules": null}
      """,
    prefixes: ["fourierft_"], takesConv1D: true,
    merging: .rule { module throws(AdapterError) in try FourierFTRule(module) },
    start: .modules([.linear, .transposedLinear], freshFourierFT),
    defaultTargets: DefaultTargets.projectionsOfGPT2)
}

/// Source: peft/tuners/fourierft/layer.py `FourierFTLayer.update_layer`.
private func freshFourierFT(_ module: FreshModule, _ source: inout FreshSource) throws(AdapterError) -> [FreshTensor] {
  let count = try module.frequencies()
  let drawn = try source.normal("fourierft_spectrum", [count])
  return [module.startsNeutral() ? try source.filled("fourierft_spectrum", [count]) : drawn]
}

extension FreshModule {
  /// Coefficients of this module: `n_frequency`, or the value of a pattern.
  func frequencies() throws(AdapterError) -> Int {
    let count = try number("n_frequency", pattern: "n_frequency_pattern")
    guard let count = Int(exactly: count), count > 0, count <= output * input else {
      throw refuse("n_frequency", expected: "a whole number from 1 to \(output * input)")
    }
    return count
  }
}

private struct FourierFTRule: LowRankRule {
  private let spectrum: StoredTensor
  private let places: [Int]
  private let shape: WeightShape
  private let scale: Double

  init(_ module: MethodModule) throws(AdapterError) {
    shape = module.shape
    let count = shape.output * shape.input
    spectrum = try module.tensor("fourierft_spectrum", "[n]") { $0.count == 1 && $0[0] <= count }
    let seed = try module.integer("random_loc_seed", Int.min...Int.max)
    var generator = TorchGenerator(seed: UInt64(bitPattern: Int64(seed)))
    places = generator.permutation(of: count, first: spectrum.shape[0])
    scale = try module.number("scaling")
  }

  func factors<Scalar: FactorElement>(
    _ type: Scalar.Type
  ) throws(TensorFileError) -> (left: Matrix<Scalar>, right: Matrix<Scalar>) {
    let (output, input, count) = (shape.output, shape.input, places.count)
    let values = try spectrum.values(Double.self)
    let factor = scale / Double(output * input)
    let (rowWaves, columnWaves) = (Self.wave(output), Self.wave(input))
    var left = Matrix<Scalar>(rows: output, columns: 2 * count)
    var right = Matrix<Scalar>(rows: 2 * count, columns: input)
    for (index, place) in places.enumerated() {
      let (frequency, other) = (place / input, place % input)
      for row in 0..<output {
        let wave = rowWaves[frequency * row % output]
        left[row, 2 * index] = Scalar(wave.cos * values[index] * factor)
        left[row, 2 * index + 1] = Scalar(-wave.sin * values[index] * factor)
      }
      for column in 0..<input {
        let wave = columnWaves[other * column % input]
        right[2 * index, column] = Scalar(wave.cos)
        right[2 * index + 1, column] = Scalar(wave.sin)
      }
    }
    return (left, right)
  }

  /// One turn in `count` steps.
  private static func wave(_ count: Int) -> [(cos: Double, sin: Double)] {
    (0..<count).map { step in
      let angle = 2 * Double.pi * Double(step) / Double(count)
      return (Glibc.cos(angle), Glibc.sin(angle))
    }
  }
}
