internal import TensorFiles
internal import TensorMath

/// s·B·A of one LoRA module as its file holds it, without a base: of an expert parameter one product an expert.
struct StoredProduct: Sendable {
  let path: String
  /// True if ΔW is s·B·A whatever the base.
  let isDetermined: Bool
  private let file: OpenFile
  private let a: TensorEntry
  private let b: TensorEntry
  private let scale: Double
  private let experts: Int

  /// All modules of a file whose two factors are there and have one rank.
  ///
  /// Throws what `LoRAScaling.init` throws; `.rankMismatch` for a B with a kernel.
  static func all(
    _ file: SafetensorsFile, _ config: PeftConfig, _ configPath: String
  ) throws(AdapterError) -> [StoredProduct] {
    let scaling = try LoRAScaling(config, path: configPath)
    let isDetermined = config.loraExtra == nil && (try? LoRAVariants.refuse(config, path: configPath)) != nil
    var products: [StoredProduct] = []
    for (name, tensors) in AdapterName.loraModules(in: file) {
      let path = name.text
      guard let a = tensors[.a] ?? tensors[.embeddingA], let b = tensors[.b] ?? tensors[.embeddingB],
        a.shape.count >= 2, b.shape.count >= 2, a.shape[0] == b.shape[1],
        a.elementCount > 0, b.elementCount > 0, a.dtype.isComputable, b.dtype.isComputable
      else { continue }
      // The kernel of B is 1 throughout: what follows its rank has no place in the product.
      guard b.shape.dropFirst(2).allSatisfy({ $0 == 1 }) else {
        throw AdapterError.rankMismatch(
          path: file.path, module: path, expectedRank: a.shape[0], shapeA: a.shape, shapeB: b.shape)
      }
      let values = try scaling.values(ofModule: path, rows: a.shape[0])
      let experts = max(1, a.shape[0] / values.rank)
      guard a.shape[0] % experts == 0 else { continue }
      products.append(
        StoredProduct(
          path: path, isDetermined: isDetermined && tensors[.magnitude] == nil && tensors[.diagonal] == nil,
          file: file.file, a: a, b: b, scale: values.scale, experts: experts))
    }
    return products
  }

  /// The products, the scale in their left factors. Throws `.file`.
  func delta() throws(AdapterError) -> ModuleDelta {
    try asAdapterError { () throws(TensorFileError) in
      let all = a.shape[0]
      let rank = all / experts
      let matrixA: Matrix<Double> = try StoredTensor(file: file, entry: a).matrix(rows: all)
      var stored: Matrix<Double> = try StoredTensor(file: file, entry: b).matrix(rows: b.shape[0])
      for index in stored.values.indices { stored.values[index] *= scale }
      guard experts > 1 else { return ModuleDelta(blocks: [.product(left: stored, right: matrixA)]) }
      return ModuleDelta(
        blocks: (0..<experts).map { expert in
          // B holds the experts interleaved.
          let order = (0..<rank).map { $0 * experts + expert }
          return .product(
            left: stored.selectingColumns(order), right: matrixA.rows(expert * rank..<(expert + 1) * rank))
        })
    }
  }
}
