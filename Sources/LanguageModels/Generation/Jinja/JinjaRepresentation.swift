internal import TensorFiles

/// How values become text: Python's `str` and `repr`.
extension JinjaMachine {
  /// What an output writes.
  func written(_ value: JinjaValue) throws(JinjaFailure) -> [Unicode.Scalar] {
    switch value {
    case .text(let text): return text.scalars
    case .undefined: return []
    default:
      var result: [Unicode.Scalar] = []
      try represent(value, &result)
      return result
    }
  }

  func represented(_ value: JinjaValue) throws(JinjaFailure) -> [Unicode.Scalar] {
    var result: [Unicode.Scalar] = []
    try represent(value, &result)
    return result
  }

  private func represent(_ value: JinjaValue, _ result: inout [Unicode.Scalar]) throws(JinjaFailure) {
    try budget.spend(bytes: 128)
    switch value {
    case .undefined: result += [Unicode.Scalar]("Undefined")
    case .none: result += [Unicode.Scalar]("None")
    case .bool(let value): result += [Unicode.Scalar](value ? "True" : "False")
    case .integer(let value): result += [Unicode.Scalar]("\(value)")
    case .number(let value): result += [Unicode.Scalar](Self.float(value))
    case .text(let text):
      let quoted = try quoted(text.scalars)
      result += text.isMarkup ? [Unicode.Scalar]("Markup(") + quoted + [")"] : quoted
    case .list(let list): try represent(list.items, "[", "]", &result)
    case .tuple(let list): try represent(list.items, "(", list.items.count == 1 ? ",)" : ")", &result)
    case .view(let view):
      try represent(view.list.items, view.kind + "([", "])", &result)
    case .dictionary(let dictionary): try represent(dictionary.entries, "{", "}", &result)
    case .range(let range):
      let step = range.step == 1 ? "" : ", \(range.step)"
      result += [Unicode.Scalar]("range(\(range.start), \(range.end)\(step))")
    case .namespace(let space):
      try enter()
      defer { leave() }
      var entries: [JinjaDictionary.Entry] = []
      for member in space.values { entries.append((.text(member.name), member.value)) }
      try represent(entries, "<Namespace {", "}>", &result)
    case .loop(let loop):
      let length = try attribute("length", of: loop) ?? .none
      result += [Unicode.Scalar]("<LoopContext \(loop.index + 1)/") + (try written(length)) + [">"]
    case .function(let function):
      guard case .macro(let macro, _) = function.kind else { throw JinjaFailure("a function as text") }
      result += [Unicode.Scalar]("<Macro ") + (try quoted(macro.name.scalars)) + [">"]
    case .iterator: throw JinjaFailure("a generator as text: it takes '|list' first")
    }
    guard result.count <= JinjaBudget.byteLimit / 8 else { throw JinjaFailure("a text of \(result.count) characters") }
  }

  private func represent(
    _ items: [JinjaValue], _ open: String, _ close: String, _ result: inout [Unicode.Scalar]
  ) throws(JinjaFailure) {
    result += [Unicode.Scalar](open)
    for (index, item) in items.enumerated() {
      if index > 0 { result += [",", " "] }
      try represent(item, &result)
    }
    result += [Unicode.Scalar](close)
  }

  private func represent(
    _ entries: [JinjaDictionary.Entry], _ open: String, _ close: String, _ result: inout [Unicode.Scalar]
  ) throws(JinjaFailure) {
    result += [Unicode.Scalar](open)
    for (index, entry) in entries.enumerated() {
      if index > 0 { result += [",", " "] }
      try represent(entry.key, &result)
      result += [":", " "]
      try represent(entry.value, &result)
    }
    result += [Unicode.Scalar](close)
  }

  /// Python's `str` of a float.
  static func float(_ value: Double) -> String {
    value.isNaN ? "nan" : value.isInfinite ? (value < 0 ? "-inf" : "inf") : pythonRepresentation(value)
  }

  /// A text in the quotes that Python chooses, with its escapes.
  private func quoted(_ scalars: [Unicode.Scalar]) throws(JinjaFailure) -> [Unicode.Scalar] {
    try budget.look(at: scalars.count)
    let quote: Unicode.Scalar = scalars.contains("'") && !scalars.contains("\"") ? "\"" : "'"
    var result = [quote]
    var paid = 0
    for scalar in scalars {
      try budget.pay(&paid, of: result.count)
      switch scalar {
      case quote, "\\": result += ["\\", scalar]
      case "\n": result += ["\\", "n"]
      case "\r": result += ["\\", "r"]
      case "\t": result += ["\\", "t"]
      default:
        if scalar.isPythonPrintable {
          result.append(scalar)
        } else {
          let (mark, width) = scalar.value < 0x100 ? ("x", 2) : scalar.value < 0x10000 ? ("u", 4) : ("U", 8)
          let digits = String(scalar.value, radix: 16)
          result += [Unicode.Scalar]("\\" + mark + String(repeating: "0", count: width - digits.count) + digits)
        }
      }
    }
    try budget.spend(result.count - paid, of: 4)
    return result + [quote]
  }

  /// markupsafe's `escape`: what is markup already stays.
  func escaped(_ text: JinjaText) throws(JinjaFailure) -> [Unicode.Scalar] {
    if text.isMarkup { return text.scalars }
    try budget.look(at: text.scalars.count)
    var result: [Unicode.Scalar] = []
    var paid = 0
    for scalar in text.scalars {
      try budget.pay(&paid, of: result.count)
      switch scalar {
      case "&": result += [Unicode.Scalar]("&amp;")
      case "<": result += [Unicode.Scalar]("&lt;")
      case ">": result += [Unicode.Scalar]("&gt;")
      case "'": result += [Unicode.Scalar]("&#39;")
      case "\"": result += [Unicode.Scalar]("&#34;")
      default: result.append(scalar)
      }
    }
    try budget.spend(result.count - paid, of: 4)
    return result
  }

  func escaped(_ value: JinjaValue) throws(JinjaFailure) -> [Unicode.Scalar] {
    if case .text(let text) = value { return try escaped(text) }
    return try escaped(JinjaText(try written(value)))
  }
}

extension JinjaValue {
  /// For messages.
  var typeName: String {
    switch self {
    case .undefined: "an undefined value"
    case .none: "none"
    case .bool: "a truth value"
    case .integer: "a whole number"
    case .number: "a number"
    case .text: "a text"
    case .list: "a list"
    case .tuple: "a tuple"
    case .dictionary: "a dictionary"
    case .view: "a dictionary's view"
    case .range: "a range"
    case .iterator: "a generator"
    case .namespace: "a namespace"
    case .loop: "a loop"
    case .function: "a function"
    }
  }
}
