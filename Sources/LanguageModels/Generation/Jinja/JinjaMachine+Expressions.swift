/// Values of expressions.
extension JinjaMachine {
  func evaluate(_ expression: Syntax.Expression) throws(JinjaFailure) -> JinjaValue {
    try budget.step()
    switch expression {
    case .constant(let value): return value
    case .name(let name): return lookUp(name)
    default: break
    }
    try enter()
    let pending = budget.pending
    defer {
      leave()
      budget.settle(pending)
    }
    switch expression {
    case .constant(let value): return value
    case .name(let name): return lookUp(name)
    case .list(let items): return try budget.list(try all(items))
    case .tuple(let items): return try budget.tuple(try all(items))
    case .dictionary(let pairs): return try dictionary(pairs)
    case .applied(let base, let applications): return try apply(applications, to: try evaluate(base))
    case .minus(let inner): return try negated(try evaluate(inner))
    case .plus(let inner): return try number(try evaluate(inner), sign: "+")
    case .not(let inner): return .bool(try !isTrue(try evaluate(inner)))
    case .arithmetic(let first, let rest): return try arithmetic(first, rest)
    case .joined(let parts): return try joined(parts)
    case .compared(let first, let rest): return try compared(first, rest)
    case .all(let parts): return try decide(parts, until: false)
    case .any(let parts): return try decide(parts, until: true)
    case .conditional(let first, let condition, let otherwise):
      if try isTrue(try evaluate(condition)) { return try evaluate(first) }
      guard let otherwise else { return .missing("an inline if has no else") }
      return try evaluate(otherwise)
    }
  }

  private func lookUp(_ name: JinjaText) -> JinjaValue {
    if let value = scope.value(name) { return value }
    let word = name.string
    return Self.globals.contains(word) ? .function(JinjaFunction(.global(word))) : .missing("'\(word)' is undefined")
  }

  private func all(_ expressions: [Syntax.Expression]) throws(JinjaFailure) -> [JinjaValue] {
    var values: [JinjaValue] = []
    values.reserveCapacity(expressions.count)
    for expression in expressions { values.append(try evaluate(expression)) }
    return values
  }

  private func dictionary(
    _ pairs: [(key: Syntax.Expression, value: Syntax.Expression)]
  ) throws(JinjaFailure) -> JinjaValue {
    var entries: [JinjaDictionary.Entry] = []
    for pair in pairs { entries.append((try evaluate(pair.key), try evaluate(pair.value))) }
    return try budget.dictionary(entries)
  }

  private func arithmetic(
    _ first: Syntax.Expression, _ rest: [(sign: String, operand: Syntax.Expression)]
  ) throws(JinjaFailure) -> JinjaValue {
    var result = try evaluate(first)
    for part in rest { result = try binary(part.sign, result, try evaluate(part.operand)) }
    return result
  }

  private func joined(_ parts: [Syntax.Expression]) throws(JinjaFailure) -> JinjaValue {
    var scalars: [Unicode.Scalar] = []
    for part in parts {
      let more = try written(try evaluate(part))
      try budget.spend(more.count, of: 4)
      scalars += more
    }
    return try budget.text(scalars)
  }

  private func compared(
    _ first: Syntax.Expression, _ rest: [(sign: String, operand: Syntax.Expression)]
  ) throws(JinjaFailure) -> JinjaValue {
    var left = try evaluate(first)
    for part in rest {
      let right = try evaluate(part.operand)
      guard try compare(part.sign, left, right) else { return .bool(false) }
      left = right
    }
    return .bool(true)
  }

  /// The first value that is as `end` says, or the last one.
  private func decide(_ parts: [Syntax.Expression], until end: Bool) throws(JinjaFailure) -> JinjaValue {
    var value = JinjaValue.none
    for part in parts {
      value = try evaluate(part)
      if try isTrue(value) == end { return value }
    }
    return value
  }

  /// What attributes, calls, filters and tests make of a value.
  func apply(_ applications: [Syntax.Application], to base: JinjaValue) throws(JinjaFailure) -> JinjaValue {
    var value = base
    for application in applications {
      try budget.step()
      let pending = budget.pending
      defer { budget.settle(pending) }
      switch application {
      case .attribute(let name): value = try attribute(name, of: value)
      case .item(let index): value = try item(try evaluate(index), of: value)
      case .slice(let first, let last, let step):
        let bounds = try all([first, last, step].map { $0 ?? .constant(.none) })
        value = try slice(value, bounds[0], bounds[1], bounds[2])
      case .call(let given): value = try call(value, try arguments(given))
      case .filter(let name, let given): value = try filter(name, value, try arguments(given))
      case .test(let name, let given, let isNegated):
        value = .bool(try test(name, value, try arguments(given)) != isNegated)
      }
    }
    return value
  }

  func arguments(_ syntax: Syntax.Arguments) throws(JinjaFailure) -> JinjaArguments {
    var arguments = JinjaArguments(plain: try all(syntax.plain))
    for (name, value) in syntax.named { arguments.named.append((name, try evaluate(value))) }
    if let list = syntax.list {
      arguments.plain += try items(of: try evaluate(list), for: "arguments after '*'")
    }
    if let dictionary = syntax.dictionary {
      guard case .dictionary(let found) = try evaluate(dictionary) else {
        throw JinjaFailure("'**' before what is no dictionary")
      }
      for entry in found.entries {
        guard case .text(let name) = entry.key else { throw JinjaFailure("an argument whose name is no text") }
        guard !arguments.named.contains(where: { $0.name == name }) else {
          throw JinjaFailure("'\(name.string)' is given twice")
        }
        arguments.named.append((name, entry.value))
      }
    }
    return arguments
  }
}
