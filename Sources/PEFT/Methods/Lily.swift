internal import TensorFiles

extension AdapterMethod {
  /// Lily: experts' B, between which a router chooses by the input; layers share their A in runs, and B all together.
  static let lily = AdapterMethod(
    type: PeftType(rawValue: "LILY"),
    defaults: """
      {"exclude_modules": null, "init_weights": true, "layers_pattern": null, "layers_to_transform": null, \
      "modules_to_save": null, "num_B": 2, "r": 32, "scaling": 1.0, "stride_A": 1, "target_modules": null}
      """,
    prefixes: ["lily_"], merging: .none(reason: "it routes between experts by the input."),
    start: .modules([.linear], freshLily))
}

/// Which layers of Lily share their factors.
///
/// Source: peft/tuners/lily/model.py `LilyModel._post_injection_hook`.
struct LilyGroups {
  /// Layers whose A and B have one shape, and whose paths end with one of the targets.
  struct Group: Hashable {
    private let suffix: Int?
    private let shape: [Int]

    init(suffix: Int?, shape: [Int]) {
      self.suffix = suffix
      self.shape = shape
    }
  }

  private var places: [ExactName: Int] = [:]
  private let lengths: Set<Int>

  init(_ config: PeftConfig) {
    if case .names(let names)? = config.targetModules {
      for (place, name) in names.enumerated() { places[name] = place }
    }
    lengths = Set(places.keys.map(\.text.utf8.count))
  }

  /// The group of a layer: the last name of the list that the path ends with, dot or not, and the shape.
  func group(_ path: String, shape: [Int]) -> Group {
    let suffix = (0...path.utf8.count).lazy.filter(lengths.contains).compactMap {
      places[String(path.utf8.suffix($0)) ?? ""]
    }
    .max()
    return Group(suffix: suffix, shape: shape)
  }
}

/// Each layer draws all its factors, those too whose place others' take.
///
/// Source: peft/tuners/lily/layer.py `LilyLayer.update_layer`, `reset_lily_parameters`.
private func freshLily(_ module: FreshModule, _ source: inout FreshSource) throws(AdapterError) -> [FreshTensor] {
  let (rank, experts) = (try module.rank(), try module.integer("num_B", 2...1 << 20))
  let stride = try module.integer("stride_A", 1...Int.max)
  func router() throws(AdapterError) -> FreshTensor {
    try source.uniform("lily_router.weight", [experts, rank], fanIn: rank)
  }
  func a() throws(AdapterError) -> FreshTensor {
    try source.uniform("lily_A.weight", [rank, module.input], fanIn: module.input)
  }
  func b() throws(AdapterError) -> FreshTensor {
    try source.uniform("lily_B.weight", [experts * rank, module.output], fanIn: module.output)
  }
  _ = try (a(), b(), router())
  let (ownA, ownRouter) = try (a(), router())
  let ownB = module.startsNeutral() ? try source.filled("lily_B.weight", [experts * rank, module.output]) : try b()
  let groups = LilyGroups(module.config)
  func group(_ module: BaseModel.Module) -> LilyGroups.Group { groups.group(module.path, shape: module.shape) }
  let own = group(module.module)
  let members = module.siblings.indices.filter { $0 <= module.index && group(module.siblings[$0]) == own }
  func shared(_ tensor: FreshTensor, leader: Int) -> FreshTensor {
    let key = ExactName("\(module.siblings[leader].path).\(tensor.name)")
    if leader == module.index { source.made[key] = tensor }
    return source.made[key] ?? tensor
  }
  return [
    shared(ownA, leader: members[(members.count - 1) / stride * stride]), shared(ownB, leader: members[0]), ownRouter,
  ]
}
