/// Tests, as in `x is defined`. Source: jinja2 `tests.py`.
extension JinjaMachine {
  func test(_ name: String, _ value: JinjaValue, _ arguments: JinjaArguments) throws(JinjaFailure) -> Bool {
    guard let test = Self.tests[name] else { throw JinjaFailure("the test '\(name)'") }
    return try isTrue(try test.run(name, self, value, arguments))
  }

  private static func comparison(_ sign: String) -> JinjaRoutine {
    JinjaRoutine("other", required: 1) { (machine, value, given) throws(JinjaFailure) in
      .bool(try machine.compare(sign, value, given[0] ?? .none))
    }
  }

  private static func kind(_ holds: @escaping @Sendable (JinjaValue) -> Bool) -> JinjaRoutine {
    JinjaRoutine { (_, value, _) throws(JinjaFailure) in .bool(holds(value)) }
  }

  private static func remainder(_ divisor: Int?, is expected: Int) -> JinjaRoutine {
    let body: JinjaRoutine.Body = { (machine, value, given) throws(JinjaFailure) in
      let rest = try machine.binary("%", value, divisor.map { .integer($0) } ?? given[0] ?? .none)
      return .bool(try machine.equals(rest, .integer(expected)))
    }
    return divisor == nil ? JinjaRoutine("num", required: 1, body) : JinjaRoutine(required: 0, body)
  }

  static let tests: [String: JinjaRoutine] = {
    var tests: [String: JinjaRoutine] = [
      "defined": kind { if case .undefined = $0 { false } else { true } },
      "undefined": kind { if case .undefined = $0 { true } else { false } },
      "none": kind { if case .none = $0 { true } else { false } },
      "boolean": kind { if case .bool = $0 { true } else { false } },
      "true": kind { if case .bool(true) = $0 { true } else { false } },
      "false": kind { if case .bool(false) = $0 { true } else { false } },
      "integer": kind { if case .integer = $0 { true } else { false } },
      "float": kind { if case .number = $0 { true } else { false } },
      "number": kind { $0.number != nil },
      "string": kind { if case .text = $0 { true } else { false } },
      "escaped": kind { if case .text(let text) = $0 { text.isMarkup } else { false } },
      "mapping": kind { if case .dictionary = $0 { true } else { false } },
      "callable": kind {
        switch $0 {
        case .function, .undefined, .loop: true
        default: false
        }
      },
      "sequence": kind {
        switch $0 {
        case .text, .list, .tuple, .dictionary, .range, .undefined: true
        default: false
        }
      },
      "iterable": kind {
        switch $0 {
        case .text, .list, .tuple, .dictionary, .range, .undefined, .view, .iterator, .loop: true
        default: false
        }
      },
      "odd": remainder(2, is: 1), "even": remainder(2, is: 0), "divisibleby": remainder(nil, is: 0),
      "sameas": JinjaRoutine("other", required: 1) { (machine, value, given) throws(JinjaFailure) in
        .bool(try machine.isSame(value, given[0] ?? .none))
      },
      "in": JinjaRoutine("seq", required: 1) { (machine, value, given) throws(JinjaFailure) in
        .bool(try machine.contains(given[0] ?? .none, value))
      },
      "filter": JinjaRoutine { (machine, value, _) throws(JinjaFailure) in
        .bool(try machine.characters(value).map { JinjaMachine.filters[String($0)] != nil } ?? false)
      },
      "test": JinjaRoutine { (machine, value, _) throws(JinjaFailure) in
        .bool(try machine.characters(value).map { JinjaMachine.isTest(String($0)) } ?? false)
      },
    ]
    for (name, isUpper) in [("upper", true), ("lower", false)] {
      tests[name] = JinjaRoutine { (machine, value, _) throws(JinjaFailure) in
        .bool(JinjaMachine.hasCase(try machine.written(value), upper: isUpper))
      }
    }
    for (names, sign) in [
      (["==", "eq", "equalto"], "=="), (["!=", "ne"], "!="), ([">", "gt", "greaterthan"], ">"), ([">=", "ge"], ">="),
      (["<", "lt", "lessthan"], "<"), (["<=", "le"], "<="),
    ] {
      for name in names { tests[name] = comparison(sign) }
    }
    return tests
  }()

  private static func isTest(_ name: String) -> Bool { tests[name] != nil }

  /// Python's `islower` and `isupper`.
  static func hasCase(_ scalars: [Unicode.Scalar], upper: Bool) -> Bool {
    var isCased = false
    for scalar in scalars {
      if upper ? scalar.properties.isLowercase : scalar.properties.isUppercase { return false }
      if scalar.properties.generalCategory == .titlecaseLetter { return false }
      if upper ? scalar.properties.isUppercase : scalar.properties.isLowercase { isCased = true }
    }
    return isCased
  }

  /// Python's `is`, for what a template can tell apart.
  private func isSame(_ a: JinjaValue, _ b: JinjaValue) throws(JinjaFailure) -> Bool {
    switch (a, b) {
    case (.none, .none): true
    case (.bool(let x), .bool(let y)): x == y
    case (.integer(let x), .integer(let y)): x == y && (-5...256).contains(x)
    case (.text(let x), .text(let y)): x === y || (x.scalars.count <= 1 && x == y)
    case (.list(let x), .list(let y)), (.tuple(let x), .tuple(let y)): x === y
    case (.dictionary(let x), .dictionary(let y)): x === y
    case (.namespace, .namespace), (.loop, .loop), (.iterator, .iterator), (.function, .function): try equals(a, b)
    default: false
    }
  }
}
