internal import TensorFiles

/// Why a template is not understood, or what it says itself.
struct JinjaFailure: Error {
  let reason: String
}

/// The part of Jinja that chat templates use: texts, expressions, `for`, `if`, `set`, namespaces and a few filters.
///
/// Blocks are trimmed as transformers has it (`trim_blocks` and `lstrip_blocks`). Source: transformers
/// `utils/chat_template_utils.py`; Jinja's template documentation.
struct JinjaTemplate {
  indirect enum Node {
    case text(String)
    case output(Expression)
    case loop(name: [String], over: Expression, condition: Expression?, body: [Node], otherwise: [Node])
    case branch([(condition: Expression, body: [Node])], otherwise: [Node])
    case set(name: String, attribute: String?, Expression)
  }

  indirect enum Expression {
    case value(JinjaValue)
    case name(String)
    case list([Expression])
    case dictionary([(Expression, Expression)])
    case attribute(Expression, String)
    case index(Expression, Expression)
    case slice(Expression, Expression?, Expression?, Expression?)
    case call(Expression, [Expression], [(String, Expression)])
    case filter(Expression, String, [Expression], [(String, Expression)])
    case test(Expression, String, [Expression], isNegated: Bool)
    case not(Expression)
    case negative(Expression)
    case binary(String, Expression, Expression)
    case conditional(Expression, condition: Expression, otherwise: Expression?)
  }

  private let nodes: [Node]

  init(_ source: String) throws(JinjaFailure) {
    // As Jinja does unless it is told to keep it.
    let source = source.hasSuffix("\n") ? String(source.unicodeScalars.dropLast()) : source
    var parser = JinjaParser(try JinjaLexer.lex(source))
    nodes = try parser.parse(until: [])
  }

  func render(_ variables: [JSONValue.Member]) throws(JinjaFailure) -> String {
    var scope: [String: JinjaValue] = [:]
    for member in variables { scope[member.key] = JinjaValue(member.value) }
    var machine = JinjaMachine(scope)
    try machine.run(nodes)
    return machine.output
  }
}

/// A value of a template.
indirect enum JinjaValue {
  case undefined
  case none
  case bool(Bool)
  case integer(Int)
  case number(Double)
  case string(String)
  case list([JinjaValue])
  case dictionary([(key: String, value: JinjaValue)])
  case namespace(JinjaNamespace)

  init(_ json: JSONValue) {
    switch json {
    case .null: self = .none
    case .bool(let value): self = .bool(value)
    case .integer(let value): self = .integer(value)
    case .number(let value): self = .number(value)
    case .string(let value): self = .string(value)
    case .array(let values): self = .list(values.map(JinjaValue.init))
    case .object(let members): self = .dictionary(members.map { ($0.key, JinjaValue($0.value)) })
    }
  }

  var isTrue: Bool {
    switch self {
    case .undefined, .none: false
    case .bool(let value): value
    case .integer(let value): value != 0
    case .number(let value): value != 0
    case .string(let value): !value.isEmpty
    case .list(let values): !values.isEmpty
    case .dictionary(let members): !members.isEmpty
    case .namespace: true
    }
  }

  var isUndefined: Bool { if case .undefined = self { true } else { false } }

  /// As Jinja writes it into the text.
  var text: String {
    switch self {
    case .undefined: ""
    case .none: "None"
    case .bool(let value): value ? "True" : "False"
    case .integer(let value): "\(value)"
    case .number(let value): "\(value)"
    case .string(let value): value
    case .list, .dictionary, .namespace: json.compactText
    }
  }

  var json: JSONValue {
    switch self {
    case .undefined, .none, .namespace: .null
    case .bool(let value): .bool(value)
    case .integer(let value): .integer(value)
    case .number(let value): .number(value)
    case .string(let value): .string(value)
    case .list(let values): .array(values.map(\.json))
    case .dictionary(let members): .object(members.map { JSONValue.Member($0.key, $0.value.json) })
    }
  }

  func equals(_ other: JinjaValue) -> Bool {
    switch (self, other) {
    case (.undefined, .undefined), (.none, .none): true
    case (.bool(let a), .bool(let b)): a == b
    case (.string(let a), .string(let b)): Array(a.utf8) == Array(b.utf8)
    case (.list(let a), .list(let b)): a.count == b.count && zip(a, b).allSatisfy { $0.equals($1) }
    case (.dictionary, .dictionary): json == other.json
    default: if let a = double, let b = other.double { a == b } else { false }
    }
  }

  var double: Double? {
    switch self {
    case .integer(let value): Double(value)
    case .number(let value): value
    default: nil
    }
  }
}

/// What `namespace()` gives: values that assignments in loops change for good.
final class JinjaNamespace {
  var values: [String: JinjaValue] = [:]
}
