/// Makes nodes of a template's tokens.
///
/// Source: jinja2 `parser.py`; transformers' `generation` and Jinja's `loopcontrols` are known.
struct JinjaParser {
  typealias Node = JinjaSyntax.Node
  typealias Expression = JinjaSyntax.Expression
  typealias Application = JinjaSyntax.Application
  typealias Arguments = JinjaSyntax.Arguments
  typealias Target = JinjaSyntax.Target
  typealias Token = JinjaLexer.Token

  /// Levels of blocks and brackets: what a thread's stack holds.
  private static let levelLimit = 60

  private let tokens: JinjaLexer.Tokens
  private var position = 0
  private var levels = 0
  /// True once a `generation` statement was read.
  private(set) var marksGeneration = false
  /// Names that the template, or the macro which is read, speaks of.
  private(set) var spokenOf: Set<JinjaText> = []

  init(_ tokens: JinjaLexer.Tokens) { self.tokens = tokens }

  /// The nodes of the whole template.
  mutating func template() throws(JinjaFailure) -> [Node] {
    let nodes = try self.nodes(until: [])
    guard token == .end else { throw failure("'\(word ?? "")' ends what has not begun") }
    return nodes
  }

  // MARK: Tokens

  var token: Token { position < tokens.count ? tokens[position].token : .end }
  var following: Token { position + 1 < tokens.count ? tokens[position + 1].token : .end }
  /// The name that stands here.
  var word: String? { if case .name(let text) = token { text.string } else { nil } }

  func failure(_ reason: String) -> JinjaFailure {
    JinjaFailure("line \(tokens.isEmpty ? 1 : tokens[min(position, tokens.count - 1)].line): \(reason)")
  }

  mutating func advance() { position += 1 }

  mutating func take(_ sign: String) -> Bool {
    guard token == .sign(sign) else { return false }
    position += 1
    return true
  }

  mutating func takeWord(_ expected: String) -> Bool {
    guard word == expected else { return false }
    position += 1
    return true
  }

  mutating func expect(_ sign: String) throws(JinjaFailure) {
    guard take(sign) else { throw failure("'\(sign)' is missing") }
  }

  mutating func name() throws(JinjaFailure) -> JinjaText {
    guard case .name(let text) = token else { throw failure("a name is missing") }
    guard !("0"..."9").contains(text.scalars[0]) else { throw failure("'\(text.string)' is no name") }
    position += 1
    return text
  }

  mutating func speaks(of name: JinjaText) { spokenOf.insert(name) }

  mutating func enter() throws(JinjaFailure) {
    levels += 1
    guard levels < Self.levelLimit else { throw failure("it is nested in more than \(Self.levelLimit) levels") }
  }

  mutating func leave() { levels -= 1 }

  private mutating func endBlock() throws(JinjaFailure) {
    guard token == .blockEnd else { throw failure("something after the end of a statement") }
    position += 1
  }

  // MARK: Statements

  /// Nodes up to a block that begins with one of the words; its word is what stands next.
  private mutating func nodes(until ends: Set<String>) throws(JinjaFailure) -> [Node] {
    try enter()
    defer { leave() }
    var nodes: [Node] = []
    while true {
      switch token {
      case .data(let text):
        nodes.append(.text(text))
        position += 1
      case .outputBegin:
        position += 1
        nodes.append(.output(try tuple()))
        guard token == .outputEnd else { throw failure("something after the end of an expression") }
        position += 1
      case .blockBegin:
        position += 1
        guard let word else { throw failure("a block without a word") }
        if ends.contains(word) { return nodes }
        nodes += try statement(word)
        try endBlock()
      default:
        guard ends.isEmpty else { throw failure("a block is not closed: \(ends.sorted().joined(separator: ", "))") }
        return nodes
      }
    }
  }

  /// The body of a statement, from the end of its block on.
  private mutating func body(until ends: Set<String>) throws(JinjaFailure) -> [Node] {
    _ = take(":")
    try endBlock()
    return try nodes(until: ends)
  }

  private mutating func body(endedBy end: String) throws(JinjaFailure) -> [Node] {
    let body = try self.body(until: [end])
    position += 1
    return body
  }

  private mutating func statement(_ word: String) throws(JinjaFailure) -> [Node] {
    position += 1
    switch word {
    case "for": return [.loop(try loop())]
    case "if": return [try branches()]
    case "set": return [try assignment()]
    case "macro":
      let name = try name()
      let parameters = try parameters()
      return [.macro(try macro(name, parameters, end: "endmacro"))]
    case "call": return [try callBlock()]
    case "filter":
      let filters = try filters(startsInline: true)
      return [.filterBlock(filters, body: try body(endedBy: "endfilter"))]
    case "with":
      var pairs: [(Target, Expression)] = []
      while token != .blockEnd, token != .sign(":") {
        if !pairs.isEmpty { try expect(",") }
        let target = try target()
        try expect("=")
        pairs.append((target, try expression()))
      }
      return [.with(pairs, body: try body(endedBy: "endwith"))]
    case "generation":
      marksGeneration = true
      return [.generation(try body(endedBy: "endgeneration"))]
    case "autoescape":
      let isOn = try expression()
      return [.autoescape(isOn, body: try body(endedBy: "endautoescape"))]
    case "block":
      let name = try name()
      let isScoped = takeWord("scoped")
      _ = takeWord("required")
      let body = try body(endedBy: "endblock")
      if case .name(name) = token { position += 1 }
      return [.block(name, isScoped: isScoped, body: body)]
    case "print":
      var outputs: [Node] = []
      while token != .blockEnd {
        if !outputs.isEmpty { try expect(",") }
        outputs.append(.output(try expression()))
      }
      return outputs
    case "break", "continue": return [.leave(isBreak: word == "break")]
    case "include", "extends", "import", "from":
      while token != .blockEnd, token != .end { position += 1 }
      return [.otherTemplate(word)]
    default:
      position -= 1
      throw failure("the statement '\(word)'")
    }
  }

  private mutating func loop() throws(JinjaFailure) -> JinjaSyntax.Loop {
    let target = try target(until: "in")
    guard takeWord("in") else { throw failure("a for without in") }
    let over = try tuple(takesConditions: false, until: "recursive")
    let condition = takeWord("if") ? try expression() : nil
    let isRecursive = takeWord("recursive")
    let body = try body(until: ["else", "endfor"])
    var otherwise: [Node] = []
    if takeWord("else") { otherwise = try self.body(until: ["endfor"]) }
    position += 1
    return JinjaSyntax.Loop(
      target: target, over: over, condition: condition, isRecursive: isRecursive, body: body, otherwise: otherwise)
  }

  private mutating func branches() throws(JinjaFailure) -> Node {
    var branches: [(Expression, [Node])] = []
    repeat {
      let condition = try tuple(takesConditions: false)
      branches.append((condition, try body(until: ["elif", "else", "endif"])))
    } while takeWord("elif")
    var otherwise: [Node] = []
    if takeWord("else") { otherwise = try body(until: ["endif"]) }
    position += 1
    return .branches(branches, otherwise: otherwise)
  }

  private mutating func assignment() throws(JinjaFailure) -> Node {
    let target = try target()
    if take("=") { return .set(target, try tuple()) }
    let filters = try filters(startsInline: false)
    return .setBlock(target, filters: filters, body: try body(endedBy: "endset"))
  }

  private mutating func callBlock() throws(JinjaFailure) -> Node {
    let parameters = token == .sign("(") ? try parameters() : []
    guard case .applied(let callee, var applications) = try expression(),
      case .call(let arguments)? = applications.popLast()
    else { throw failure("a call block without a call") }
    let macro = try macro(JinjaText("caller"), parameters, end: "endcall")
    return .call(applications.isEmpty ? callee : .applied(callee, applications), arguments, macro)
  }

  private mutating func parameters() throws(JinjaFailure) -> [(name: JinjaText, value: Expression?)] {
    var parameters: [(name: JinjaText, value: Expression?)] = []
    try expect("(")
    while !take(")") {
      if !parameters.isEmpty { try expect(",") }
      let name = try name()
      let value = take("=") ? try expression() : nil
      if value == nil, parameters.last?.value != nil {
        throw failure("a parameter without a default after one with it")
      }
      parameters.append((name, value))
    }
    return parameters
  }

  private mutating func macro(
    _ name: JinjaText, _ parameters: [(name: JinjaText, value: Expression?)], end: String
  ) throws(JinjaFailure) -> JinjaSyntax.Macro {
    let before = spokenOf
    spokenOf = []
    let body = try body(endedBy: end)
    let special = Set(["caller", "varargs", "kwargs"].filter { spokenOf.contains(JinjaText($0)) })
    spokenOf.formUnion(before)
    return JinjaSyntax.Macro(name: name, parameters: parameters, body: body, special: special)
  }

  /// Names, attributes of namespaces, and tuples of these, up to `=` or the word.
  private mutating func target(until end: String? = nil) throws(JinjaFailure) -> Target {
    try enter()
    defer { leave() }
    var parts: [Target] = []
    var isTuple = false
    repeat {
      if isTuple, end.map({ word == $0 }) ?? (token == .sign("=") || token == .sign(")")) { break }
      if take("(") {
        parts.append(try target())
        try expect(")")
      } else {
        let first = try name()
        guard !["true", "false", "none", "True", "False", "None"].contains(first.string) else {
          throw failure("an assignment to '\(first.string)'")
        }
        if end == nil, take(".") {
          speaks(of: first)
          parts.append(.attribute(of: first, try name()))
        } else {
          parts.append(.name(first))
        }
      }
      guard take(",") else { break }
      isTuple = true
    } while true
    return isTuple ? .parts(parts) : parts[0]
  }
}
