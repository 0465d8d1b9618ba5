internal import TensorFiles
internal import TensorMath

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
    prefixes: ["oft_"], merging: .rule { module throws(AdapterError) in try OFTRule(module) })
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
    guard let terms else { return Rotations.cayley(q) }
    var r = Matrix<Double>.identity(size)
    guard terms > 1 else { return r }
    r.add(q, scale: 2)
    guard terms > 2 else { return r }
    var power = q.times(q)
    r.add(power, scale: 2)
    for _ in 3..<max(3, terms - 1) {
      power = power.times(q)
      r.add(power, scale: 2)
    }
    r.add(power.times(q), scale: 1)
    return r
  }
}

/// Rotations from skew-symmetric matrices.
enum Rotations {
  /// (I-Q)·(I+Q)⁻¹; nil if an element is not finite.
  static func cayley(_ q: Matrix<Double>) -> Matrix<Double>? {
    var plus = Matrix<Double>.identity(q.rows)
    var minus = plus
    plus.add(q, scale: 1)
    minus.add(q, scale: -1)
    return Decompositions.solve(plus.transposed, minus.transposed)?.transposed
  }
}
