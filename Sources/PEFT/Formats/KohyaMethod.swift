internal import TensorFiles

/// The methods that have forms beside PEFT's, and the names of their tensors there.
enum KohyaMethod: Sendable {
  case lora, loHa, loKr

  /// Nil for all other methods.
  init?(peft type: PeftType) {
    switch type {
    case .lora: self = .lora
    case AdapterMethod.loHa.type: self = .loHa
    case AdapterMethod.loKr.type: self = .loKr
    default: return nil
    }
  }

  var type: PeftType {
    switch self {
    case .lora: .lora
    case .loHa: AdapterMethod.loHa.type
    case .loKr: AdapterMethod.loKr.type
    }
  }

  /// A module's path and what follows it, of a name without `base_model.model.`; nil for a tensor that is no factor.
  func split(_ name: String) -> (path: ExactName, ending: String)? {
    if self == .lora { return LoRARole.split(name).map { (ExactName($0.path), $0.role.ending) } }
    let mark = self == .loHa ? ".hada_" : ".lokr_"
    guard let start = name.lastRange(of: mark) else { return nil }
    return (ExactName(String(name[..<start])), String(name[start...].dropFirst()))
  }
}

extension String {
  /// Where the last occurrence begins.
  fileprivate func lastRange(of part: String) -> Index? {
    var found: Index?
    var rest = self[...]
    while let range = rest.firstRange(of: part) {
      found = range.lowerBound
      rest = rest[range.upperBound...]
    }
    return found
  }
}

extension KohyaMethod {
  /// The method whose tensors these are, by PEFT's names after a module's path.
  init(tensors names: some Sequence<String>) {
    self = names.contains { $0.hasPrefix("hada_") } ? .loHa : names.contains { $0.hasPrefix("lokr_") } ? .loKr : .lora
  }

  /// The settings of LoHa and LoKr that decide how PEFT lays the tensors out.
  ///
  /// Throws `.notConvertible` if no setting gives all modules the shapes that they have.
  static func complete(
    _ config: inout PeftConfig, _ modules: [CarriedModule], path: String
  ) throws(AdapterError) {
    let cores = ["hada_t1", "lokr_t2"]
    config.settings["use_effective_conv2d"] = .bool(
      modules.contains { module in cores.contains { module.tensors[$0] != nil } })
    guard config.peftType == AdapterMethod.loKr.type else { return }
    config.settings["decompose_both"] = .bool(modules.contains { $0.tensors["lokr_w1_a"] != nil })
    var first: [(whole: Int, part: Int)] = []
    for module in modules {
      let w1 = module.tensors["lokr_w1"]?.shape
      let w2 = module.tensors["lokr_w2"]?.shape
      let (rows, columns) = (
        w1?[0] ?? module.tensors["lokr_w1_a"]?.shape[0], w1?[1] ?? module.tensors["lokr_w1_b"]?.shape[1]
      )
      let hasCore = module.tensors["lokr_t2"] != nil
      let others = (
        w2?[0] ?? module.tensors["lokr_w2_a"]?.shape[hasCore ? 1 : 0], w2?[1] ?? module.tensors["lokr_w2_b"]?.shape[1]
      )
      guard let rows, let columns, let output = others.0, let input = others.1 else { continue }
      first.append((rows * output, rows))
      // Of a convolution the second factor without a core has the kernel's places in its columns.
      if w2 != nil || hasCore { first.append((columns * input, columns)) }
    }
    let candidates = [-1] + Set(first.map(\.part)).sorted()
    guard
      let factor = candidates.first(where: { factor in first.allSatisfy { factorization($0.whole, factor) == $0.part } }
      )
    else {
      throw .notConvertible(
        path: path,
        [
          ConversionObstacle(
            what: "factors of different kinds", reason: "PEFT's LoKr divides all modules by one decompose_factor",
            cure: "merge it with LyCORIS, then extract a LoRA")
        ])
    }
    config.settings["decompose_factor"] = .integer(factor)
  }

  /// The lesser of two factors of a number. Source: peft/tuners/lokr/layer.py `factorization`.
  private static func factorization(_ number: Int, _ factor: Int) -> Int {
    guard number > 0, number < 1 << 22 else { return 0 }
    if factor > 0, number % factor == 0 { return factor }
    let limit = factor < 0 ? number : factor
    var (m, n) = (1, number)
    while m < n {
      var next = m + 1
      while number % next != 0 { next += 1 }
      if next + number / next > 1 + number || next > limit { break }
      (m, n) = (next, number / next)
    }
    return min(m, n)
  }
}
