internal import TensorFiles
internal import TensorMath

/// One module of several adapters.
struct CombinedModule: Sendable {
  /// What one adapter adds.
  struct Term: Sendable {
    let module: LoRAModule
    let file: SafetensorsFile
    /// The adapter's place among those that are combined.
    let input: Int
    let weight: Double
    /// The weight times the module's scale.
    let scale: Double
  }

  let terms: [Term]

  var path: String { terms[0].module.path }
  var key: String { terms[0].module.key }
  var output: Int { terms[0].module.b.shape[0] }
  var experts: Int { terms[0].module.experts }
  /// True if a lora_B has a bias.
  var hasBias: Bool { terms.contains { $0.module.bias != nil } }
  /// The rank of the factors side by side; a term of weight 0 has none where another has one.
  var rank: Int { used.reduce(0) { $0 + $1.module.values.rank } }

  /// The terms that change something, or the first.
  var used: [Term] {
    let found = terms.filter { $0.scale != 0 }
    return found.isEmpty ? [terms[0]] : found
  }

  /// The sum as products, one for each expert.
  var changes: [FactoredChange] {
    (0..<experts).map { expert in
      var sum = used[0].module.changes[expert]
      sum.products = used.flatMap { term in
        term.module.changes[expert].products.map { product in
          guard case .stored(let factors) = product else { return product }
          return .stored(
            LoRAUpdate.Term(left: factors.left, right: factors.right, scale: factors.scale * term.scale))
        }
      }
      return sum
    }
  }

  func shapeA(rank: Int) -> [Int] { terms[0].module.shapeA(rank: rank) }
  func shapeB(rank: Int) -> [Int] { terms[0].module.shapeB(rank: rank) }

  /// The tensors' names in a file.
  var names: (a: String, b: String, bias: String) {
    let start = Adapter.prefix + path + "."
    let (a, b): (LoRARole, LoRARole) = terms[0].module.isEmbedding ? (.embeddingA, .embeddingB) : (.a, .b)
    return (start + a.ending, start + b.ending, start + LoRARole.bias.ending)
  }

  /// The bias of the result's lora_B, which is multiplied by `scale` when it is added. Throws `.file`.
  func bias(scale: Double) throws(AdapterError) -> [Double] {
    var sum = [Double](repeating: 0, count: output)
    for term in terms {
      guard let entry = term.module.bias else { continue }
      let values = try asAdapterError { () throws(TensorFileError) in
        try StoredTensor(file: term.file.file, entry: entry).values(Double.self)
      }
      for (index, value) in values.prefix(output).enumerated() { sum[index] += term.scale / scale * value }
    }
    return sum
  }

  /// The modules of all adapters, each once, in natural order.
  ///
  /// Throws `.shapeMismatch` where two adapters' factors belong to different weights.
  static func all(of inputs: [AdapterCombination.Input]) throws(AdapterError) -> [CombinedModule] {
    var byPath: [ExactName: [Term]] = [:]
    for (index, input) in inputs.enumerated() {
      for module in input.modules {
        if let first = byPath[ExactName(module.path)]?.first?.module {
          let (a, b) = (module.shapeA(rank: 1), module.shapeB(rank: 1))
          guard a == first.shapeA(rank: 1), b == first.shapeB(rank: 1), module.isEmbedding == first.isEmbedding else {
            let differs = b == first.shapeB(rank: 1) ? module.a : module.b
            throw .shapeMismatch(
              base: input.adapter.file.path, tensor: differs.name, found: differs.shape,
              expected: b == first.shapeB(rank: 1)
                ? first.shapeA(rank: module.values.rank) : first.shapeB(rank: module.values.rank))
          }
        }
        byPath[ExactName(module.path), default: []].append(
          Term(
            module: module, file: input.adapter.file, input: index, weight: input.weight,
            scale: input.weight * module.values.scale))
      }
    }
    return byPath.values.map(CombinedModule.init).sorted { naturallyPrecedes($0.path, $1.path) }
  }
}
