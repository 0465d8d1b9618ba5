internal import Glibc
internal import TensorFiles
internal import TensorMath

extension AdapterMethod {
  /// RoAd: pairs of outputs, half a group apart, are rotated and scaled, the bias with them.
  ///
  /// Source: peft/tuners/road/layer.py `_prepare_cols`, `_get_delta_weight`, `Linear.merge`.
  static let roAd = AdapterMethod(
    type: PeftType(rawValue: "ROAD"),
    defaults: """
      {"group_size": 64, "init_weights": true, "modules_to_save": null, "target_modules": null, \
      "variant": "road_1"}
      """,
    prefixes: ["road_"], merging: .rule { module throws(AdapterError) in try RoAdRule(module) },
    start: .modules([.linear], freshRoAd))
}

/// Source: peft/tuners/road/layer.py `RoadLayer.update_layer`, `reset_parameters`.
private func freshRoAd(_ module: FreshModule, _ source: inout FreshSource) throws(AdapterError) -> [FreshTensor] {
  let group = try module.integer("group_size", 1...1 << 30)
  guard module.output % group == 0 else {
    throw module.refuse("group_size", expected: "a divisor of \(module.output)")
  }
  let count: Int
  switch module.setting("variant") {
  case .string("road_1"): count = module.output / 2
  case .string("road_2"): count = module.output
  case .string("road_4"): count = 2 * module.output
  default: throw module.refuse("variant", expected: "road_1, road_2 or road_4")
  }
  if module.setting("init_weights") == .bool(false) {
    return [
      try source.normal("road_theta", [count], deviation: 0.5),
      try source.normal("road_alpha", [count], mean: 1, deviation: 0.5),
    ]
  }
  return [try source.filled("road_theta", [count]), try source.filled("road_alpha", [count], 1)]
}

private struct RoAdRule: WeightRule {
  private let theta: StoredTensor
  private let alpha: StoredTensor
  private let variant: String
  private let group: Int

  init(_ module: MethodModule) throws(AdapterError) {
    variant = module.setting("variant").stringValue ?? "null"
    let output = module.shape.output
    let count: Int
    switch variant {
    case "road_1": count = output / 2
    case "road_2": count = output
    case "road_4": count = 2 * output
    default:
      throw .configValue(
        path: module.configPath, key: "variant", expected: "road_1, road_2 or road_4", found: variant)
    }
    group = try module.integer("group_size", 2...1 << 30)
    guard group % 2 == 0, output % group == 0 else {
      throw module.refuse("group_size \(group) does not divide its \(output) outputs evenly.")
    }
    theta = try module.tensor("road_theta", [count])
    alpha = try module.tensor("road_alpha", [count])
  }

  var needsWholeWeight: Bool { true }
  var changesBias: Bool { true }

  /// Factors of an output itself and of its partner.
  private func coefficients() throws(TensorFileError) -> (own: [Double], other: [Double]) {
    let (theta, alpha) = (try theta.values(Double.self), try alpha.values(Double.self))
    let half = group / 2
    func pair(_ cosIndex: (Int) -> Int, _ sinIndex: (Int) -> Int, _ count: Int) -> (own: [Double], other: [Double]) {
      (
        (0..<count).map { alpha[cosIndex($0)] * cos(theta[cosIndex($0)]) },
        (0..<count).map { alpha[sinIndex($0)] * sin(theta[sinIndex($0)]) }
      )
    }
    switch variant {
    case "road_1":
      let index = { (place: Int) in place / group * half + place % half }
      return pair(index, index, 2 * theta.count)
    case "road_2": return pair({ $0 }, { $0 }, theta.count)
    default:
      return pair(
        { $0 / group * 2 * group + $0 % group }, { $0 / group * 2 * group + group + $0 % group }, theta.count / 2)
    }
  }

  func makeChange<Scalar: FactorElement>(scale: Scalar) throws(TensorFileError) -> RowChange<Scalar> {
    let (own, other) = try coefficients()
    let (group, half) = (group, group / 2)
    return { _, weight in
      let original = weight
      for row in 0..<weight.rows {
        let isFirst = row % group < half
        let partner = isFirst ? row + half : row - half
        let (c, d) = (Scalar(own[row]), Scalar(isFirst ? -other[row] : other[row]))
        for column in 0..<weight.columns {
          weight[row, column] = c * original[row, column] + d * original[partner, column]
        }
      }
    }
  }

  func changedBias(
    _ bias: [Double], weight: () throws(TensorFileError) -> Matrix<Double>
  ) throws(TensorFileError) -> [Double] {
    var column = Matrix(rows: bias.count, columns: 1, values: bias)
    try makeChange(scale: 1)(0..<bias.count, &column)
    return column.values
  }
}
