internal import TensorFiles

/// A part of a model with named parts of its own, as torch's `nn.Module`.
///
/// Names and order are transformers' own, so that PEFT's rules for targets see the same tree.
public class NetworkModule {
  /// The class that transformers prints.
  public let typeName: String
  /// Named parts in the order in which transformers registers them.
  public private(set) var children: [(name: String, module: NetworkModule)]
  /// Named parameters of this module itself.
  public let parameters: [(name: String, parameter: NetworkParameter)]
  /// What stands between the parentheses when the module is printed.
  let details: String

  /// A module without parameters of its own.
  ///
  /// - Parameters:
  ///   - typeName: the class that transformers prints.
  ///   - children: its parts, in the order in which transformers registers them.
  public convenience init(_ typeName: String, _ children: [(name: String, module: NetworkModule)]) {
    self.init(typeName, details: "", children)
  }

  init(
    _ typeName: String, details: String, parameters: [(name: String, parameter: NetworkParameter)] = [],
    _ children: [(name: String, module: NetworkModule)] = []
  ) {
    self.typeName = typeName
    self.details = details
    self.parameters = parameters
    self.children = children
  }

  /// The part of that name, nil if there is none.
  public func child(_ name: String) -> NetworkModule? { children.first { $0.name.isExactly(name) }?.module }

  /// The part of that name, which the architecture made. Traps if it is not there: a mistake in the architecture.
  func part<Part: NetworkModule>(_ name: String, as type: Part.Type = Part.self) -> Part {
    for child in children where child.name == name {
      guard let part = child.module as? Part else { break }
      return part
    }
    preconditionFailure("\(typeName) has no \(name)")
  }

  /// Puts another module in a part's place. Traps if there is no such part.
  func replaceChild(_ name: String, with module: NetworkModule) {
    guard let index = children.firstIndex(where: { $0.name == name }) else {
      preconditionFailure("\(typeName) has no \(name)")
    }
    children[index].module = module
  }

  /// The module at a path such as `model.layers.0.self_attn`; the empty path is this one.
  public func module(at path: String) -> NetworkModule? {
    var module = self
    for name in path.parts() {
      guard let next = module.child(String(name)) else { return nil }
      module = next
    }
    return module
  }

  /// This module and all below it with their paths, parents first. Source: torch `Module.named_modules`.
  public func namedModules(_ prefix: String = "") -> [(path: String, module: NetworkModule)] {
    var found: [(String, NetworkModule)] = [(prefix, self)]
    for child in children {
      found += child.module.namedModules(prefix.isEmpty ? child.name : "\(prefix).\(child.name)")
    }
    return found
  }

  /// The tree as PyTorch prints it; neighbours in a list that print alike are folded. Source: torch `Module.__repr__`.
  public var tree: String { lines.joined(separator: "\n") }

  var lines: [String] {
    guard !children.isEmpty else { return ["\(typeName)(\(details))"] }
    var result = ["\(typeName)("]
    var index = 0
    while index < children.count {
      let text = children[index].module.lines
      var end = index + 1
      if typeName == "ModuleList" { while end < children.count, children[end].module.lines == text { end += 1 } }
      let name =
        typeName == "ModuleList" && end - index > 1
        ? "(\(children[index].name)-\(children[end - 1].name)): \(end - index) x " : "(\(children[index].name)): "
      result.append("  " + name + text[0])
      result += text.dropFirst().map { "  " + $0 }
      index = end
    }
    return result + [")"]
  }
}

/// A list of modules, named by their places.
public final class ModuleList: NetworkModule {
  public init(_ modules: [NetworkModule]) {
    super.init("ModuleList", details: "", modules.enumerated().map { ("\($0)", $1) })
  }
}

/// A module that is printed and does nothing when a model runs.
final class Inert: NetworkModule {}
