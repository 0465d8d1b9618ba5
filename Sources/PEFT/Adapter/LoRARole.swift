internal import TensorFiles

/// What a tensor of a LoRA module is: the one place that the spellings of their names stand in.
enum LoRARole: Hashable, CaseIterable, Sendable {
  case a, b, embeddingA, embeddingB, magnitude, bias, diagonal

  /// What PEFT writes after the module's path and a dot.
  var ending: String { endings[0] }

  /// All that is read; the first is what PEFT writes.
  private var endings: [String] {
    switch self {
    case .a: ["lora_A.weight"]
    case .b: ["lora_B.weight"]
    case .embeddingA: ["lora_embedding_A"]
    case .embeddingB: ["lora_embedding_B"]
    case .magnitude: ["lora_magnitude_vector", "lora_magnitude_vector.weight"]
    case .bias: ["lora_B.bias"]
    case .diagonal: ["lora_diag"]
    }
  }

  /// True for the factor that reads the input: lora_A.
  var isFirstFactor: Bool { self == .a || self == .embeddingA }

  /// True for the factor that gives the output: lora_B.
  var isSecondFactor: Bool { self == .b || self == .embeddingB }

  /// The other factor; itself for what is none.
  var partner: LoRARole {
    switch self {
    case .a: .b
    case .b: .a
    case .embeddingA: .embeddingB
    case .embeddingB: .embeddingA
    default: self
    }
  }

  /// What every name of a LoRA's tensor has after its module's path.
  static let mark = ".lora_"

  /// The module's path and the role in a name without `base_model.model.`; nil if the name is no LoRA's.
  static func split(_ name: String) -> (path: String, role: LoRARole)? {
    guard name.holds(mark) else { return nil }
    for role in allCases {
      for ending in role.endings where name.hasSuffix(".\(ending)") {
        return (String(name.dropLast(ending.count + 1)), role)
      }
    }
    return nil
  }
}
