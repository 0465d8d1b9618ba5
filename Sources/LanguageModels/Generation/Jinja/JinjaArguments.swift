/// What a call gives.
struct JinjaArguments {
  var plain: [JinjaValue] = []
  var named: [(name: JinjaText, value: JinjaValue)] = []

  /// The values of parameters in their order; nil for those that are not given.
  ///
  /// Throws for too many, for unknown names, and where one of the first `required` is missing.
  func bound(to parameters: [String], required: Int, of callee: String) throws(JinjaFailure) -> [JinjaValue?] {
    guard plain.count <= parameters.count else {
      throw JinjaFailure("'\(callee)' takes \(parameters.count) arguments, not \(plain.count)")
    }
    var values: [JinjaValue?] = plain
    values += Array(repeating: nil, count: parameters.count - plain.count)
    for (name, value) in named {
      guard let place = parameters.firstIndex(of: name.string), place >= plain.count else {
        throw JinjaFailure("'\(callee)' takes no argument '\(name.string)'")
      }
      values[place] = value
    }
    for place in 0..<required where values[place] == nil {
      throw JinjaFailure("'\(callee)' needs its argument '\(parameters[place])'")
    }
    return values
  }
}

/// A filter, test or method: its parameters and what it does to a value.
struct JinjaRoutine: Sendable {
  typealias Body = @Sendable (JinjaMachine, JinjaValue, [JinjaValue?]) throws(JinjaFailure) -> JinjaValue
  typealias FreeBody = @Sendable (JinjaMachine, JinjaValue, JinjaArguments) throws(JinjaFailure) -> JinjaValue

  private enum Kind {
    case fixed([String], required: Int, Body)
    case free(FreeBody)
  }

  private let kind: Kind

  init(_ parameters: String..., required: Int = 0, _ body: @escaping Body) {
    kind = .fixed(parameters, required: required, body)
  }

  /// One that takes whatever is given.
  init(free body: @escaping FreeBody) { kind = .free(body) }

  func run(
    _ name: String, _ machine: JinjaMachine, _ value: JinjaValue, _ arguments: JinjaArguments
  ) throws(JinjaFailure) -> JinjaValue {
    switch kind {
    case .fixed(let parameters, let required, let body):
      return try body(machine, value, try arguments.bound(to: parameters, required: required, of: name))
    case .free(let body): return try body(machine, value, arguments)
    }
  }
}

extension JinjaMachine {
  /// An argument as a whole number.
  func integer(_ value: JinjaValue?, or other: Int) throws(JinjaFailure) -> Int {
    guard let value else { return other }
    guard case .integer(let number)? = value.number else {
      throw JinjaFailure("\(value.typeName) in the place of a whole number")
    }
    return number
  }

  /// An argument as the characters of a text; nil if it is absent or none.
  func characters(_ value: JinjaValue?) throws(JinjaFailure) -> [Unicode.Scalar]? {
    switch value {
    case nil, .some(.none): return nil
    case .text(let text): return text.scalars
    case .some(let value): throw JinjaFailure("\(value.typeName) in the place of a text")
    }
  }

  func isTrue(_ value: JinjaValue?, or other: Bool) throws(JinjaFailure) -> Bool {
    guard let value else { return other }
    return try isTrue(value)
  }
}
