internal import Glibc

/// Calls of macros, methods and the renderer's functions.
extension JinjaMachine {
  /// Names that are defined in every template.
  static let globals: Set<String> = [
    "range", "dict", "namespace", "cycler", "joiner", "lipsum", "raise_exception", "strftime_now",
  ]

  func call(_ callee: JinjaValue, _ arguments: JinjaArguments) throws(JinjaFailure) -> JinjaValue {
    try enter()
    defer { leave() }
    switch callee {
    case .undefined(let undefined): throw JinjaFailure(undefined.reason)
    case .loop(let loop):
      return try recurse(loop, into: try arguments.bound(to: ["iterable"], required: 1, of: "loop")[0] ?? .none)
    case .function(let function): return try call(function, arguments)
    default: throw JinjaFailure("a call of \(callee.typeName)")
    }
  }

  private func call(_ function: JinjaFunction, _ arguments: JinjaArguments) throws(JinjaFailure) -> JinjaValue {
    switch function.kind {
    case .macro(let macro, let scope): return try call(macro, in: scope, arguments)
    case .global(let name): return try callGlobal(name, arguments)
    case .method(let value, let name): return try callMethod(name, of: value, arguments)
    case .cycler, .joiner: return try callCounter(function, "next")
    }
  }

  private func callMethod(
    _ name: String, of value: JinjaValue, _ arguments: JinjaArguments
  ) throws(JinjaFailure) -> JinjaValue {
    switch value {
    case .loop(let loop): return try callLoop(name, loop, arguments.plain)
    case .function(let function): return try callCounter(function, name)
    default: break
    }
    let table: [String: JinjaRoutine]
    switch value {
    case .text: table = Self.textMethods
    case .dictionary: table = Self.dictionaryMethods
    default: table = Self.listMethods
    }
    guard let method = table[name] else { throw JinjaFailure("the method '\(name)'") }
    return try method.run(name, self, value, arguments)
  }

  private func callCounter(_ function: JinjaFunction, _ method: String) throws(JinjaFailure) -> JinjaValue {
    defer { function.count = method == "reset" ? 0 : function.count &+ 1 }
    switch function.kind {
    case .cycler(let list): return method == "reset" ? .none : list.items[function.count % list.items.count]
    case .joiner(let text): return function.count == 0 ? .constant("") : .text(text)
    default: throw JinjaFailure("the method '\(method)'")
    }
  }

  // MARK: Macros

  func callBlock(
    _ callee: Syntax.Expression, _ given: Syntax.Arguments, _ macro: Syntax.Macro
  ) throws(JinjaFailure) {
    let function = try evaluate(callee)
    var arguments = try arguments(given)
    try capture(scope)
    arguments.named.append((macro.name, .function(JinjaFunction(.macro(macro, scope)))))
    try write(try written(try call(function, arguments)))
  }

  private func call(
    _ macro: Syntax.Macro, in outer: JinjaScope, _ arguments: JinjaArguments
  ) throws(JinjaFailure) -> JinjaValue {
    let scope = JinjaScope(parent: outer)
    let name = macro.name.string
    var named = arguments.named
    func take(_ parameter: JinjaText) -> JinjaValue? {
      guard let place = named.firstIndex(where: { $0.name == parameter }) else { return nil }
      return named.remove(at: place).value
    }
    let caller = JinjaText("caller")
    let hasCaller = macro.parameters.contains { $0.name == caller }
    try within(scope) { () throws(JinjaFailure) in
      var given: [JinjaValue?] = []
      for (index, parameter) in macro.parameters.enumerated() {
        given.append(index < arguments.plain.count ? arguments.plain[index] : take(parameter.name))
      }
      if macro.special.contains("caller"), !hasCaller {
        scope.set(caller, take(caller) ?? .missing("the macro '\(name)' has no caller"))
      }
      if macro.special.contains("kwargs") {
        scope.set(JinjaText("kwargs"), try budget.dictionary(named.map { (.text($0.name), $0.value) }))
      } else if let extra = named.first {
        throw JinjaFailure("the macro '\(name)' takes no argument '\(extra.name.string)'")
      }
      if macro.special.contains("varargs") {
        scope.set(JinjaText("varargs"), try budget.tuple(Array(arguments.plain.dropFirst(macro.parameters.count))))
      } else if arguments.plain.count > macro.parameters.count {
        throw JinjaFailure(
          "the macro '\(name)' takes \(macro.parameters.count) arguments, not \(arguments.plain.count)")
      }
      for (parameter, value) in zip(macro.parameters, given) {
        if let value {
          scope.set(parameter.name, value)
        } else if let other = parameter.value {
          scope.set(parameter.name, try evaluate(other))
        } else {
          scope.set(parameter.name, .missing("the parameter '\(parameter.name.string)' was not given"))
        }
      }
    }
    let (text, end) = try within(scope) { () throws(JinjaFailure) in
      try captured { () throws(JinjaFailure) in try run(macro.body) }
    }
    guard end == .normal else { throw JinjaFailure("break or continue outside of a loop") }
    return text
  }

  // MARK: Functions of the renderer

  private func callGlobal(_ name: String, _ arguments: JinjaArguments) throws(JinjaFailure) -> JinjaValue {
    switch name {
    case "raise_exception":
      let message = try arguments.bound(to: ["message"], required: 1, of: name)[0] ?? .none
      throw JinjaFailure("it says: \(String(try written(message)))")
    case "range":
      guard arguments.named.isEmpty, (1...3).contains(arguments.plain.count) else {
        throw JinjaFailure("'range' takes 1 to 3 numbers")
      }
      var bounds: [Int] = []
      for value in arguments.plain { bounds.append(try integer(value, or: 0)) }
      let range = try JinjaRange(
        bounds.count > 1 ? bounds[0] : 0, bounds.count > 1 ? bounds[1] : bounds[0], bounds.count > 2 ? bounds[2] : 1)
      // Source: jinja2 `sandbox.py`, MAX_RANGE.
      guard range.count <= 100_000 else { throw JinjaFailure("a range of more than 100000 numbers") }
      return .range(range)
    case "dict": return try budget.dictionary(try members(arguments, of: name))
    case "namespace":
      let space = try makeNamespace()
      for entry in try members(arguments, of: name) {
        guard case .text(let key) = entry.key else { throw JinjaFailure("an attribute whose name is no text") }
        try set(key, of: space, to: entry.value)
      }
      return .namespace(space)
    case "cycler":
      guard !arguments.plain.isEmpty else { throw JinjaFailure("'cycler' without values") }
      return .function(JinjaFunction(.cycler(try budget.items(arguments.plain))))
    case "joiner":
      let separator = try arguments.bound(to: ["sep"], required: 0, of: name)[0]
      return .function(JinjaFunction(.joiner(JinjaText(try characters(separator) ?? [",", " "]))))
    case "strftime_now":
      let format = try arguments.bound(to: ["format"], required: 1, of: name)[0]
      return try time(try characters(format) ?? [])
    default: throw JinjaFailure("the function '\(name)'")
    }
  }

  /// What `dict` and `namespace` are made of: a dictionary or pairs, then names with values.
  private func members(_ arguments: JinjaArguments, of name: String) throws(JinjaFailure) -> [JinjaDictionary.Entry] {
    guard arguments.plain.count <= 1 else { throw JinjaFailure("'\(name)' takes one dictionary") }
    var entries: [JinjaDictionary.Entry] = []
    switch arguments.plain.first {
    case .dictionary(let dictionary): entries = dictionary.entries
    case let pairs?:
      for pair in try items(of: pairs, for: "'\(name)'") {
        let parts = try items(of: pair, for: "'\(name)'")
        guard parts.count == 2 else { throw JinjaFailure("'\(name)' of what are no pairs") }
        entries.append((parts[0], parts[1]))
      }
    case nil: break
    }
    return entries + arguments.named.map { (.text($0.name), $0.value) }
  }

  /// C's `strftime` of the time in this place.
  private func time(_ format: [Unicode.Scalar]) throws(JinjaFailure) -> JinjaValue {
    guard format.count <= 256, !format.contains("\0") else {
      throw JinjaFailure("a time's format of \(format.count) characters")
    }
    guard !format.isEmpty else { return .constant("") }
    var seconds = self.seconds ?? Glibc.time(nil)
    var parts = tm()
    localtime_r(&seconds, &parts)
    var buffer = [CChar](repeating: 0, count: 32 << 10)
    let length = strftime(&buffer, buffer.count, String(format), &parts)
    return try budget.text(
      [Unicode.Scalar](String(decoding: buffer.prefix(length).map { UInt8(bitPattern: $0) }, as: UTF8.self)))
  }
}
