internal import Glibc
internal import TensorFiles
internal import TensorMath

extension AdapterMethod {
  /// VB-LoRA: ΔW = B·A, both composed of a shared bank's vectors, weighted by the softmax of the greatest logits.
  ///
  /// Source: peft/tuners/vblora/layer.py `_get_low_rank_matrix`, `_get_lora_matrices`; peft/utils/save_and_load.py for
  /// `save_only_topk_weights`.
  static let vbLoRA = AdapterMethod(
    type: PeftType(rawValue: "VBLORA"),
    defaults: """
      {"bias": "none", "exclude_modules": null, "fan_in_fan_out": false, "init_logits_std": 0.1, \
      "init_vector_bank_bound": 0.02, "layers_pattern": null, "layers_to_transform": null, \
      "modules_to_save": null, "num_vectors": 256, "r": 4, "save_only_topk_weights": false, \
      "target_modules": null, "topk": 2, "vblora_dropout": 0.0, "vector_length": 256}
      """,
    prefixes: ["vblora_"], takesConv1D: true, merging: .rule { module throws(AdapterError) in try VBLoRARule(module) },
    start: .modules([.linear, .transposedLinear], freshVBLoRA),
    defaultTargets: DefaultTargets.vbLoRA,
    storedShape: { stored in
      let length = stored.sharedShape("vblora_vector_bank")?.last
      return stored.matrix(
        checkedProduct(
          stored.extent("vblora_logits_B", 0) ?? stored.extent("vblora_logits_B_topk_indices", 0), length),
        checkedProduct(
          stored.extent("vblora_logits_A", 1) ?? stored.extent("vblora_logits_A_topk_indices", 1), length))
    })
}

/// The bank is drawn anew with each module; the last stays.
///
/// Source: peft/tuners/vblora/model.py `_init_vblora_vector_bank`; layer.py `VBLoRALayer.update_layer`.
private func freshVBLoRA(_ module: FreshModule, _ source: inout FreshSource) throws(AdapterError) -> [FreshTensor] {
  guard !module.flag("save_only_topk_weights") else {
    throw module.unmade("save_only_topk_weights", "what is left of the logits cannot be trained on.")
  }
  let rank = try module.rank()
  let number = try module.integer("num_vectors", 1...1 << 30)
  let length = try module.integer("vector_length", 1...1 << 30)
  guard module.input % length == 0, module.output % length == 0 else {
    throw module.refuse("vector_length", expected: "a divisor of \(module.input) and \(module.output)")
  }
  let bound = try module.number("init_vector_bank_bound")
  let deviation = try module.number("init_logits_std")
  return [
    try source.uniform("vblora_vector_bank", [number, length], within: bound).shared,
    try source.normal("vblora_logits_A", [rank, module.input / length, number], deviation: deviation),
    try source.normal("vblora_logits_B", [module.output / length, rank, number], deviation: deviation),
  ]
}

private struct VBLoRARule: LowRankRule {
  /// How the pieces of one factor are mixed: for each piece the bank's vectors and their weights.
  private struct Mixture: Sendable {
    /// `[first, second]`: r and pieces of A, pieces and r of B.
    let shape: [Int]
    let vectors: [[Int]]
    let weights: [[Double]]
  }

  private let bank: StoredTensor
  private let a: Mixture
  private let b: Mixture

  init(_ module: MethodModule) throws(AdapterError) {
    bank = try module.sharedTensor("vblora_vector_bank")
    guard bank.shape.count == 2, let length = bank.shape.last, length > 0, module.shape.input % length == 0,
      module.shape.output % length == 0
    else {
      throw .methodShape(
        path: module.file.path, tensor: bank.entry.name, found: bank.shape, expected: [],
        form: "[vectors, length] with a length that divides [\(module.shape.output), \(module.shape.input)]")
    }
    let count = bank.shape[0]
    let stored = module.tensors["vblora_logits_A"] ?? module.tensors["vblora_logits_A_topk_indices"]
    let wide = module.shape.output + module.shape.input
    try module.requireRoom(for: [stored?.shape.first ?? 0, wide], what: "the factors of all ranks")
    a = try Self.mixture(module, "vblora_logits_A", count) { $0.count == 3 && $0[1] == module.shape.input / length }
    let rank = a.shape[0]
    b = try Self.mixture(module, "vblora_logits_B", count) {
      $0.count == 3 && $0[0] == module.shape.output / length && $0[1] == rank
    }
  }

  private static func mixture(
    _ module: MethodModule, _ name: String, _ count: Int, where fits: ([Int]) -> Bool
  ) throws(AdapterError) -> Mixture {
    let form = "[r, pieces, vectors] of A, [pieces, r, vectors] of B"
    if module.tensors[name] != nil {
      let logits = try module.tensor(name, form) { fits($0) && $0[2] == count }
      let top = try module.integer("topk", 1...max(1, count))
      let values = try asAdapterError { () throws(TensorFileError) in try logits.values(Double.self) }
      var (vectors, weights): ([[Int]], [[Double]]) = ([], [])
      for start in stride(from: 0, to: values.count, by: count) {
        let piece = values[start..<start + count]
        let order = (0..<count).sorted { (-piece[start + $0], $0) < (-piece[start + $1], $1) }.prefix(top)
        vectors.append(Array(order))
        weights.append(softmax(order.map { piece[start + $0] }))
      }
      return Mixture(shape: logits.shape, vectors: vectors, weights: weights)
    }
    // Only the greatest were saved: their places, and all weights but the last, which is the rest to one.
    let places = try module.tensor("\(name)_topk_indices", form) { fits($0) && $0[2] > 0 }
    let stored = try module.tensor("\(name)_topk_weights", [places.shape[0], places.shape[1], places.shape[2] - 1])
    let top = places.shape[2]
    let indices = try module.indices(places, in: 0..<count)
    let values = try asAdapterError { () throws(TensorFileError) in try stored.values(Double.self) }
    var (vectors, weights): ([[Int]], [[Double]]) = ([], [])
    for piece in 0..<places.shape[0] * places.shape[1] {
      vectors.append(Array(indices[piece * top..<(piece + 1) * top]))
      let known = Array(values[piece * (top - 1)..<(piece + 1) * (top - 1)])
      weights.append(known + [1 - known.reduce(0, +)])
    }
    return Mixture(shape: places.shape, vectors: vectors, weights: weights)
  }

  private static func softmax(_ values: [Double]) -> [Double] {
    let greatest = values.max() ?? 0
    let powers = values.map { exp($0 - greatest) }
    let sum = powers.reduce(0, +)
    return powers.map { $0 / sum }
  }

  private static func pieces<Scalar: FactorElement>(_ mixture: Mixture, _ bank: Matrix<Double>) -> [[Scalar]] {
    zip(mixture.vectors, mixture.weights).map { vectors, weights in
      (0..<bank.columns).map { place in
        Scalar(zip(vectors, weights).reduce(0) { $0 + $1.1 * bank[$1.0, place] })
      }
    }
  }

  func factors<Scalar: FactorElement>(
    _ type: Scalar.Type
  ) throws(TensorFileError) -> (left: Matrix<Scalar>, right: Matrix<Scalar>) {
    let bank = try bank.matrix(Double.self)
    let (rank, length) = (a.shape[0], bank.columns)
    let right = Matrix<Scalar>(
      rows: rank, columns: a.shape[1] * length, values: Self.pieces(a, bank).flatMap { $0 })
    let parts: [[Scalar]] = Self.pieces(b, bank)
    var left = Matrix<Scalar>(rows: b.shape[0] * length, columns: rank)
    for piece in 0..<b.shape[0] {
      for k in 0..<rank {
        for place in 0..<length { left[piece * length + place, k] = parts[piece * rank + k][place] }
      }
    }
    return (left, right)
  }
}
