/// Runs a template's nodes.
///
/// Source: jinja2 `compiler.py` and `runtime.py`, for what each node does.
final class JinjaMachine {
  typealias Syntax = JinjaSyntax

  /// What a body ends with.
  enum End { case normal, leftLoop, nextRound }

  /// Levels of expressions, blocks and calls in each other: what a thread's stack holds.
  private static let levelLimit = 250

  let budget: JinjaBudget
  /// The time that `strftime_now` tells.
  let seconds: Int?
  /// Where marked texts lie in the output, in scalars.
  private(set) var generated: [Range<Int>] = []
  /// How many texts are being captured, and how long the output outside of all is.
  private var captures = 0
  private var outermost = 0
  private(set) var output: [Unicode.Scalar] = []
  private(set) var scope: JinjaScope
  let root: JinjaScope
  let loopName = JinjaText("loop")
  private var levels = 0
  /// What may hold itself, and is let go of at the end.
  private var (namespaces, captured): ([JinjaNamespace], [JinjaScope]) = ([], [])

  init(seconds: Int?, stepLimit: Int = JinjaBudget.stepLimit) {
    budget = JinjaBudget(stepLimit: stepLimit)
    self.seconds = seconds
    root = JinjaScope(parent: nil)
    scope = root
  }

  /// Lets go of what holds itself, one by one.
  func release() {
    for space in namespaces { space.values = [] }
    for scope in captured { scope.clear() }
    root.clear()
  }

  func render(_ nodes: [Syntax.Node]) throws(JinjaFailure) {
    guard try run(nodes) == .normal else { throw JinjaFailure("break or continue outside of a loop") }
  }

  // MARK: Levels, scopes, output

  func enter() throws(JinjaFailure) {
    levels += 1
    guard levels <= Self.levelLimit else {
      throw JinjaFailure("calls and blocks in more than \(Self.levelLimit) levels")
    }
  }

  func leave() { levels -= 1 }

  func capture(_ scope: JinjaScope) throws(JinjaFailure) {
    try budget.spend(bytes: 256)
    if captured.last !== scope {
      budget.hold(256)
      captured.append(scope)
    }
  }

  func makeNamespace() throws(JinjaFailure) -> JinjaNamespace {
    try budget.spend(bytes: 256)
    budget.hold(256)
    let space = JinjaNamespace()
    namespaces.append(space)
    return space
  }

  func write(_ scalars: [Unicode.Scalar]) throws(JinjaFailure) {
    // Half of it may be room for growth.
    try budget.spend(scalars.count, of: 8)
    budget.hold(8 * scalars.count)
    output += scalars
  }

  /// Runs something in a scope of its own.
  func within<Result>(_ inner: JinjaScope, _ body: () throws(JinjaFailure) -> Result) throws(JinjaFailure) -> Result {
    let outer = scope
    scope = inner
    defer { scope = outer }
    return try body()
  }

  /// The text that something writes. What is marked as generated in it lies, as transformers has it, where the template's own
  /// text ends that far.
  func captured(_ body: () throws(JinjaFailure) -> End) throws(JinjaFailure) -> (text: JinjaValue, end: End) {
    let outer = output
    output = []
    if captures == 0 { outermost = outer.count }
    captures += 1
    defer {
      captures -= 1
      budget.release(8 * output.count)
      output = outer
    }
    let end = try body()
    return (try budget.text(output), end)
  }

  // MARK: Nodes

  func run(_ nodes: [Syntax.Node]) throws(JinjaFailure) -> End {
    try enter()
    defer { leave() }
    for node in nodes {
      try budget.step()
      let pending = budget.pending
      let end = try run(node)
      budget.settle(pending)
      if end != .normal { return end }
    }
    return .normal
  }

  private func run(_ node: Syntax.Node) throws(JinjaFailure) -> End {
    switch node {
    case .text(let text): try write(text.scalars)
    case .output(let expression): try write(try written(try evaluate(expression)))
    case .branches(let branches, let otherwise): return try run(branches, otherwise)
    case .loop(let loop): return try start(loop)
    case .set(let target, let expression):
      try checkNamespaces(target)
      try assign(target, try evaluate(expression))
    case .setBlock(let target, let filters, let body): return try setBlock(target, filters, body)
    case .macro(let macro):
      try capture(scope)
      scope.set(macro.name, .function(JinjaFunction(.macro(macro, scope))))
    case .call(let callee, let arguments, let macro): try callBlock(callee, arguments, macro)
    case .filterBlock(let filters, let body): return try filterBlock(filters, body)
    case .with(let pairs, let body): return try with(pairs, body)
    case .scope(let body): return try runScoped(body)
    case .generation(let body):
      let (start, before) = (captures == 0 ? output.count : outermost, output.count)
      let end = try runScoped(body)
      try budget.spend(bytes: 16)
      generated.append(start..<start + max(0, output.count - before))
      return end
    case .block(let name, let isScoped, let body): return try runBlock(name, isScoped, body)
    case .autoescape(let isOn, let body):
      guard try !isTrue(try evaluate(isOn)) else { throw JinjaFailure("the statement 'autoescape'") }
      return try runScoped(body)
    case .leave(let isBreak): return isBreak ? .leftLoop : .nextRound
    case .otherTemplate(let word): throw JinjaFailure("the statement '\(word)': there is only one template")
    }
    return .normal
  }

  private func run(
    _ branches: [(condition: Syntax.Expression, body: [Syntax.Node])], _ otherwise: [Syntax.Node]
  ) throws(JinjaFailure) -> End {
    for branch in branches {
      try budget.step()
      if try isTrue(try evaluate(branch.condition)) { return try run(branch.body) }
    }
    return try run(otherwise)
  }

  private func runScoped(_ body: [Syntax.Node]) throws(JinjaFailure) -> End {
    try within(JinjaScope(parent: scope)) { () throws(JinjaFailure) in try run(body) }
  }

  private func runBlock(_ name: JinjaText, _ isScoped: Bool, _ body: [Syntax.Node]) throws(JinjaFailure) -> End {
    try within(JinjaScope(parent: isScoped ? scope : root)) { () throws(JinjaFailure) in try run(body) }
  }

  private func setBlock(
    _ target: Syntax.Target, _ filters: [Syntax.Application], _ body: [Syntax.Node]
  ) throws(JinjaFailure) -> End {
    let inner = JinjaScope(parent: scope)
    let (text, end) = try captured { () throws(JinjaFailure) in
      try within(inner) { () throws(JinjaFailure) in try run(body) }
    }
    guard end == .normal else { return end }
    let value = try within(inner) { () throws(JinjaFailure) in try apply(filters, to: text) }
    try checkNamespaces(target)
    try assign(target, value)
    return .normal
  }

  private func filterBlock(_ filters: [Syntax.Application], _ body: [Syntax.Node]) throws(JinjaFailure) -> End {
    let inner = JinjaScope(parent: scope)
    let (text, end) = try captured { () throws(JinjaFailure) in
      try within(inner) { () throws(JinjaFailure) in try run(body) }
    }
    guard end == .normal else { return end }
    try write(try written(try within(inner) { () throws(JinjaFailure) in try apply(filters, to: text) }))
    return .normal
  }

  private func with(
    _ pairs: [(target: Syntax.Target, value: Syntax.Expression)], _ body: [Syntax.Node]
  ) throws(JinjaFailure) -> End {
    var values: [JinjaValue] = []
    for pair in pairs { values.append(try evaluate(pair.value)) }
    return try within(JinjaScope(parent: scope)) { () throws(JinjaFailure) in
      for (pair, value) in zip(pairs, values) { try assign(pair.target, value) }
      return try run(body)
    }
  }

  // MARK: Assignment

  /// Only namespaces take attributes, which is checked before the value is made.
  private func checkNamespaces(_ target: Syntax.Target) throws(JinjaFailure) {
    switch target {
    case .name: break
    case .attribute(let name, _):
      guard case .namespace? = scope.value(name) else { throw JinjaFailure("'\(name.string)' is no namespace") }
    case .parts(let parts): for part in parts { try checkNamespaces(part) }
    }
  }

  func assign(_ target: Syntax.Target, _ value: JinjaValue) throws(JinjaFailure) {
    switch target {
    case .name(let name): scope.set(name, value)
    case .attribute(let name, let attribute):
      guard case .namespace(let space)? = scope.value(name) else {
        throw JinjaFailure("'\(name.string)' is no namespace")
      }
      try set(attribute, of: space, to: value)
    case .parts(let parts):
      let items = try items(of: value, for: "an assignment to several names")
      guard items.count == parts.count else {
        throw JinjaFailure("\(items.count) values for \(parts.count) names")
      }
      for (part, item) in zip(parts, items) { try assign(part, item) }
    }
  }

  func set(_ name: JinjaText, of space: JinjaNamespace, to value: JinjaValue) throws(JinjaFailure) {
    guard name.scalars.first != "_" else { throw JinjaFailure("'\(name.string)' as an attribute of a namespace") }
    try budget.look(at: space.values.count * 16)
    if let place = space.values.firstIndex(where: { $0.name == name }) {
      space.values[place].value = value
    } else {
      try budget.spend(bytes: 64)
      budget.hold(64)
      space.values.append((name, value))
    }
  }
}
