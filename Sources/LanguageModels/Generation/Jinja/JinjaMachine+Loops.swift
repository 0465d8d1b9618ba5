/// Loops. A loop's condition is asked as its items come, so that it sees what earlier rounds did.
extension JinjaMachine {
  func start(_ syntax: Syntax.Loop) throws(JinjaFailure) -> End {
    let source = try iterator(over: try evaluate(syntax.over))
    guard syntax.isRecursive else { return try run(syntax, source, depth: 0) }
    try capture(scope)
    let (text, end) = try captured { () throws(JinjaFailure) in try run(syntax, source, depth: 0) }
    try write(try written(text))
    return end
  }

  /// What `loop(items)` in a recursive loop gives.
  func recurse(_ loop: JinjaLoop, into value: JinjaValue) throws(JinjaFailure) -> JinjaValue {
    guard loop.syntax.isRecursive else { throw JinjaFailure("a call of 'loop' in a loop that is not recursive") }
    guard let scope = loop.scope else { throw JinjaFailure("a call of a loop that has ended") }
    let source = try iterator(over: value)
    return try within(scope) { () throws(JinjaFailure) in
      try captured { () throws(JinjaFailure) in try run(loop.syntax, source, depth: loop.depth + 1) }.text
    }
  }

  private func run(_ syntax: Syntax.Loop, _ source: JinjaIterator, depth: Int) throws(JinjaFailure) -> End {
    let loop = JinjaLoop(syntax, source, scope, depth: depth)
    defer { loop.end() }
    var isEmpty = true
    while let item = try advance(loop) {
      isEmpty = false
      let inner = JinjaScope(parent: scope)
      let end = try within(inner) { () throws(JinjaFailure) in
        inner.set(loopName, .loop(loop))
        try assign(syntax.target, item)
        return try run(syntax.body)
      }
      if end == .leftLoop { return .normal }
    }
    guard isEmpty, !syntax.otherwise.isEmpty else { return .normal }
    return try within(JinjaScope(parent: scope)) { () throws(JinjaFailure) in try run(syntax.otherwise) }
  }

  private func advance(_ loop: JinjaLoop) throws(JinjaFailure) -> JinjaValue? {
    guard let item = try loop.ahead.isEmpty ? pull(loop) : loop.ahead.removeFirst() else { return nil }
    loop.index += 1
    (loop.previous, loop.current) = (loop.current, item)
    return item
  }

  /// The next item that fulfils the loop's condition.
  private func pull(_ loop: JinjaLoop) throws(JinjaFailure) -> JinjaValue? {
    while let item = loop.source.next() {
      try budget.step()
      guard let condition = loop.syntax.condition else { return item }
      let holds = try within(JinjaScope(parent: loop.scope)) { () throws(JinjaFailure) in
        try assign(loop.syntax.target, item)
        return try isTrue(try evaluate(condition))
      }
      if holds { return item }
    }
    return nil
  }

  private func peek(_ loop: JinjaLoop) throws(JinjaFailure) -> JinjaValue? {
    if loop.ahead.isEmpty, let item = try pull(loop) { loop.ahead = [item] }
    return loop.ahead.first
  }

  private func count(_ loop: JinjaLoop) throws(JinjaFailure) -> Int {
    guard loop.syntax.condition != nil else { return loop.index + 1 + loop.ahead.count + loop.source.left }
    while let item = try pull(loop) { loop.ahead.append(item) }
    return loop.index + 1 + loop.ahead.count
  }

  /// An attribute of `loop`; nil if it has none of that name.
  func attribute(_ name: String, of loop: JinjaLoop) throws(JinjaFailure) -> JinjaValue? {
    switch name {
    case "index": return .integer(loop.index + 1)
    case "index0": return .integer(loop.index)
    case "first": return .bool(loop.index == 0)
    case "last": return .bool(try peek(loop) == nil)
    case "length": return .integer(try count(loop))
    case "revindex": return .integer(try count(loop) - loop.index)
    case "revindex0": return .integer(try count(loop) - loop.index - 1)
    case "previtem": return loop.index > 0 ? loop.previous : .missing("there is no previous item")
    case "nextitem": return try peek(loop) ?? .missing("there is no next item")
    case "depth": return .integer(loop.depth + 1)
    case "depth0": return .integer(loop.depth)
    case "cycle", "changed": return .function(JinjaFunction(.method(.loop(loop), name)))
    default: return nil
    }
  }

  func callLoop(_ method: String, _ loop: JinjaLoop, _ arguments: [JinjaValue]) throws(JinjaFailure) -> JinjaValue {
    if method == "cycle" {
      guard !arguments.isEmpty else { throw JinjaFailure("loop.cycle without values") }
      return arguments[loop.index % arguments.count]
    }
    let value = try budget.tuple(arguments)
    if let last = loop.lastChanged, try equals(last, value) { return .bool(false) }
    loop.lastChanged = value
    return .bool(true)
  }
}
