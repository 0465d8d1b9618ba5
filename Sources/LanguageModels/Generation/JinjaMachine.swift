/// Runs a template's nodes. Steps and output are bounded, so that a hostile template ends in an error.
struct JinjaMachine {
  typealias Node = JinjaTemplate.Node
  typealias Expression = JinjaTemplate.Expression

  private(set) var output = ""
  private var scopes: [[String: JinjaValue]]
  private var steps = 0

  init(_ variables: [String: JinjaValue]) { scopes = [variables] }

  mutating func run(_ nodes: [Node]) throws(JinjaFailure) {
    for node in nodes {
      steps += 1
      guard steps < 1_000_000, output.utf8.count < 100 << 20 else { throw JinjaFailure(reason: "it does not end") }
      switch node {
      case .text(let text): output += text
      case .output(let expression): output += try evaluate(expression).text
      case .branch(let branches, let otherwise):
        var body = otherwise
        for branch in branches where try evaluate(branch.condition).isTrue {
          body = branch.body
          break
        }
        try run(body)
      case .set(let name, let attribute, let expression):
        let value = try evaluate(expression)
        guard let attribute else {
          scopes[scopes.count - 1][name] = value
          continue
        }
        guard case .namespace(let space) = lookUp(name) else { throw JinjaFailure(reason: "'\(name)' is no namespace") }
        space.values[attribute] = value
      case .loop(let names, let over, let condition, let body, let otherwise):
        try loop(names, over, condition, body, otherwise)
      }
    }
  }

  private mutating func loop(
    _ names: [String], _ over: Expression, _ condition: Expression?, _ body: [Node], _ otherwise: [Node]
  ) throws(JinjaFailure) {
    var items = try elements(try evaluate(over))
    func bindings(_ item: JinjaValue) -> [String: JinjaValue] {
      guard names.count > 1, case .list(let parts) = item else { return [names[0]: item] }
      return Dictionary(zip(names, parts), uniquingKeysWith: { first, _ in first })
    }
    if let condition {
      var kept: [JinjaValue] = []
      for item in items {
        scopes.append(bindings(item))
        if try evaluate(condition).isTrue { kept.append(item) }
        scopes.removeLast()
      }
      items = kept
    }
    if items.isEmpty { return try run(otherwise) }
    for (index, item) in items.enumerated() {
      var scope = bindings(item)
      scope["loop"] = .dictionary([
        ("index", .integer(index + 1)), ("index0", .integer(index)), ("first", .bool(index == 0)),
        ("last", .bool(index == items.count - 1)), ("length", .integer(items.count)),
        ("revindex", .integer(items.count - index)), ("revindex0", .integer(items.count - index - 1)),
        ("previtem", index > 0 ? items[index - 1] : .undefined),
        ("nextitem", index + 1 < items.count ? items[index + 1] : .undefined),
      ])
      scopes.append(scope)
      try run(body)
      scopes.removeLast()
    }
  }

  func elements(_ value: JinjaValue) throws(JinjaFailure) -> [JinjaValue] {
    switch value {
    case .list(let items): items
    case .dictionary(let members): members.map { .string($0.key) }
    case .string(let text): text.unicodeScalars.map { .string(String(Character($0))) }
    case .undefined: []
    default: throw JinjaFailure(reason: "a loop over what is no list")
    }
  }

  private func lookUp(_ name: String) -> JinjaValue {
    for scope in scopes.reversed() { if let value = scope[name] { return value } }
    return .undefined
  }

  mutating func evaluate(_ expression: Expression) throws(JinjaFailure) -> JinjaValue {
    switch expression {
    case .value(let value): return value
    case .name(let name): return lookUp(name)
    case .list(let items): return .list(try all(items))
    case .dictionary(let items):
      var members: [(key: String, value: JinjaValue)] = []
      for (key, value) in items { members.append((try evaluate(key).text, try evaluate(value))) }
      return .dictionary(members)
    case .attribute(let base, let name): return member(try evaluate(base), name)
    case .index(let base, let index):
      let (base, index) = (try evaluate(base), try evaluate(index))
      if case .integer(let place) = index {
        switch base {
        case .list(let items):
          let place = place < 0 ? items.count + place : place
          return items.indices.contains(place) ? items[place] : .undefined
        case .string(let text):
          let scalars = Array(text.unicodeScalars)
          let place = place < 0 ? scalars.count + place : place
          return scalars.indices.contains(place) ? .string(String(Character(scalars[place]))) : .undefined
        default: return .undefined
        }
      }
      return member(base, index.text)
    case .slice(let base, let first, let last, let step): return try slice(base, first, last, step)
    case .call(let callee, let plain, let named): return try call(callee, plain, named)
    case .filter(let base, let name, let plain, let named):
      var options: [String: JinjaValue] = [:]
      for (name, value) in named { options[name] = try evaluate(value) }
      return try filter(try evaluate(base), name, try all(plain), options)
    case .test(let base, let name, let plain, let isNegated):
      let result = try test(try evaluate(base), name, try all(plain))
      return .bool(result != isNegated)
    case .not(let inner): return .bool(!(try evaluate(inner).isTrue))
    case .negative(let inner):
      switch try evaluate(inner) {
      case .integer(let value): return .integer(0 &- value)
      case .number(let value): return .number(-value)
      default: throw JinjaFailure(reason: "a minus before what is no number")
      }
    case .conditional(let first, let condition, let otherwise):
      if try evaluate(condition).isTrue { return try evaluate(first) }
      return try otherwise.map { expression throws(JinjaFailure) in try evaluate(expression) } ?? .undefined
    case .binary(let sign, let left, let right): return try binary(sign, left, right)
    }
  }

  mutating func all(_ expressions: [Expression]) throws(JinjaFailure) -> [JinjaValue] {
    var values: [JinjaValue] = []
    for expression in expressions { values.append(try evaluate(expression)) }
    return values
  }

  func member(_ base: JinjaValue, _ name: String) -> JinjaValue {
    switch base {
    case .dictionary(let members): members.first { $0.key == name }?.value ?? .undefined
    case .namespace(let space): space.values[name] ?? .undefined
    default: .undefined
    }
  }

  private mutating func slice(
    _ base: Expression, _ first: Expression?, _ last: Expression?, _ step: Expression?
  ) throws(JinjaFailure) -> JinjaValue {
    func bound(_ expression: Expression?) throws(JinjaFailure) -> Int? {
      guard let expression else { return nil }
      guard case .integer(let value) = try evaluate(expression) else {
        throw JinjaFailure(reason: "an index that is no number")
      }
      return value
    }
    let (from, to, stride) = (try bound(first), try bound(last), try bound(step) ?? 1)
    let value = try evaluate(base)
    func cut<Item>(_ items: [Item]) throws(JinjaFailure) -> [Item] {
      func place(_ bound: Int) -> Int { min(max(bound < 0 ? items.count + bound : bound, 0), items.count) }
      if stride == -1 && from == nil && to == nil { return items.reversed() }
      guard stride == 1 else { throw JinjaFailure(reason: "a slice with a step of \(stride)") }
      let (start, end) = (place(from ?? 0), place(to ?? items.count))
      return start < end ? Array(items[start..<end]) : []
    }
    switch value {
    case .list(let items): return .list(try cut(items))
    case .string(let text):
      return .string(String(String.UnicodeScalarView(try cut(Array(text.unicodeScalars)))))
    default: return .undefined
    }
  }

  private mutating func binary(_ sign: String, _ left: Expression, _ right: Expression) throws(JinjaFailure)
    -> JinjaValue
  {
    let a = try evaluate(left)
    if sign == "or" { return a.isTrue ? a : try evaluate(right) }
    if sign == "and" { return a.isTrue ? try evaluate(right) : a }
    let b = try evaluate(right)
    switch sign {
    case "==": return .bool(a.equals(b))
    case "!=": return .bool(!a.equals(b))
    case "~": return .string(a.text + b.text)
    case "in":
      switch b {
      case .string(let text): return .bool(a.text.isEmpty || text.contains(a.text))
      case .list(let items): return .bool(items.contains { $0.equals(a) })
      case .dictionary(let members): return .bool(members.contains { $0.key == a.text })
      case .undefined: return .bool(false)
      default: throw JinjaFailure(reason: "'in' what is no list")
      }
    case "+":
      if case .string(let x) = a, case .string(let y) = b { return .string(x + y) }
      if case .list(let x) = a, case .list(let y) = b { return .list(x + y) }
    default: break
    }
    if case .integer(let x) = a, case .integer(let y) = b {
      switch sign {
      case "+": return .integer(x &+ y)
      case "-": return .integer(x &- y)
      case "*": return .integer(x &* y)
      case "%" where y > 0: return .integer(((x % y) + y) % y)
      case "//" where y > 0: return .integer(Int((Double(x) / Double(y)).rounded(.down)))
      default: break
      }
    }
    if case .string(let x) = a, case .string(let y) = b, ["<", ">", "<=", ">="].contains(sign) {
      return .bool(sign == "<" ? x < y : sign == ">" ? x > y : sign == "<=" ? x <= y : x >= y)
    }
    guard let x = a.double, let y = b.double else { throw JinjaFailure(reason: "'\(sign)' between these values") }
    switch sign {
    case "<": return .bool(x < y)
    case ">": return .bool(x > y)
    case "<=": return .bool(x <= y)
    case ">=": return .bool(x >= y)
    case "+": return .number(x + y)
    case "-": return .number(x - y)
    case "*": return .number(x * y)
    case "/" where y != 0: return .number(x / y)
    default: throw JinjaFailure(reason: "'\(sign)' between these values")
    }
  }
}
