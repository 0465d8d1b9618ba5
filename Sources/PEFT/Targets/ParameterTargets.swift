internal import TensorFiles

/// `target_parameters` by the modules that hold the parameters.
///
/// Source: peft/tuners/tuners_utils.py `BaseTuner._inject_parameters`.
struct ParameterTargets: Sendable, Equatable {
  /// More names than the parameters of any model.
  static let limit = 1024

  private let containers: NameEndings
  /// The targets' places in the configuration, by those of their containers' names.
  private let placesOfContainers: [Int]
  /// Targets that are in whatever module has such a parameter.
  private let placesOfBare: [Int]
  private let names: [String]

  init(_ targets: [String]) {
    var (containers, placesOfContainers, placesOfBare, names) = ([String](), [Int](), [Int](), [String]())
    for (place, target) in targets.enumerated() {
      let parts = target.parts()
      names.append(parts.last.map(String.init) ?? "")
      guard !parts.isEmpty else { continue }
      if parts.count == 1 {
        placesOfBare.append(place)
      } else {
        containers.append(parts.dropLast().joined(separator: "."))
        placesOfContainers.append(place)
      }
    }
    self.containers = NameEndings(containers)
    self.placesOfContainers = placesOfContainers
    self.placesOfBare = placesOfBare
    self.names = names
  }

  /// Places in the configuration of the targets that lie in a module, in order.
  func places(in module: String) -> [Int] {
    guard !names.isEmpty else { return [] }
    return (containers.places(endOf: module).map { placesOfContainers[$0] } + placesOfBare).sorted()
  }

  /// The parameters' names in a module, such as `gate_up_proj` in `…mlp.experts`; each once.
  func names(in module: String) -> [String] {
    var seen: Set<ExactName> = []
    return places(in: module).map { names[$0] }.filter { seen.insert($0).inserted }
  }
}
