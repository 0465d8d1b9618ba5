internal import TensorFiles
internal import TensorMath

extension AdapterMethod {
  /// BOFT: W' = diag(s)·(M·Wᵀ)ᵀ, M a product of butterfly factors, each a permuted block-diagonal rotation.
  ///
  /// Source: peft/tuners/boft/layer.py `BOFTLayer.block_butterfly_perm`, `cayley_batch`, `Linear.get_delta_weight`.
  static let boft = AdapterMethod(
    type: PeftType(rawValue: "BOFT"),
    defaults: """
      {"bias": "none", "boft_block_num": 0, "boft_block_size": 4, "boft_dropout": 0.0, \
      "boft_n_butterfly_factor": 1, "exclude_modules": null, "fan_in_fan_out": false, "init_weights": true, \
      "layers_pattern": null, "layers_to_transform": null, "modules_to_save": null, "target_modules": null}
      """,
    prefixes: ["boft_"], merging: .rule { module throws(AdapterError) in try BOFTRule(module) },
    start: .modules([.linear, .convolution], freshBOFT))
}

/// As without the extension for CUDA, which has one butterfly factor whatever the configuration says.
///
/// Source: peft/tuners/boft/layer.py `BOFTLayer.update_layer`, `reset_boft_parameters`, `Conv2d.update_layer`.
private func freshBOFT(_ module: FreshModule, _ source: inout FreshSource) throws(AdapterError) -> [FreshTensor] {
  guard module.kernel.isEmpty || module.kernel.count == 2 else {
    throw module.unmade("BOFT", "it takes no convolution but of two dimensions.")
  }
  let width = module.kernel.isEmpty ? module.input : module.input * module.kernel[0] * module.kernel[0]
  let size = try module.integer("boft_block_size", 0...1 << 30)
  let number = try module.integer("boft_block_num", 0...1 << 30)
  guard (number == 0) != (size == 0) else {
    throw module.refuse("boft_block_size", expected: "either boft_block_size or boft_block_num, the other zero,")
  }
  guard width % max(size, number) == 0 else {
    throw module.refuse(size == 0 ? "boft_block_num" : "boft_block_size", expected: "a divisor of \(width)")
  }
  let block = size == 0 ? width / number : size
  let rotations = [1, width / block, block, block]
  let factors = module.kernel.isEmpty ? [module.output, 1] : [1, module.output]
  if module.setting("init_weights") == .bool(false) {
    return [
      try source.normal("boft_R", rotations, deviation: 0.1),
      try source.normal("boft_s", factors, mean: 1, deviation: 0.1),
    ]
  }
  return [try source.filled("boft_R", rotations), try source.filled("boft_s", factors, 1)]
}

private struct BOFTRule: WeightRule {
  private let rotations: StoredTensor
  private let factors: StoredTensor
  private let width: Int

  init(_ module: MethodModule) throws(AdapterError) {
    let shape = module.shape
    width = shape.input
    rotations = try module.tensor("boft_R", "[factors, blocks, b, b] with blocks·b = \(width)") {
      $0.count == 4 && $0[0] > 0 && $0[2] == $0[3] && $0[2] > 0 && $0[1] == shape.input / $0[2]
        && $0[1] * $0[2] == shape.input
    }
    guard rotations.shape[0] == 1 || (rotations.shape[1] % 2 == 0 && rotations.shape[2] % 2 == 0) else {
      throw module.refuse("several butterfly factors need even numbers of blocks and of rows in a block.")
    }
    factors = try module.tensor("boft_s", [shape.output, 1], [1, shape.output])
  }

  func makeChange<Scalar: FactorElement>(scale: Scalar) throws(TensorFileError) -> RowChange<Scalar> {
    let (count, blocks, size) = (rotations.shape[0], rotations.shape[1], rotations.shape[2])
    let values = try rotations.values(Double.self)
    var steps: [(order: [Int], rotations: [Matrix<Scalar>])] = []
    for step in 0..<count {
      var matrices: [Matrix<Scalar>] = []
      for block in 0..<blocks {
        let start = (step * blocks + block) * size * size
        let stored = Matrix(rows: size, columns: size, values: Array(values[start..<start + size * size]))
        var skew = stored
        skew.add(stored.transposed, scale: -1)
        skew.values = skew.values.map { $0 / 2 }
        guard let rotation = Rotations.cayley(skew) else {
          throw .notDecomposable(path: rotations.file.path, tensor: rotations.entry.name)
        }
        matrices.append(Matrix(rows: size, columns: size, values: rotation.values.map { Scalar($0) }))
      }
      steps.append((order(step, count - 1, blocks: blocks, size: size), matrices))
    }
    let factors = try factors.values(Scalar.self)
    return { rows, block in
      // W·Mᵀ with M = Π P·D·Pᵀ: columns are put in order, rotated by blocks, and put back.
      for (order, rotations) in steps {
        block = block.selectingColumns(order)
        block.multiplyColumns(byBlocks: rotations, transposed: true)
        block = block.selectingColumns(inverse(order))
      }
      for row in rows { block.scaleRow(row - rows.lowerBound, by: factors[row]) }
    }
  }

  /// Where column k of the permuted matrix comes from: Pᵀ's rows.
  private func order(_ step: Int, _ butterflies: Int, blocks: Int, size: Int) -> [Int] {
    guard butterflies > 0 else { return Array(0..<width) }
    let groups = max(1, blocks >> step)
    let half = size / 2
    let length = width / groups
    let count = length / max(1, half)
    var sorted: [Int] = []
    for position in Array(stride(from: 0, to: count, by: 2)) + Array(stride(from: 1, to: count, by: 2)) {
      sorted += position * half..<(position + 1) * half
    }
    let indices = (0..<groups).flatMap { group in sorted.map { group * length + $0 } }
    return inverse(indices)
  }
}

/// The permutation that undoes another.
private func inverse(_ order: [Int]) -> [Int] {
  var result = [Int](repeating: 0, count: order.count)
  for (position, index) in order.enumerated() { result[index] = position }
  return result
}
