internal import Glibc
internal import TensorFiles

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

  private func elements(_ value: JinjaValue) throws(JinjaFailure) -> [JinjaValue] {
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

  private mutating func evaluate(_ expression: Expression) throws(JinjaFailure) -> JinjaValue {
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

  private mutating func all(_ expressions: [Expression]) throws(JinjaFailure) -> [JinjaValue] {
    var values: [JinjaValue] = []
    for expression in expressions { values.append(try evaluate(expression)) }
    return values
  }

  private func member(_ base: JinjaValue, _ name: String) -> JinjaValue {
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

  private mutating func call(
    _ callee: Expression, _ plain: [Expression], _ named: [(String, Expression)]
  ) throws(JinjaFailure) -> JinjaValue {
    let values = try all(plain)
    if case .name(let name) = callee {
      switch name {
      case "raise_exception": throw JinjaFailure(reason: "it says: \(values.first?.text ?? "")")
      case "namespace":
        let space = JinjaNamespace()
        for (key, value) in named { space.values[key] = try evaluate(value) }
        return .namespace(space)
      case "range":
        let bounds = values.compactMap { if case .integer(let value) = $0 { value } else { nil } }
        guard let last = bounds.count > 1 ? bounds[1] : bounds.first, bounds.count <= 2, last < 100_000 else {
          throw JinjaFailure(reason: "a range")
        }
        let first = bounds.count > 1 ? bounds[0] : 0
        return .list(first < last ? (first..<last).map { .integer($0) } : [])
      case "strftime_now": return .string(Self.now(values.first?.text ?? ""))
      case "dict":
        var members: [(key: String, value: JinjaValue)] = []
        for (key, value) in named { members.append((key, try evaluate(value))) }
        return .dictionary(members)
      default: throw JinjaFailure(reason: "the function '\(name)'")
      }
    }
    guard case .attribute(let base, let method) = callee else { throw JinjaFailure(reason: "a call of an expression") }
    let value = try evaluate(base)
    switch (value, method) {
    case (.dictionary(let members), "items"): return .list(members.map { .list([.string($0.key), $0.value]) })
    case (.dictionary(let members), "keys"): return .list(members.map { .string($0.key) })
    case (.dictionary(let members), "values"): return .list(members.map(\.value))
    case (.dictionary(let members), "get"):
      return members.first { $0.key == values.first?.text }?.value ?? (values.count > 1 ? values[1] : .none)
    case (.string(let text), "strip"), (.string(let text), "lstrip"), (.string(let text), "rstrip"):
      return .string(
        Self.stripped(text, values.first?.text, left: method != "rstrip", right: method != "lstrip"))
    case (.string(let text), "startswith"): return .bool(text.utf8.starts(with: (values.first?.text ?? "").utf8))
    case (.string(let text), "endswith"):
      return .bool(text.utf8.reversed().starts(with: (values.first?.text ?? "").utf8.reversed()))
    case (.string(let text), "split"):
      guard let separator = values.first?.text, !separator.isEmpty else {
        return .list(text.split(whereSeparator: \.isWhitespace).map { .string(String($0)) })
      }
      return .list(text.components(separatedBy: separator).map { .string($0) })
    case (.string(let text), "replace") where values.count >= 2:
      return .string(text.replacing(values[0].text, with: values[1].text))
    case (.string(let text), "upper"): return .string(text.uppercased())
    case (.string(let text), "lower"): return .string(text.lowercased())
    case (.string(let text), "title"), (.string(let text), "capitalize"):
      return .string(text.prefix(1).uppercased() + text.dropFirst().lowercased())
    default: throw JinjaFailure(reason: "the method '\(method)'")
    }
  }

  private static func stripped(_ text: String, _ characters: String?, left: Bool, right: Bool) -> String {
    func goes(_ scalar: Unicode.Scalar) -> Bool {
      characters.map { $0.unicodeScalars.contains(scalar) } ?? scalar.properties.isWhitespace
    }
    var scalars = Array(text.unicodeScalars)[...]
    if left { scalars = scalars.drop(while: goes) }
    if right { while let last = scalars.last, goes(last) { scalars.removeLast() } }
    return String(String.UnicodeScalarView(scalars))
  }

  private static func now(_ format: String) -> String {
    var seconds = time(nil)
    var parts = tm()
    localtime_r(&seconds, &parts)
    var buffer = [CChar](repeating: 0, count: 256)
    let length = strftime(&buffer, buffer.count, format, &parts)
    return String(decoding: buffer.prefix(length).map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  private func filter(
    _ value: JinjaValue, _ name: String, _ arguments: [JinjaValue], _ options: [String: JinjaValue]
  ) throws(JinjaFailure) -> JinjaValue {
    switch name {
    case "trim": return .string(Self.stripped(value.text, arguments.first?.text, left: true, right: true))
    case "upper": return .string(value.text.uppercased())
    case "lower": return .string(value.text.lowercased())
    case "capitalize": return .string(value.text.prefix(1).uppercased() + value.text.dropFirst().lowercased())
    case "string": return .string(value.text)
    case "length", "count": return .integer(try elements(value).count)
    case "first": return try elements(value).first ?? .undefined
    case "last": return try elements(value).last ?? .undefined
    case "list": return .list(try elements(value))
    case "reverse": return .list(try elements(value).reversed())
    case "join": return .string(try elements(value).map(\.text).joined(separator: arguments.first?.text ?? ""))
    case "default", "d":
      let replaces = value.isUndefined || (arguments.count > 1 && arguments[1].isTrue && !value.isTrue)
      return replaces ? arguments.first ?? .string("") : value
    case "replace" where arguments.count >= 2:
      return .string(value.text.replacing(arguments[0].text, with: arguments[1].text))
    case "items":
      guard case .dictionary(let members) = value else { return .list([]) }
      return .list(members.map { .list([.string($0.key), $0.value]) })
    case "int": return .integer(Int(value.text) ?? 0)
    case "safe": return value
    case "tojson":
      let indent = options["indent"]?.double.map { Int(min(max($0, 0), 16)) }
      return .string(value.json.dumped(indent: indent))
    case "selectattr", "rejectattr":
      let wanted = name == "selectattr"
      var kept: [JinjaValue] = []
      for item in try elements(value) {
        let found = member(item, arguments.first?.text ?? "")
        let holds =
          arguments.count > 1 ? try test(found, arguments[1].text, Array(arguments.dropFirst(2))) : found.isTrue
        if holds == wanted { kept.append(item) }
      }
      return .list(kept)
    case "map":
      guard let attribute = options["attribute"]?.text else {
        throw JinjaFailure(reason: "the filter 'map' without attribute")
      }
      return .list(try elements(value).map { member($0, attribute) })
    default: throw JinjaFailure(reason: "the filter '\(name)'")
    }
  }

  private func test(_ value: JinjaValue, _ name: String, _ arguments: [JinjaValue]) throws(JinjaFailure) -> Bool {
    switch (name, value) {
    case ("defined", _): return !value.isUndefined
    case ("undefined", _): return value.isUndefined
    case ("none", .none), ("string", .string), ("mapping", .dictionary), ("boolean", .bool), ("integer", .integer):
      return true
    case ("none", _), ("string", _), ("mapping", _), ("boolean", _), ("integer", _): return false
    case ("number", _): return value.double != nil
    case ("iterable", .list), ("iterable", .string), ("iterable", .dictionary): return true
    case ("sequence", .list), ("sequence", .string): return true
    case ("iterable", _), ("sequence", _): return false
    case ("true", .bool(let flag)): return flag
    case ("false", .bool(let flag)): return !flag
    case ("true", _), ("false", _): return false
    case ("equalto", _), ("eq", _), ("==", _): return value.equals(arguments.first ?? .undefined)
    case ("in", _): return try elements(arguments.first ?? .undefined).contains { $0.equals(value) }
    default: throw JinjaFailure(reason: "the test '\(name)'")
    }
  }
}

extension String {
  /// The parts between a separator.
  fileprivate func components(separatedBy separator: String) -> [String] {
    var parts: [String] = []
    var rest = self[...]
    while let range = rest.firstRange(of: separator) {
      parts.append(String(rest[..<range.lowerBound]))
      rest = rest[range.upperBound...]
    }
    return parts + [String(rest)]
  }
}

extension JSONValue {
  /// Python's `json.dumps` with its own separators, and `indent` spaces a level if given. Characters stay as they are.
  fileprivate func dumped(indent: Int?, level: Int = 0) -> String {
    func block(_ open: String, _ parts: [String], _ close: String) -> String {
      guard !parts.isEmpty else { return open + close }
      guard let indent else { return open + parts.joined(separator: ", ") + close }
      let (inner, outer) = (
        String(repeating: " ", count: indent * (level + 1)), String(repeating: " ", count: indent * level)
      )
      return open + "\n" + parts.map { inner + $0 }.joined(separator: ",\n") + "\n" + outer + close
    }
    switch self {
    case .array(let items): return block("[", items.map { $0.dumped(indent: indent, level: level + 1) }, "]")
    case .object(let members):
      return block(
        "{",
        members.map { JSONValue.string($0.key).compactText + ": " + $0.value.dumped(indent: indent, level: level + 1) },
        "}")
    default: return compactText
    }
  }
}
