internal import TensorFiles
internal import TensorMath

extension AdapterMethod {
  /// WaveFT: ΔW = scaling · inverse wavelet transform of a few coefficients at places that a seed draws.
  ///
  /// Source: peft/tuners/waveft/layer.py `WaveFTLinear.get_delta_weight`, `WaveFTLayer.update_layer`; waverec2d.py
  /// `waverec2d`; constants.py `WAVELET_REDUCTIONS`.
  static let waveFT = AdapterMethod(
    type: PeftType(rawValue: "WAVEFT"),
    defaults: """
      {"bias": "none", "exclude_modules": null, "fan_in_fan_out": false, "init_weights": true, \
      "layers_pattern": null, "layers_to_transform": null, "modules_to_save": null, "n_frequency": 2592, \
      "n_frequency_pattern": {}, "proportional_parameters": false, "random_loc_seed": 777, "scaling": 25.0, \
      "target_modules": null, "use_idwt": true, "wavelet_family": "db1"}
      """,
    prefixes: ["waveft_"], takesConv1D: true, merging: .rule { module throws(AdapterError) in try WaveFTRule(module) },
    start: .modules([.linear, .transposedLinear], freshWaveFT),
    defaultTargets: DefaultTargets.waveFT)
}

/// Source: peft/tuners/waveft/layer.py `WaveFTLayer.update_layer`; model.py `_calculate_proportional_parameters`.
private func freshWaveFT(_ module: FreshModule, _ source: inout FreshSource) throws(AdapterError) -> [FreshTensor] {
  var count: Int
  if module.flag("proportional_parameters") {
    let number = try module.integer("n_frequency", 1...1 << 30)
    let total = module.siblings.reduce(0.0) { $0 + Double($1.outFeatures) * Double($1.inFeatures) }
    let share = Double(module.output * module.input) / total
    count = max(1, Int((share * Double(number * module.siblings.count)).rounded(.toNearestOrEven)))
    guard count <= module.output * module.input else {
      throw module.refuse("n_frequency", expected: "a whole number that leaves at most \(module.output * module.input)")
    }
  } else {
    count = try module.frequencies()
  }
  if module.startsNeutral() { return [try source.filled("waveft_spectrum", [count])] }
  let drawn = try source.normal("waveft_spectrum", [count]).floats
  return [FreshTensor("waveft_spectrum", [count], drawn.map { $0 * 0.01 })]
}

private struct WaveFTRule: WeightRule {
  private let spectrum: StoredTensor
  private let places: [Int]
  private let shape: WeightShape
  private let scale: Double
  /// The low-pass reconstruction filter; nil if coefficients are scattered as they are.
  private let filter: [Double]?
  /// What the transform is larger than the weight by.
  private let padding: Int

  init(_ module: MethodModule) throws(AdapterError) {
    shape = module.shape
    let count = shape.output * shape.input
    spectrum = try module.tensor("waveft_spectrum", "[n]") { $0.count == 1 && $0[0] <= count }
    let seed = try module.integer("random_loc_seed", Int.min...Int.max)
    var generator = TorchGenerator(seed: UInt64(bitPattern: Int64(seed)))
    places = generator.permutation(of: count, first: spectrum.shape[0])
    scale = try module.number("scaling")
    guard module.flag("use_idwt") else {
      filter = nil
      padding = 0
      return
    }
    let name = module.setting("wavelet_family").stringValue ?? "null"
    guard let found = Wavelets.filter(name) else {
      throw .configValue(
        path: module.configPath, key: "wavelet_family", expected: "one of \(Wavelets.names.joined(separator: ", "))",
        found: name)
    }
    filter = found
    // PEFT's table has the filter's length less two, and for coif5 that of a shorter filter than it uses.
    padding = name == "coif5" ? 28 : found.count - 2
  }

  var isAdditive: Bool { true }

  func makeChange<Scalar: FactorElement>(scale weight: Scalar) throws(TensorFileError) -> RowChange<Scalar> {
    let values = try spectrum.values(Double.self)
    var change = Matrix<Double>(rows: shape.output, columns: shape.input)
    if let filter {
      change = transform(values, filter)
    } else {
      for (place, value) in zip(places, values) { change.values[place] = value }
    }
    let factor = scale
    return { rows, block in
      let part = change.rows(rows)
      for index in block.values.indices { block.values[index] += Scalar(part.values[index] * factor) * weight }
    }
  }

  /// Each coefficient spreads the outer product of two filters over a patch: coefficients of the four quadrants are low or
  /// high along rows and columns. What lies outside after cropping is left out.
  private func transform(_ values: [Double], _ low: [Double]) -> Matrix<Double> {
    let length = low.count
    let high = low.indices.map { ($0 % 2 == 0 ? 1 : -1) * low[length - 1 - $0] }
    let (height, width) = (even(shape.output + padding), even(shape.input + padding))
    let (top, left) = ((height - shape.output) / 2, (width - shape.input) / 2)
    let crop = (2 * length - 3) / 2
    // Rows and columns of the transform before the centre is cut out.
    let (tall, wide) = (height - 2 + length - 2 * crop, width - 2 + length - 2 * crop)
    let (startRow, startColumn) = (crop + (tall - shape.output) / 2, crop + (wide - shape.input) / 2)
    var result = Matrix<Double>(rows: shape.output, columns: shape.input)
    for (place, value) in zip(places, values) {
      let (row, column) = (place / shape.input + top, place % shape.input + left)
      let (isLower, isRight) = (row >= height / 2, column >= width / 2)
      // Top right is (hi over rows, lo over columns) in this transform's order of filters, bottom left the reverse.
      let vertical = isRight ? high : low
      let horizontal = isLower ? high : low
      let (firstRow, firstColumn) = (2 * (row % (height / 2)) - startRow, 2 * (column % (width / 2)) - startColumn)
      for i in 0..<length where (0..<shape.output).contains(firstRow + i) {
        for j in 0..<length where (0..<shape.input).contains(firstColumn + j) {
          result[firstRow + i, firstColumn + j] += value * vertical[i] * horizontal[j]
        }
      }
    }
    return result
  }

  private func even(_ count: Int) -> Int { count + count % 2 }
}
