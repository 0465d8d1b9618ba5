internal import TensorFiles
package import TensorMath

extension AdapterMethod {
  /// OFT: W' = W·blockdiag(R)ᵀ with rotations R made from skew-symmetric blocks; of an embedding W' = W·blockdiag(R).
  ///
  /// R is the Cayley transform (I-Q)(I+Q)⁻¹, or its Neumann series as PEFT truncates it.
  /// Source: peft/tuners/oft/layer.py `OFTRotationModule.get_weight`, `_cayley_batch`, `_project_batch`.
  static let oft = AdapterMethod(
    type: PeftType(rawValue: "OFT"),
    defaults: """
      {"bias": "none", "block_share": false, "coft": false, "eps": 6e-05, "exclude_modules": null, \
      "fan_in_fan_out": false, "init_weights": true, "layers_pattern": null, "layers_to_transform": null, \
      "module_dropout": 0.0, "modules_to_save": null, "num_cayley_neumann_terms": 5, "oft_block_size": 32, \
      "r": 0, "target_modules": null, "use_cayley_neumann": true}
      """,
    prefixes: ["oft_"], merging: .rule { module throws(AdapterError) in try OFTRule(module) },
    start: .modules([.linear, .embedding, .convolution], freshOFT))
}

/// Source: peft/tuners/oft/layer.py `OFTLayer.update_layer`, `adjust_oft_parameters`, `reset_oft_parameters`.
private func freshOFT(_ module: FreshModule, _ source: inout FreshSource) throws(AdapterError) -> [FreshTensor] {
  let isEmbedding = module.module.kind == .embedding
  guard module.kernel.isEmpty || module.kernel.count == 2 else {
    throw module.unmade("OFT", "it takes no convolution but of two dimensions.")
  }
  // PEFT takes a kernel to be square.
  let width =
    isEmbedding
    ? module.input : module.kernel.isEmpty ? module.input : module.input * module.kernel[0] * module.kernel[0]
  let (number, size) = (try module.integer("r", 0...1 << 30), try module.integer("oft_block_size", 0...1 << 30))
  guard (number == 0) != (size == 0) else {
    throw module.refuse("oft_block_size", expected: "either r or oft_block_size, the other zero,")
  }
  let block = size != 0 ? divisor(of: width, near: size) : width / divisor(of: width, near: number)
  let count = size != 0 ? width / block : divisor(of: width, near: number)
  let shape = [module.flag("block_share") ? 1 : count, block * (block - 1) / 2]
  let name = isEmbedding ? "oft_embedding_R.weight" : "oft_R.weight"
  if module.setting("init_weights") == .bool(false) { return [try source.normal(name, shape, deviation: 0.1)] }
  return [try source.filled(name, shape)]
}

/// The divisor of a number that lies nearest to another one, the smaller of two.
private func divisor(of width: Int, near wanted: Int) -> Int {
  guard wanted < width else { return width }
  var (above, below) = (wanted, wanted)
  while width % above != 0 { above += 1 }
  while below > 1, width % below != 0 { below -= 1 }
  return wanted - below <= above - wanted ? below : above
}

private struct OFTRule: WeightRule {
  private let skew: StoredTensor
  private let size: Int
  private let isEmbedding: Bool
  /// Terms of the Neumann series; nil for the exact transform.
  private let terms: Int?
  /// The greatest norm of a block; nil if it is free.
  private let bound: Double?

  init(_ module: MethodModule) throws(AdapterError) {
    isEmbedding = module.shape.isEmbedding
    let width = module.shape.input
    let role = isEmbedding ? "oft_embedding_R.weight" : "oft_R.weight"
    guard module.tensors["oft_r"] == nil else {
      throw module.refuse(
        "PEFT 0.16 gave OFT another form, and has not read the earlier one since. Train the adapter again, or merge it "
          + "with PEFT 0.15.")
    }
    skew = try module.tensor(role, "[blocks, b·(b-1)/2]") { $0.count == 2 && $0[0] > 0 }
    // b from b·(b-1)/2 values.
    let values = skew.shape[1]
    let size = Int((1 + Double(1 + 8 * values).squareRoot()) / 2)
    if let error = module.groupedConvolution(found: size * skew.shape[0], expected: width) { throw error }
    guard size * (size - 1) / 2 == values, width % size == 0, skew.shape[0] == 1 || skew.shape[0] * size == width else {
      throw .methodShape(
        path: module.file.path, tensor: skew.entry.name, found: skew.shape, expected: [],
        form: "[blocks, b·(b-1)/2] with blocks·b = \(width)")
    }
    self.size = size
    guard !module.flag("use_cayley_neumann") || !module.config.precedes(0, 18) else {
      throw module.refuse(
        "PEFT 0.18 changed what use_cayley_neumann computes, and refuses earlier adapters. Train it again, or merge it "
          + "with PEFT 0.17.")
    }
    terms = module.flag("use_cayley_neumann") ? try module.integer("num_cayley_neumann_terms", 0...1000) : nil
    bound = module.flag("coft") ? try module.number("eps") / Double(skew.shape[0]).squareRoot() : nil
  }

  func makeChange<Scalar: FactorElement>(scale: Scalar) throws(TensorFileError) -> RowChange<Scalar> {
    let values = try skew.values(Double.self)
    let count = skew.shape[1]
    var blocks: [Matrix<Scalar>] = []
    for index in 0..<skew.shape[0] {
      guard let rotation = rotation(Array(values[index * count..<(index + 1) * count])) else {
        throw .notDecomposable(path: skew.file.path, tensor: skew.entry.name)
      }
      blocks.append(Matrix(rows: size, columns: size, values: rotation.values.map { Scalar($0) }))
    }
    let isTransposed = !isEmbedding
    return { _, block in block.multiplyColumns(byBlocks: blocks, transposed: isTransposed) }
  }

  private func rotation(_ upper: [Double]) -> Matrix<Double>? {
    var q = Matrix<Double>(rows: size, columns: size)
    var next = 0
    for row in 0..<size {
      for column in row + 1..<max(size, row + 1) {
        q[row, column] = upper[next]
        q[column, row] = -upper[next]
        next += 1
      }
    }
    if let bound {
      let norm = q.values.reduce(0) { $0 + $1 * $1 }.squareRoot()
      if norm > bound { q.values = q.values.map { $0 * bound / norm } }
    }
    return terms.map { Rotations.series(q, terms: $0) } ?? Rotations.cayley(q)
  }
}

/// Rotations from skew-symmetric matrices.
package enum Rotations {
  /// What each power of Q is multiplied by in the cut series, from the first on. Source: `_cayley_batch`, which adds the last once.
  package static func seriesFactors(terms: Int) -> [Double] {
    guard terms > 1 else { return [] }
    guard terms > 2 else { return [2] }
    let last = max(3, terms - 1)
    return (1...last).map { $0 == last ? 1 : 2 }
  }

  /// I + 2Q + 2Q² + …, the Neumann series of the Cayley transform as PEFT cuts it.
  package static func series(_ q: Matrix<Double>, terms: Int) -> Matrix<Double> {
    var sum = Matrix<Double>.identity(q.rows)
    var power = sum
    for factor in seriesFactors(terms: terms) {
      power = power.times(q)
      sum.add(power, scale: factor)
    }
    return sum
  }

  /// (I-Q)·(I+Q)⁻¹; nil if an element is not finite.
  package static func cayley(_ q: Matrix<Double>) -> Matrix<Double>? {
    var plus = Matrix<Double>.identity(q.rows)
    var minus = plus
    plus.add(q, scale: 1)
    minus.add(q, scale: -1)
    return Decompositions.solve(plus.transposed, minus.transposed)?.transposed
  }
}
