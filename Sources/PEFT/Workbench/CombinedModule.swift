internal import TensorFiles
internal import TensorMath

/// One module of several adapters.
struct CombinedModule: Sendable {
  /// What one adapter adds.
  struct Term: Sendable {
    let module: CombinedPart
    let file: SafetensorsFile
    /// The adapter's place among those that are combined.
    let input: Int
    let weight: Double
    /// The weight times the module's scale.
    let scale: Double

    /// The factors as they are stored. Traps for a change that is computed.
    var factors: LoRAModule {
      guard let factors = module.factors else { preconditionFailure("factors of a computed change") }
      return factors
    }
  }

  let terms: [Term]

  var path: String { terms[0].module.path }
  var key: String { terms[0].module.key }
  var output: Int { terms[0].module.output }
  var experts: Int { terms[0].module.changes.count }
  /// True if a lora_B has a bias.
  var hasBias: Bool { terms.contains { $0.module.bias != nil } }
  /// The rank of the factors side by side; a term of weight 0 has none where another has one.
  var rank: Int { used.reduce(0) { $0 + $1.module.rank } }

  /// True if a term's change is not one of stored factors.
  var isComputed: Bool { terms.contains { $0.module.factors == nil } }

  /// The terms that change something, or the first.
  var used: [Term] {
    let found = terms.filter { $0.scale != 0 }
    return found.isEmpty ? [terms[0]] : found
  }

  /// The sum as products, one for each expert.
  var changes: [FactoredChange] {
    (0..<experts).map { expert in
      var sum = used[0].module.changes[expert]
      sum.products = used.flatMap { $0.module.changes[expert].products(times: $0.scale) }
      sum.factor = 1
      return sum
    }
  }

  func shapeA(rank: Int) -> [Int] { terms[0].module.shapeA(rank: rank) }
  func shapeB(rank: Int) -> [Int] { terms[0].module.shapeB(rank: rank) }

  /// The tensors' names in a file.
  var names: (a: String, b: String, bias: String) { Self.names(terms[0].module) }

  private static func names(_ module: CombinedPart) -> (a: String, b: String, bias: String) {
    let start = Adapter.prefix + module.path + "."
    let (a, b): (LoRARole, LoRARole) = module.isEmbedding ? (.embeddingA, .embeddingB) : (.a, .b)
    return (start + a.ending, start + b.ending, start + LoRARole.bias.ending)
  }

  /// The bias of the result's lora_B, which is multiplied by `scale` when it is added. Throws `.file`.
  func bias(scale: Double) throws(AdapterError) -> [Double] {
    var sum = [Double](repeating: 0, count: output)
    for term in terms {
      guard let bias = term.module.bias else { continue }
      let values = try bias()
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
            let isA = b == first.shapeB(rank: 1)
            let names = CombinedModule.names(module)
            throw .shapeMismatch(
              base: input.adapter.file.path, tensor: isA ? names.a : names.b,
              found: isA ? module.shapeA(rank: module.rank) : module.shapeB(rank: module.rank),
              expected: isA ? first.shapeA(rank: module.rank) : first.shapeB(rank: module.rank))
          }
        }
        byPath[ExactName(module.path), default: []].append(
          Term(
            module: module, file: input.adapter.file, input: index, weight: input.weight,
            scale: input.weight * module.scale))
      }
    }
    return byPath.values.map(CombinedModule.init).sorted { naturallyPrecedes($0.path, $1.path) }
  }
}
