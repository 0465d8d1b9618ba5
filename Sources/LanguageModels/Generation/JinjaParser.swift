/// Makes nodes of the pieces of a template.
struct JinjaParser {
  typealias Node = JinjaTemplate.Node
  typealias Expression = JinjaTemplate.Expression
  typealias Token = JinjaLexer.Token

  /// Levels of blocks and brackets, and tokens of one block, which bound the levels of an expression: what a thread's stack holds.
  private static let (depthLimit, tokenLimit) = (40, 256)

  private let pieces: [JinjaLexer.Piece]
  private var piece = 0
  private var tokens: [Token] = []
  private var position = 0
  private var depth = 0

  init(_ pieces: [JinjaLexer.Piece]) { self.pieces = pieces }

  /// Nodes up to a block that begins with one of the words, which is left to be read.
  mutating func parse(until ends: Set<String>) throws(JinjaFailure) -> [Node] {
    depth += 1
    defer { depth -= 1 }
    guard depth < Self.depthLimit else { throw JinjaFailure(reason: "it is nested too deeply") }
    var nodes: [Node] = []
    while piece < pieces.count {
      switch pieces[piece] {
      case .text(let text):
        nodes.append(.text(text))
        piece += 1
      case .output(let found):
        try start(found)
        nodes.append(.output(try whole()))
      case .block(let found):
        guard case .name(let word)? = found.first else { throw JinjaFailure(reason: "a block without a word") }
        if ends.contains(word) { return nodes }
        try start(found)
        position = 1
        nodes.append(try statement(word))
      }
    }
    guard ends.isEmpty else {
      throw JinjaFailure(reason: "a block is not closed: \(ends.sorted().joined(separator: ", "))")
    }
    return nodes
  }

  private mutating func start(_ found: [Token]) throws(JinjaFailure) {
    guard found.count <= Self.tokenLimit else { throw JinjaFailure(reason: "an expression of \(found.count) parts") }
    (tokens, position) = (found, 0)
    piece += 1
  }

  private mutating func statement(_ word: String) throws(JinjaFailure) -> Node {
    switch word {
    case "for":
      var names = [try name()]
      while take(",") { names.append(try name()) }
      guard takeName("in") else { throw JinjaFailure(reason: "a for without in") }
      let over = try either()
      let condition = takeName("if") ? try expression() : nil
      try end()
      let body = try parse(until: ["else", "endfor"])
      var otherwise: [Node] = []
      if closingWord == "else" {
        piece += 1
        otherwise = try parse(until: ["endfor"])
      }
      piece += 1
      return .loop(name: names, over: over, condition: condition, body: body, otherwise: otherwise)
    case "if":
      var branches: [(Expression, [Node])] = []
      var condition = try whole()
      while true {
        branches.append((condition, try parse(until: ["elif", "else", "endif"])))
        guard closingWord == "elif", case .block(let found) = pieces[piece] else { break }
        try start(found)
        position = 1
        condition = try whole()
      }
      var otherwise: [Node] = []
      if closingWord == "else" {
        piece += 1
        otherwise = try parse(until: ["endif"])
      }
      piece += 1
      return .branch(branches, otherwise: otherwise)
    case "set":
      let first = try name()
      let attribute = take(".") ? try name() : nil
      guard take("=") else { throw JinjaFailure(reason: "a set without a value") }
      return .set(name: first, attribute: attribute, try whole())
    case "generation", "endgeneration":
      try end()
      return .text("")
    default: throw JinjaFailure(reason: "the block '\(word)'")
    }
  }

  /// The word of the block that ended the nodes.
  private var closingWord: String {
    guard piece < pieces.count, case .block(let found) = pieces[piece], case .name(let word)? = found.first else {
      return ""
    }
    return word
  }

  // MARK: Expressions

  private var next: Token? { position < tokens.count ? tokens[position] : nil }

  private mutating func take(_ sign: String) -> Bool {
    guard next == .sign(sign) else { return false }
    position += 1
    return true
  }

  private mutating func takeName(_ word: String) -> Bool {
    guard next == .name(word) else { return false }
    position += 1
    return true
  }

  private mutating func name() throws(JinjaFailure) -> String {
    guard case .name(let word)? = next else { throw JinjaFailure(reason: "a name is missing") }
    position += 1
    return word
  }

  private mutating func expect(_ sign: String) throws(JinjaFailure) {
    guard take(sign) else { throw JinjaFailure(reason: "'\(sign)' is missing") }
  }

  private func end() throws(JinjaFailure) {
    guard position == tokens.count else { throw JinjaFailure(reason: "something after the end of an expression") }
  }

  private mutating func whole() throws(JinjaFailure) -> Expression {
    let result = try expression()
    try end()
    return result
  }

  /// `a if b else c`.
  private mutating func expression() throws(JinjaFailure) -> Expression {
    depth += 1
    defer { depth -= 1 }
    guard depth < Self.depthLimit else { throw JinjaFailure(reason: "it is nested too deeply") }
    let first = try either()
    guard takeName("if") else { return first }
    let condition = try either()
    let otherwise = takeName("else") ? try expression() : nil
    return .conditional(first, condition: condition, otherwise: otherwise)
  }

  private mutating func either() throws(JinjaFailure) -> Expression {
    var left = try both()
    while takeName("or") { left = .binary("or", left, try both()) }
    return left
  }

  private mutating func both() throws(JinjaFailure) -> Expression {
    var left = try negation()
    while takeName("and") { left = .binary("and", left, try negation()) }
    return left
  }

  private mutating func negation() throws(JinjaFailure) -> Expression {
    takeName("not") ? .not(try negation()) : try comparison()
  }

  private mutating func comparison() throws(JinjaFailure) -> Expression {
    var left = try sum()
    while true {
      if case .sign(let sign)? = next, ["==", "!=", "<", ">", "<=", ">="].contains(sign) {
        position += 1
        left = .binary(sign, left, try sum())
      } else if takeName("in") {
        left = .binary("in", left, try sum())
      } else if next == .name("not"), position + 1 < tokens.count, tokens[position + 1] == .name("in") {
        position += 2
        left = .not(.binary("in", left, try sum()))
      } else {
        return left
      }
    }
  }

  private mutating func sum() throws(JinjaFailure) -> Expression {
    var left = try product()
    while case .sign(let sign)? = next, ["+", "-", "~"].contains(sign) {
      position += 1
      left = .binary(sign, left, try product())
    }
    return left
  }

  private mutating func product() throws(JinjaFailure) -> Expression {
    var left = try unary()
    while case .sign(let sign)? = next, ["*", "/", "//", "%"].contains(sign) {
      position += 1
      left = .binary(sign, left, try unary())
    }
    return left
  }

  private mutating func unary() throws(JinjaFailure) -> Expression {
    take("-") ? .negative(try unary()) : try postfix()
  }

  private mutating func postfix() throws(JinjaFailure) -> Expression {
    var left = try primary()
    while true {
      if take(".") {
        left = .attribute(left, try name())
      } else if take("[") {
        left = try subscripted(left)
      } else if take("(") {
        let (plain, named) = try arguments()
        left = .call(left, plain, named)
      } else if take("|") {
        let filter = try name()
        let (plain, named) = take("(") ? try arguments() : ([], [])
        left = .filter(left, filter, plain, named)
      } else if takeName("is") {
        let isNegated = takeName("not")
        let test = try name()
        var plain: [Expression] = []
        if take("(") { plain = try arguments().0 }
        left = .test(left, test, plain, isNegated: isNegated)
      } else {
        return left
      }
    }
  }

  private mutating func subscripted(_ left: Expression) throws(JinjaFailure) -> Expression {
    var parts: [Expression?] = [nil]
    while !take("]") {
      if take(":") { parts.append(nil) } else { parts[parts.count - 1] = try expression() }
      guard position < tokens.count, parts.count <= 3 else { throw JinjaFailure(reason: "']' is missing") }
    }
    if parts.count == 1, let index = parts[0] { return .index(left, index) }
    guard parts.count > 1 else { throw JinjaFailure(reason: "an index is missing") }
    return .slice(left, parts[0], parts[1], parts.count > 2 ? parts[2] : nil)
  }

  private mutating func arguments() throws(JinjaFailure) -> ([Expression], [(String, Expression)]) {
    var plain: [Expression] = []
    var named: [(String, Expression)] = []
    while !take(")") {
      if case .name(let word)? = next, position + 1 < tokens.count, tokens[position + 1] == .sign("=") {
        position += 2
        named.append((word, try expression()))
      } else {
        plain.append(try expression())
      }
      if !take(",") {
        try expect(")")
        break
      }
    }
    return (plain, named)
  }

  private mutating func primary() throws(JinjaFailure) -> Expression {
    guard let token = next else { throw JinjaFailure(reason: "an expression is missing") }
    position += 1
    switch token {
    case .string(var value):
      while case .string(let more)? = next { (value, position) = (value + more, position + 1) }
      return .value(.string(value))
    case .integer(let value): return .value(.integer(value))
    case .number(let value): return .value(.number(value))
    case .name("true"), .name("True"): return .value(.bool(true))
    case .name("false"), .name("False"): return .value(.bool(false))
    case .name("none"), .name("None"): return .value(.none)
    case .name(let word): return .name(word)
    case .sign("("):
      let inner = try expression()
      try expect(")")
      return inner
    case .sign("["):
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
      var items: [(Expression, Expression)] = []
      while !take("}") {
        let key = try expression()
        try expect(":")
        items.append((key, try expression()))
        if !take(",") {
          try expect("}")
          break
        }
      }
      return .dictionary(items)
    case .sign(let sign): throw JinjaFailure(reason: "'\(sign)' where an expression begins")
    }
  }
}
