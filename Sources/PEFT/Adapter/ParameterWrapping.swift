internal import TensorFiles

/// How PEFT wraps several parameters of one module: each wrapper holds the one before as its `base_layer`.
enum ParameterWrapping {
  /// Parameters of experts in the order in which transformers registers them: PEFT wraps the last one outermost.
  private static let registrationOrder = ["gate_up_proj", "down_proj"]

  /// Where a parameter stands in that order; parameters of other names follow in the order in which they are targeted.
  static func rank(_ name: String) -> Int { registrationOrder.firstIndex(of: name) ?? registrationOrder.count }

  /// The path without `.base_layer` at its end, and how many there were.
  static func unwrapped(_ path: String) -> (path: String, depth: Int) {
    var (path, depth) = (path, 0)
    while path.hasSuffix(".base_layer") {
      path.removeLast(".base_layer".count)
      depth += 1
    }
    return (path, depth)
  }

  /// Names of parameters in the order in which they are wrapped: that of their registration, then that in which they are
  /// targeted.
  static func inOrder(_ parameters: [String]) -> [String] {
    return parameters.sorted { rank($0) < rank($1) }
  }

  /// Modules of an adapter that wrap parameters of the module at `container`.
  static func count(of container: String, in adapter: Adapter) -> Int {
    adapter.modules.count { unwrapped($0.path).path.isExactly(container) }
  }
}
