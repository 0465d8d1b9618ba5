internal import TensorFiles

/// Python's `json.dumps`, as transformers' `tojson` calls it: characters stay as they are, HTML's too.
///
/// Source: transformers `utils/chat_template_utils.py`, `tojson`.
struct JinjaJSON {
  let machine: JinjaMachine
  var isASCII = false
  /// The white space of a level; nil for one line.
  var indent: [Unicode.Scalar]?
  var (comma, colon): ([Unicode.Scalar], [Unicode.Scalar]) = ([",", " "], [":", " "])
  var sortsKeys = false
  private var result: [Unicode.Scalar] = []
  /// Characters of the result that are paid for.
  private var paid = 0

  init(_ machine: JinjaMachine) { self.machine = machine }

  mutating func text(_ value: JinjaValue) throws(JinjaFailure) -> [Unicode.Scalar] {
    (result, paid) = ([], 0)
    try write(value, level: 0)
    return result
  }

  private mutating func write(_ value: JinjaValue, level: Int) throws(JinjaFailure) {
    try machine.budget.step()
    try machine.budget.pay(&paid, of: result.count)
    guard result.count <= JinjaBudget.byteLimit / 8 else { throw JinjaFailure("a text of \(result.count) characters") }
    switch value {
    case .none: result += [Unicode.Scalar]("null")
    case .bool(let value): result += [Unicode.Scalar](value ? "true" : "false")
    case .integer(let value): result += [Unicode.Scalar]("\(value)")
    case .number(let value): result += [Unicode.Scalar](pythonRepresentation(value))
    case .text(let text): try write(text.scalars)
    case .list(let list), .tuple(let list):
      try write(list.items.map { (nil, $0) }, "[", "]", level)
    case .dictionary(let dictionary):
      var entries = dictionary.entries
      if sortsKeys { entries = try machine.sorted(entries, by: { $0.key }, reversed: false) }
      var members: [([Unicode.Scalar]?, JinjaValue)] = []
      for entry in entries { members.append((try key(entry.key), entry.value)) }
      try write(members, "{", "}", level)
    default: throw JinjaFailure("'tojson' of \(value.typeName)")
    }
  }

  private mutating func write(
    _ members: [(key: [Unicode.Scalar]?, value: JinjaValue)], _ open: Unicode.Scalar, _ close: Unicode.Scalar,
    _ level: Int
  ) throws(JinjaFailure) {
    result.append(open)
    for (index, member) in members.enumerated() {
      if index > 0 { result += comma }
      try startLine(level + 1)
      if let key = member.key {
        try write(key)
        result += colon
      }
      try write(member.value, level: level + 1)
    }
    if !members.isEmpty { try startLine(level) }
    result.append(close)
  }

  private mutating func startLine(_ level: Int) throws(JinjaFailure) {
    guard let indent else { return }
    try machine.budget.spend(indent.count * level + 1, of: 4)
    paid += indent.count * level + 1
    result.append("\n")
    for _ in 0..<level { result += indent }
  }

  private func key(_ value: JinjaValue) throws(JinjaFailure) -> [Unicode.Scalar] {
    switch value {
    case .text(let text): return text.scalars
    case .none: return [Unicode.Scalar]("null")
    case .bool(let value): return [Unicode.Scalar](value ? "true" : "false")
    case .integer(let value): return [Unicode.Scalar]("\(value)")
    case .number(let value): return [Unicode.Scalar](pythonRepresentation(value))
    default: throw JinjaFailure("'tojson' of a dictionary with \(value.typeName) as a key")
    }
  }

  private mutating func write(_ scalars: [Unicode.Scalar]) throws(JinjaFailure) {
    try machine.budget.look(at: scalars.count)
    result.append("\"")
    for scalar in scalars {
      try machine.budget.pay(&paid, of: result.count)
      switch scalar {
      case "\"": result += ["\\", "\""]
      case "\\": result += ["\\", "\\"]
      case "\n": result += ["\\", "n"]
      case "\r": result += ["\\", "r"]
      case "\t": result += ["\\", "t"]
      case "\u{8}": result += ["\\", "b"]
      case "\u{C}": result += ["\\", "f"]
      default:
        guard scalar.value < 0x20 || (isASCII && scalar.value > 0x7E) else {
          result.append(scalar)
          continue
        }
        for unit in String(Character(scalar)).utf16 {
          let digits = String(unit, radix: 16)
          result += [Unicode.Scalar]("\\u" + String(repeating: "0", count: 4 - digits.count) + digits)
        }
      }
    }
    result.append("\"")
  }
}
