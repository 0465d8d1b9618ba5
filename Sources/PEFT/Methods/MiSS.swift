internal import TensorFiles
internal import TensorMath

extension AdapterMethod {
  /// MiSS: W'[o,i] = W[o,i] + M[i mod r, o]; "mini" repeats fewer columns of M, and "bat" adds
  /// W_block·M + M to blocks of r by r.
  ///
  /// Source: peft/tuners/miss/layer.py `get_delta_weight_miss`, `get_delta_weight`.
  static let miss = AdapterMethod(
    type: PeftType(rawValue: "MISS"),
    defaults: """
      {"bias": "none", "exclude_modules": null, "init_weights": true, "layers_pattern": null, \
      "layers_to_transform": null, "mini_r": 1, "miss_dropout": 0.0, "modules_to_save": null, "r": 64, \
      "target_modules": null}
      """,
    prefixes: ["miss_"], merging: .rule { module throws(AdapterError) in try MiSSRule(module, "miss_block") },
    start: .modules([.linear], freshMiSS),
    storedShape: { $0.blocks("miss_block") })

  /// MiSS under its first name, with which PEFT 0.14 to 0.17 wrote it. PEFT 0.21.2 does not load it; the numbers are the same.
  static let bone = AdapterMethod(
    type: PeftType(rawValue: "BONE"),
    defaults: """
      {"bias": "none", "exclude_modules": null, "init_weights": true, "layers_pattern": null, \
      "layers_to_transform": null, "modules_to_save": null, "r": 64, "target_modules": null}
      """,
    prefixes: ["bone_"], merging: .rule { module throws(AdapterError) in try MiSSRule(module, "bone_block") },
    storedShape: { $0.blocks("bone_block") },
    successor: PeftType(rawValue: "MISS"))
}

extension StoredModule {
  /// The shape that M tells.
  fileprivate func blocks(_ role: String) -> StoredShape {
    guard shape(role)?.count == 3 else { return matrix(extent(role, 1), nil, guess: extent(role, 0) ?? 1) }
    return matrix(checkedProduct(extent(role, 0), extent(role, 1)), nil, guess: extent(role, 1) ?? 1)
  }
}

/// Source: peft/tuners/miss/layer.py `MissLayer.update_layer`.
private func freshMiSS(_ module: FreshModule, _ source: inout FreshSource) throws(AdapterError) -> [FreshTensor] {
  let rank = try module.rank()
  guard rank <= module.input else { throw module.refuse("r", expected: "a whole number up to \(module.input)") }
  switch module.setting("init_weights") {
  case .string("bat"):
    guard module.input % rank == 0, module.output % rank == 0 else {
      throw module.refuse("r", expected: "a divisor of \(module.input) and \(module.output)")
    }
    return [try source.filled("miss_block", [module.output / rank, rank, rank])]
  case .string("mini"):
    let columns = try module.integer("mini_r", 1...1 << 30)
    guard module.output % columns == 0 else {
      throw module.refuse("mini_r", expected: "a divisor of \(module.output)")
    }
    return [try source.filled("miss_block", [rank, columns])]
  default:
    guard module.startsNeutral() else {
      return [try source.uniform("miss_block", [rank, module.output], fanIn: module.output)]
    }
    return [try source.filled("miss_block", [rank, module.output])]
  }
}

private struct MiSSRule: FactoredRule {
  private let blocks: StoredTensor
  private let isBat: Bool
  private let output: Int
  private let input: Int

  init(_ module: MethodModule, _ name: String) throws(AdapterError) {
    let shape = module.shape
    (output, input) = (shape.output, shape.input)
    isBat = module.setting("init_weights") == .string("bat")
    if isBat {
      blocks = try module.tensor(name, "[out / r, r, r]") {
        $0.count == 3 && $0[1] == $0[2] && $0[1] > 0 && shape.output == $0[0] * $0[1] && shape.input % $0[1] == 0
      }
    } else {
      blocks = try module.tensor(name, "[r, \(shape.output)], or fewer columns that divide them") {
        $0.count == 2 && $0[0] > 0 && $0[1] > 0 && shape.output % $0[1] == 0
      }
    }
  }

  var needsWholeWeight: Bool { isBat }
  var isAdditive: Bool { !isBat }

  /// Input i reads rank i mod r. "bat" depends on the weight.
  func changeFactors() throws(TensorFileError) -> (left: Matrix<Double>, right: Matrix<Double>)? {
    guard !isBat else { return nil }
    let values = try blocks.values(Double.self)
    let (rank, width) = (blocks.shape[0], blocks.shape[1])
    var left = Matrix<Double>(rows: output, columns: rank)
    for row in 0..<output { for k in 0..<rank { left[row, k] = values[k * width + row % width] } }
    var right = Matrix<Double>(rows: rank, columns: input)
    for column in 0..<input { right[column % rank, column] = 1 }
    return (left, right)
  }

  func makeChange<Scalar: FactorElement>(scale: Scalar) throws(TensorFileError) -> RowChange<Scalar> {
    let values = try blocks.values(Scalar.self)
    if isBat {
      let size = blocks.shape[1]
      return { _, weight in
        let original = weight
        for row in 0..<weight.rows {
          let block = row / size * size * size
          for first in stride(from: 0, to: weight.columns, by: size) {
            for column in 0..<size {
              var sum = values[block + row % size * size + column]
              for k in 0..<size { sum += original[row, first + k] * values[block + k * size + column] }
              weight[row, first + column] += sum
            }
          }
        }
      }
    }
    let (rank, width) = (blocks.shape[0], blocks.shape[1])
    return { rows, block in
      for row in rows {
        for column in 0..<block.columns {
          block[row - rows.lowerBound, column] += scale * values[column % rank * width + row % width]
        }
      }
    }
  }
}
