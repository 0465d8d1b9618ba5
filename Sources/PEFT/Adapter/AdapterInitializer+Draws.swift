internal import TensorFiles
internal import TensorMath

extension AdapterInitializer {
  /// The tensors of one module's LoRA as PEFT draws them.
  ///
  /// PEFT makes both layers, which draws A, B and B's bias, and then draws again what it starts from; of an embedding that is B.
  /// Precision: f32. Source: peft/tuners/lora/layer.py `LoraLayer.update_layer`,
  /// `Embedding.update_layer`, `_ConvNd.update_layer`, `reset_lora_parameters`.
  ///
  /// Throws `.notMade` for a start that the module cannot have, `.file`.
  func drawn(_ target: Target, _ generator: inout TorchGenerator) throws(AdapterError) -> [FreshTensor] {
    let (rank, input, output) = (target.rank, target.input, target.output)
    let start = Self.initialisation(config) ?? .random
    var (a, b, bias): ([Float], [Float], [Float])
    if target.isEmbedding {
      guard [.random, .uniform, .gaussian].contains(start) else { throw unmade(target, "it takes no embeddings.") }
      a = generator.normal(count: rank * input, mean: 0, deviation: 1)
      b = generator.normal(count: output * rank, mean: 0, deviation: 1)
      if start != .random {
        a = [Float](repeating: 0, count: a.count)
        b = generator.normal(count: output * rank, mean: 0, deviation: 1)
      }
      return [
        FreshTensor(LoRARole.embeddingA.ending, [rank, input], a),
        FreshTensor(LoRARole.embeddingB.ending, [output, rank], b),
      ]
    }
    a = generator.kaimingUniform(count: rank * input, fanIn: input)
    b = generator.kaimingUniform(count: output * rank, fanIn: rank)
    let bound = Float(1 / Double(rank).squareRoot())
    bias = config.loraBias ? generator.uniform(count: output, low: -bound, high: bound) : []
    switch start {
    case .random: break
    case .uniform: a = generator.kaimingUniform(count: rank * input, fanIn: input)
    case .gaussian: a = generator.normal(count: rank * input, mean: 0, deviation: 1 / Double(rank))
    case .orthogonal: (a, b) = try orthogonal(target, &generator)
    case .pissa, .olora, .minor: (a, b) = try decomposed(target, start)
    }
    if [.uniform, .gaussian].contains(start) {
      b = [Float](repeating: 0, count: b.count)
      bias = [Float](repeating: 0, count: bias.count)
    }
    let shapeA = target.kernel.isEmpty ? [rank, input] : [rank, target.module.shape[1]] + target.kernel
    var tensors = [
      FreshTensor(LoRARole.a.ending, shapeA, a),
      FreshTensor(LoRARole.b.ending, [output, rank] + target.kernel.map { _ in 1 }, b),
    ]
    if config.loraBias { tensors.append(FreshTensor(LoRARole.bias.ending, [output], bias)) }
    return tensors
  }

  /// A and B from halves of an orthogonal matrix, whose products with each other vanish.
  ///
  /// Source: peft/tuners/lora/layer.py `LoraLayer.orthogonal_init`.
  private func orthogonal(
    _ target: Target, _ generator: inout TorchGenerator
  ) throws(AdapterError) -> (a: [Float], b: [Float]) {
    let (rank, half) = (target.rank, target.rank / 2)
    func matrix(_ rows: Int, _ columns: Int) -> Matrix<Double> {
      let values = generator.normal(count: rows * columns, mean: 0, deviation: 1)
      return Matrix(rows: rows, columns: columns, values: values.map { Double($0) })
    }
    let square = matrix(rank, rank)
    guard rank % 2 == 0, target.kernel.isEmpty, let q = Decompositions.orthonormalColumns(square) else {
      throw unmade(target, "it takes linear layers and even ranks.")
    }
    let even = Matrix(rows: half, columns: rank, values: (0..<half).flatMap { q.rows(2 * $0..<2 * $0 + 1).values })
    let odd = Matrix(rows: half, columns: rank, values: (0..<half).flatMap { q.rows(2 * $0 + 1..<2 * $0 + 2).values })
    let a = matrix(target.input, half).times(even).transposed
    let b = matrix(half, target.output).transposed.times(odd)
    return (a.values.map { Float($0 / 10) }, b.values.map { Float($0 / 10) })
  }

  /// A and B from the base weight's singular values or its QR decomposition. What they make is taken from the weight when the adapter
  /// is loaded; MiCA makes nothing, A being zero. Source: peft/tuners/lora/layer.py `LoraLayer.pissa_init`, `olora_init`, `mica_init`.
  private func decomposed(
    _ target: Target, _ start: Initialisation
  ) throws(AdapterError) -> (a: [Float], b: [Float]) {
    let rank = target.rank
    let isHalfOrSingle = [.f32, .f16, .bf16].contains(target.dtype)
    let takes = target.module.kind == .linear || (target.isTransposed && start != .olora)
    guard takes, isHalfOrSingle, rank <= min(target.input, target.output) else {
      throw unmade(target, "it takes linear layers of 16 or 32 bits, and ranks that the weight has.")
    }
    let weight = try base.matrix(of: target.module)
    if start != .olora {
      guard let parts = Decompositions.singularValues(weight) else { throw undecomposable(target) }
      if start == .minor {
        let last = parts.u.columns(parts.u.columns - rank..<parts.u.columns)
        return ([Float](repeating: 0, count: rank * target.input), last.values.map { Float($0) })
      }
      let scale = try LoRAScaling(config, path: configPath).values(for: target.path).scale
      let roots = parts.s.prefix(rank).map { ($0 / scale).squareRoot() }
      let a = (0..<rank).flatMap { row in (0..<weight.columns).map { Float(roots[row] * parts.vTransposed[row, $0]) } }
      let b = (0..<weight.rows).flatMap { row in (0..<rank).map { Float(parts.u[row, $0] * roots[$0]) } }
      return (a, b)
    }
    let columns = min(weight.rows, weight.columns)
    guard let q = Decompositions.orthonormalColumns(weight.columns(0..<columns)) else { throw undecomposable(target) }
    let basis = q.columns(0..<rank)
    return (basis.transposed.times(weight).values.map { Float($0) }, basis.values.map { Float($0) })
  }

  private func unmade(_ target: Target, _ reason: String) -> AdapterError {
    .notMade(
      path: configPath, what: "init_lora_weights \(config.initLoRAWeights.compactText) on '\(target.path)'",
      reason: reason)
  }

  private func undecomposable(_ target: Target) -> AdapterError {
    .file(.notDecomposable(path: base.path, tensor: target.module.weightName))
  }

  /// DoRA's magnitudes, which start as the norm of each output feature's inputs in the base's weight.
  ///
  /// Precision: f64 sums. Source: peft/tuners/lora/dora.py `DoraLinearLayer.get_weight_norm`.
  func magnitude(_ target: Target, _ base: BaseModel) throws(TensorFileError) -> FreshTensor {
    let shape = target.kernel.isEmpty ? [target.output] : [1, target.output] + target.kernel.map { _ in 1 }
    return FreshTensor(LoRARole.magnitude.ending, shape, try base.outputNorms(target.module))
  }
}

extension BaseModel {
  /// The norm of each output feature's inputs in a module's weight.
  fileprivate func outputNorms(_ module: Module) throws(TensorFileError) -> [Float] {
    guard let location = checkpoint[module.weightName], let format = location.entry.dtype.format else { return [] }
    let file = checkpoint.shards[location.shard].file
    let (rows, columns) = (module.shape[0], module.shape.dropFirst().reduce(1, *))
    let isTransposed = module.kind == .transposedLinear || module.kind == .embedding
    var squares = [Double](repeating: 0, count: isTransposed ? columns : 0)
    let step = max(1, MergeWork.blockBytes / 4 / max(1, columns))
    for first in stride(from: 0, to: rows, by: step) {
      let count = min(step, rows - first)
      let start = location.entry.byteRange.lowerBound + first * columns * format.byteCount
      let values = Float.decoded(try file.bytes(start..<start + count * columns * format.byteCount), format)
      if isTransposed {
        addSquareSums(values.span, columns: columns, along: .columns, to: &squares)
      } else {
        var sums = [Double](repeating: 0, count: count)
        addSquareSums(values.span, columns: columns, along: .rows, to: &sums)
        squares += sums
      }
    }
    return squares.map { Float($0.squareRoot()) }
  }
}
