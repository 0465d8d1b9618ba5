/// A merge method of a recipe: which parameters and how many models it takes.
///
/// Source: mergekit 0.1.5, merge_methods/registry.py and the methods' files.
public enum RecipeMethod: String, Sendable, CaseIterable {
  case linear
  case slerp
  case nuslerp
  case taskArithmetic = "task_arithmetic"
  case ties
  case dareLinear = "dare_linear"
  case dareTies = "dare_ties"
  case della
  case dellaLinear = "della_linear"
  case breadcrumbs
  case breadcrumbsTies = "breadcrumbs_ties"
  case modelStock = "model_stock"
  case passthrough

  /// A key under `parameters`.
  struct Parameter: Sendable {
    /// What a value belongs to.
    enum Scope: Sendable { case tensor, input, nonBase }

    let name: String
    let form: RecipeSetting.Form
    let scope: Scope
    /// Nil if there must be one, or, for `isOptional`, if there need be none.
    let standard: RecipeSetting.Value?
    var isOptional = false
  }

  /// What a base model is to the method.
  enum BaseRole: Sendable {
    case required
    case optional
    /// One of the inputs.
    case ignored
  }

  var parameters: [Parameter] {
    func number(_ name: String, _ scope: Parameter.Scope, _ standard: Double? = nil) -> Parameter {
      Parameter(name: name, form: .number, scope: scope, standard: standard.map { .number($0) })
    }
    func flag(_ name: String, _ standard: Bool) -> Parameter {
      Parameter(name: name, form: .flag, scope: .tensor, standard: .flag(standard))
    }
    switch self {
    case .linear: return [number("weight", .input), flag("normalize", true)]
    case .slerp: return [number("t", .tensor)]
    case .nuslerp:
      return [number("weight", .nonBase), flag("nuslerp_row_wise", false), flag("nuslerp_flatten", true)]
    case .modelStock: return [flag("filter_wise", false)]
    case .passthrough:
      return [Parameter(name: "scale", form: .number, scope: .input, standard: nil, isOptional: true)]
    case .taskArithmetic, .ties, .dareLinear, .dareTies, .della, .dellaLinear, .breadcrumbs, .breadcrumbsTies:
      let rescales = [Self.dareLinear, .dareTies, .della, .dellaLinear].contains(self)
      var parameters = [
        flag("normalize", self == .ties || self == .della), flag("rescale", rescales), number("lambda", .tensor, 1),
        number("weight", .nonBase), number("density", .nonBase, 1),
      ]
      if self == .breadcrumbs || self == .breadcrumbsTies { parameters.append(number("gamma", .nonBase, 0.01)) }
      if self == .della || self == .dellaLinear { parameters.append(number("epsilon", .nonBase, 0.15)) }
      return parameters
    }
  }

  var base: BaseRole {
    switch self {
    case .linear, .passthrough: .ignored
    case .nuslerp: .optional
    default: .required
    }
  }

  /// How many models it takes, the base counted.
  var inputCount: ClosedRange<Int> {
    switch self {
    case .slerp: 2...2
    case .nuslerp: 2...3
    case .modelStock: 3...Int.max
    case .passthrough: 1...1
    default: 1...Int.max
    }
  }

  /// True if it keeps changes that agree in sign with the weighted sum.
  var elects: Bool { [.ties, .dareTies, .della, .breadcrumbsTies].contains(self) }

  /// Every name under `parameters` that some method has. What is not the method's own has no effect.
  static let parameterNames: Set<String> = Set(allCases.flatMap { $0.parameters.map(\.name) }).union(["int8_mask"])

  /// The rule for a change of a model.
  ///
  /// - Parameter density: and the others as the recipe gives them.
  func pruning(density: Double, gamma: Double, epsilon: Double) -> ChangeMix.Pruning {
    switch self {
    case .ties: .magnitude(density: density)
    case .dareLinear, .dareTies: .random(density: Float(density))
    case .della, .dellaLinear: .ranked(density: density, epsilon: epsilon)
    case .breadcrumbs, .breadcrumbsTies: .outliers(density: density, gamma: gamma)
    default: .none
    }
  }

  /// Methods of mergekit that are not here.
  static let others: Set<String> = [
    "karcher", "multislerp", "nearswap", "ram", "ramplus_tl", "sce", "arcee_fusion",
  ]
}
