internal import TensorFiles
internal import TensorMath

extension AdapterMethod {
  /// HiRA: W' = W + W∘(B·A). Source: peft/tuners/hira/layer.py `Linear.merge`, `Embedding`, `_ConvNd.get_delta_weight`.
  static let hiRA = AdapterMethod(
    type: PeftType(rawValue: "HIRA"),
    defaults: """
      {"exclude_modules": null, "fan_in_fan_out": false, "hira_dropout": 0.0, "init_weights": true, \
      "layers_pattern": null, "layers_to_transform": null, "modules_to_save": null, "r": 32, \
      "rank_pattern": {}, "target_modules": null}
      """,
    prefixes: ["hira_"], takesConv1D: true, keepsFanInFanOut: false,
    merging: .rule { module throws(AdapterError) in try HiRARule(module) },
    start: .modules([.linear, .transposedLinear, .embedding, .convolution], freshHiRA))
}

/// Source: peft/tuners/hira/layer.py `HiraLayer.update_layer`, `reset_hira_parameters`, `Embedding`, `_ConvNd`.
private func freshHiRA(_ module: FreshModule, _ source: inout FreshSource) throws(AdapterError) -> [FreshTensor] {
  // PEFT 0.21.2 does not look at rank_pattern when it makes layers.
  let rank = try module.rank()
  let isEmbedding = module.module.kind == .embedding
  let names = isEmbedding ? ("hira_embedding_A", "hira_embedding_B") : ("hira_A", "hira_B")
  // Of an embedding the factors are those of the transposed table.
  let (input, output) = isEmbedding ? (module.output, module.input) : (module.input, module.output)
  let (shapeA, shapeB) = ([rank, input] + module.kernel, [output, rank] + module.kernel.map { _ in 1 })
  var a = try source.normal(names.0, shapeA)
  var b = try source.normal(names.1, shapeB)
  let start = module.setting("init_weights")
  guard start != .bool(false), start != .null else { return [a, b] }
  if isEmbedding {
    a = try source.filled(names.0, shapeA)
    b = try source.normal(names.1, shapeB)
    return [a, b]
  }
  switch start {
  case .bool(true): a = try source.uniform(names.0, shapeA, fanIn: module.fullInput)
  case .string(let name) where name.lowercased() == "gaussian":
    a = try source.normal(names.0, shapeA, deviation: 1 / Double(rank))
  default: throw module.refuse("init_weights", expected: "true, false or gaussian")
  }
  return [a, try source.filled(names.1, shapeB)]
}

private struct HiRARule: WeightRule {
  private let a: StoredTensor
  private let b: StoredTensor

  init(_ module: MethodModule) throws(AdapterError) {
    let shape = module.shape
    let names = shape.isEmbedding ? ("hira_embedding_A", "hira_embedding_B") : ("hira_A", "hira_B")
    a = try module.tensor(names.0, "[r, inputs] of \(shape.input) in all") {
      $0.count >= 2 && $0[0] > 0 && $0.dropFirst().reduce(1, *) == shape.input
    }
    b = try module.tensor(names.1, [shape.output, a.shape[0]] + shape.kernel.map { _ in 1 })
  }

  func makeChange<Scalar: FactorElement>(scale: Scalar) throws(TensorFileError) -> RowChange<Scalar> {
    let a = try a.matrix(rows: a.shape[0], Scalar.self)
    let b = try b.matrix(rows: b.shape[0], Scalar.self)
    return { rows, block in block.add(elementwise: block, b.rows(rows).times(a), scale: 1) }
  }
}
