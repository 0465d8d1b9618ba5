/// Expressions, from the loosest binding to the tightest.
extension JinjaParser {
  mutating func expression(takesConditions: Bool = true) throws(JinjaFailure) -> Expression {
    try enter()
    defer { leave() }
    guard takesConditions else { return try either() }
    var first = try either()
    while takeWord("if") {
      let condition = try either()
      let otherwise = takeWord("else") ? try expression() : nil
      first = .conditional(first, condition: condition, otherwise: otherwise)
    }
    return first
  }

  /// One expression, or several with commas, which are a tuple.
  mutating func tuple(
    takesConditions: Bool = true, until end: String? = nil, mayBeEmpty: Bool = false
  ) throws(JinjaFailure) -> Expression {
    var items: [Expression] = []
    var isTuple = false
    while true {
      if token == .outputEnd || token == .blockEnd || token == .sign(")") || (end != nil && word == end) { break }
      items.append(try expression(takesConditions: takesConditions))
      guard take(",") else { break }
      isTuple = true
    }
    if !isTuple, let only = items.first { return only }
    guard isTuple || mayBeEmpty else { throw failure("an expression is missing") }
    return .tuple(items)
  }

  private mutating func either() throws(JinjaFailure) -> Expression {
    var parts = [try both()]
    while takeWord("or") { parts.append(try both()) }
    return parts.count == 1 ? parts[0] : .any(parts)
  }

  private mutating func both() throws(JinjaFailure) -> Expression {
    var parts = [try negation()]
    while takeWord("and") { parts.append(try negation()) }
    return parts.count == 1 ? parts[0] : .all(parts)
  }

  private mutating func negation() throws(JinjaFailure) -> Expression {
    var count = 0
    while takeWord("not") { count += 1 }
    let inner = try comparison()
    guard count > 0 else { return inner }
    return count % 2 == 1 ? .not(inner) : .not(.not(inner))
  }

  private mutating func comparison() throws(JinjaFailure) -> Expression {
    let first = try sum()
    var rest: [(String, Expression)] = []
    while true {
      if case .sign(let sign) = token, ["==", "!=", "<", ">", "<=", ">="].contains(sign) {
        advance()
        rest.append((sign, try sum()))
      } else if takeWord("in") {
        rest.append(("in", try sum()))
      } else if word == "not", following == .name(JinjaText("in")) {
        advance()
        advance()
        rest.append(("not in", try sum()))
      } else {
        return rest.isEmpty ? first : .compared(first, rest)
      }
    }
  }

  private mutating func sum() throws(JinjaFailure) -> Expression {
    let first = try joined()
    var rest: [(String, Expression)] = []
    while case .sign(let sign) = token, sign == "+" || sign == "-" {
      advance()
      rest.append((sign, try joined()))
    }
    return rest.isEmpty ? first : .arithmetic(first, rest)
  }

  private mutating func joined() throws(JinjaFailure) -> Expression {
    var parts = [try product()]
    while take("~") { parts.append(try product()) }
    return parts.count == 1 ? parts[0] : .joined(parts)
  }

  private mutating func product() throws(JinjaFailure) -> Expression {
    let first = try power()
    var rest: [(String, Expression)] = []
    while case .sign(let sign) = token, ["*", "/", "//", "%"].contains(sign) {
      advance()
      rest.append((sign, try power()))
    }
    return rest.isEmpty ? first : .arithmetic(first, rest)
  }

  private mutating func power() throws(JinjaFailure) -> Expression {
    let first = try signed(takesFilters: true)
    var rest: [(String, Expression)] = []
    while take("**") { rest.append(("**", try signed(takesFilters: true))) }
    return rest.isEmpty ? first : .arithmetic(first, rest)
  }

  private mutating func signed(takesFilters: Bool) throws(JinjaFailure) -> Expression {
    var base: Expression
    if case .sign(let sign) = token, sign == "-" || sign == "+" {
      advance()
      try enter()
      defer { leave() }
      let inner = try signed(takesFilters: false)
      base = sign == "-" ? .minus(inner) : .plus(inner)
    } else {
      base = try primary()
    }
    var applications: [Application] = []
    try postfixes(&applications)
    while takesFilters {
      if token == .sign("|") {
        applications += try filters(startsInline: false)
      } else if word == "is" {
        advance()
        applications.append(try test())
      } else if token == .sign("(") {
        applications.append(.call(try arguments()))
      } else {
        break
      }
    }
    return applications.isEmpty ? base : .applied(base, applications)
  }

  private mutating func postfixes(_ applications: inout [Application]) throws(JinjaFailure) {
    while true {
      if take(".") {
        if case .integer(let index) = token {
          advance()
          applications.append(.item(.constant(.integer(index))))
        } else {
          applications.append(.attribute(try name()))
        }
      } else if take("[") {
        applications.append(try subscripted())
      } else if token == .sign("(") {
        applications.append(.call(try arguments()))
      } else {
        return
      }
    }
  }

  private mutating func subscripted() throws(JinjaFailure) -> Application {
    var parts: [Expression?] = [nil]
    var items: [Expression] = []
    while !take("]") {
      if take(":") {
        parts.append(nil)
      } else if take(",") {
        guard parts.count == 1, let item = parts[0] else { throw failure("a slice in a tuple") }
        items.append(item)
        parts = [nil]
      } else {
        guard parts[parts.count - 1] == nil else { throw failure("']' is missing") }
        parts[parts.count - 1] = try expression()
      }
      guard parts.count <= 3 else { throw failure("']' is missing") }
    }
    if parts.count > 1 {
      guard items.isEmpty else { throw failure("a slice in a tuple") }
      return .slice(parts[0], parts[1], parts.count > 2 ? parts[2] : nil)
    }
    if items.isEmpty, let index = parts[0] { return .item(index) }
    guard !items.isEmpty else { throw failure("an index is missing") }
    return .item(.tuple(items + (parts[0].map { [$0] } ?? [])))
  }

  /// Filters one after the other, the first without its `|` where a block begins with it.
  mutating func filters(startsInline: Bool) throws(JinjaFailure) -> [Application] {
    var filters: [Application] = []
    var isInline = startsInline
    while isInline || take("|") {
      isInline = false
      var filter = try name().string
      while take(".") { filter += "." + (try name().string) }
      filters.append(.filter(filter, token == .sign("(") ? try arguments() : Arguments()))
    }
    return filters
  }

  private mutating func test() throws(JinjaFailure) -> Application {
    let isNegated = takeWord("not")
    var test = try name().string
    while take(".") { test += "." + (try name().string) }
    var given = Arguments()
    switch token {
    case .sign("("): given = try arguments()
    case .name(let next) where ["else", "or", "and"].contains(next.string): break
    case .name(let next) where next.string == "is": throw failure("a test after a test")
    case .name, .text, .integer, .number, .sign("["), .sign("{"):
      let base = try primary()
      var applications: [Application] = []
      try postfixes(&applications)
      given.plain = [applications.isEmpty ? base : .applied(base, applications)]
    default: break
    }
    return .test(test, given, isNegated: isNegated)
  }

  private mutating func arguments() throws(JinjaFailure) -> Arguments {
    var arguments = Arguments()
    try expect("(")
    while !take(")") {
      if take("*") {
        guard arguments.list == nil, arguments.dictionary == nil else { throw failure("a second '*'") }
        arguments.list = try expression()
      } else if take("**") {
        guard arguments.dictionary == nil else { throw failure("a second '**'") }
        arguments.dictionary = try expression()
      } else if case .name(let name) = token, following == .sign("=") {
        advance()
        advance()
        guard arguments.dictionary == nil else { throw failure("an argument after '**'") }
        guard !arguments.named.contains(where: { $0.name == name }) else {
          throw failure("'\(name.string)' is given twice")
        }
        arguments.named.append((name, try expression()))
      } else {
        guard arguments.named.isEmpty, arguments.list == nil, arguments.dictionary == nil else {
          throw failure("an argument without a name after one with a name")
        }
        arguments.plain.append(try expression())
      }
      if !take(",") {
        try expect(")")
        break
      }
    }
    return arguments
  }

  private mutating func primary() throws(JinjaFailure) -> Expression {
    let start = token
    switch start {
    case .name(let text):
      let name = try name()
      switch text.string {
      case "true", "True": return .constant(.bool(true))
      case "false", "False": return .constant(.bool(false))
      case "none", "None": return .constant(.none)
      default:
        speaks(of: name)
        return .name(name)
      }
    case .text:
      var scalars: [Unicode.Scalar] = []
      while case .text(let more) = token {
        scalars += more.scalars
        advance()
      }
      return .constant(.text(JinjaText(scalars)))
    case .integer(let value):
      advance()
      return .constant(.integer(value))
    case .number(let value):
      advance()
      return .constant(.number(value))
    case .sign("("):
      advance()
      let inner = try tuple(mayBeEmpty: true)
      try expect(")")
      return inner
    case .sign("["):
      advance()
      var items: [Expression] = []
      while !take("]") {
        items.append(try expression())
        if !take(",") {
          try expect("]")
          break
        }
      }
      return .list(items)
    case .sign("{"):
      advance()
      var pairs: [(Expression, Expression)] = []
      while !take("}") {
        let key = try expression()
        try expect(":")
        pairs.append((key, try expression()))
        if !take(",") {
          try expect("}")
          break
        }
      }
      return .dictionary(pairs)
    case .sign(let sign): throw failure("'\(sign)' where an expression begins")
    default: throw failure("an expression is missing")
    }
  }
}
