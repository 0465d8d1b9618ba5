internal import TensorFiles
internal import TensorMath

extension AdapterInitializer {
  /// The tensors of one module's LoRA as PEFT draws them.
  ///
  /// PEFT makes both layers, which draws A, B and B's bias, and then draws again what it starts from; of an embedding that is B.
  /// Precision: f32. Source: peft/tuners/lora/layer.py `LoraLayer.update_layer`,
  /// `Embedding.update_layer`, `_ConvNd.update_layer`, `reset_lora_parameters`.
  func drawn(_ target: Target, _ generator: inout TorchGenerator) -> [FreshTensor] {
    let (rank, input, output) = (target.rank, target.input, target.output)
    let start = Self.initialisation(config) ?? .random
    var (a, b, bias): ([Float], [Float], [Float])
    if target.isEmbedding {
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
    }
    if start != .random {
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
