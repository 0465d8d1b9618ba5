/// The variables of a block, in the scope of those around it.
final class JinjaScope {
  private var variables: [JinjaText: JinjaValue] = [:]
  let parent: JinjaScope?

  init(parent: JinjaScope?) { self.parent = parent }

  func set(_ name: JinjaText, _ value: JinjaValue) { variables[name] = value }

  func value(_ name: JinjaText) -> JinjaValue? {
    var scope = self
    while true {
      if let value = scope.variables[name] { return value }
      guard let parent = scope.parent else { return nil }
      scope = parent
    }
  }

  /// Lets go of the values: a macro's scope holds the macro, which holds the scope.
  func clear() { variables = [:] }
}

/// What a name can be called by: a macro, a method of a value, or a function of the renderer.
final class JinjaFunction {
  enum Kind {
    case global(String)
    case macro(JinjaSyntax.Macro, JinjaScope)
    case method(JinjaValue, String)
    case cycler(JinjaList)
    case joiner(JinjaText)
  }

  let kind: Kind
  /// How often a cycler or joiner was asked.
  var count = 0

  init(_ kind: Kind) { self.kind = kind }

  var levels: Int {
    switch kind {
    case .method(let value, _): value.levels + 1
    case .cycler(let list): list.levels + 1
    default: 1
    }
  }
}

/// A loop that runs, as its body sees it.
final class JinjaLoop {
  let syntax: JinjaSyntax.Loop
  let source: JinjaIterator
  /// The scope around the loop; nil once it has ended, so that loops which are kept do not hold each other.
  private(set) var scope: JinjaScope?
  let depth: Int
  /// Place of the current item.
  var index = -1
  var (previous, current): (JinjaValue?, JinjaValue?)
  /// Items that were looked at before their turn.
  var ahead: [JinjaValue] = []
  /// Arguments of the last call of `changed`.
  var lastChanged: JinjaValue?

  init(_ syntax: JinjaSyntax.Loop, _ source: JinjaIterator, _ scope: JinjaScope, depth: Int) {
    (self.syntax, self.source, self.scope, self.depth) = (syntax, source, scope, depth)
  }

  func end() { (scope, lastChanged) = (nil, nil) }
}
