/// Filters, as in `x | trim`. Source: jinja2 `filters.py`; transformers' own `tojson`.
extension JinjaMachine {
  func filter(_ name: String, _ value: JinjaValue, _ arguments: JinjaArguments) throws(JinjaFailure) -> JinjaValue {
    guard let filter = Self.filters[name] else { throw JinjaFailure("the filter '\(name)'") }
    return try filter.run(name, self, value, arguments)
  }

  static let filters = textFilters.merging(itemFilters) { first, _ in first }
    .merging(choosingFilters) { first, _ in first }.merging(numberFilters) { first, _ in first }

  /// The filters that numbers and values of any kind take.
  private static let numberFilters: [String: JinjaRoutine] = [
    "default": fallback, "d": fallback,
    "abs": JinjaRoutine { (machine, value, _) throws(JinjaFailure) in
      switch try machine.number(value, sign: "abs") {
      case .integer(let number) where number < 0: return try machine.negated(.integer(number))
      case .number(let number): return .number(number.magnitude)
      case let number: return number
      }
    },
    "int": JinjaRoutine("default", "base") { (machine, value, given) throws(JinjaFailure) in
      try machine.wholeNumber(value, or: given[0] ?? .integer(0), base: try machine.integer(given[1], or: 10))
    },
    "float": JinjaRoutine("default") { (machine, value, given) throws(JinjaFailure) in
      if case .undefined(let undefined) = value { throw JinjaFailure(undefined.reason) }
      return JinjaMachine.parsedDouble(value).map { .number($0) } ?? given[0] ?? .number(0)
    },
    "round": JinjaRoutine("precision", "method") { (machine, value, given) throws(JinjaFailure) in
      try machine.rounded(
        value, try machine.integer(given[0], or: 0), try machine.characters(given[1]).map { String($0) } ?? "common")
    },
    "filesizeformat": JinjaRoutine("binary") { (machine, value, given) throws(JinjaFailure) in
      guard let bytes = JinjaMachine.parsedDouble(value) else {
        throw JinjaFailure("'filesizeformat' of \(value.typeName)")
      }
      let isBinary = try machine.isTrue(given[0], or: false)
      let base = isBinary ? 1024.0 : 1000
      if bytes == 1 { return .constant("1 Byte") }
      if bytes < base, let whole = Int(exactly: bytes.rounded(.towardZero)) { return .constant("\(whole) Bytes") }
      let units = ["k", "M", "G", "T", "P", "E", "Z", "Y"]
      var unit = base * base
      var place = 0
      while bytes >= unit, place < units.count - 1 { (unit, place) = (unit * base, place + 1) }
      let letter = isBinary ? units[place].uppercased() + "iB" : units[place] + "B"
      return .constant(JinjaNumberFormat.fixed(base * bytes / unit, 1) + " " + letter)
    },
    "tojson": JinjaRoutine("ensure_ascii", "indent", "separators", "sort_keys") {
      (machine, value, given) throws(JinjaFailure) in
      var json = JinjaJSON(machine)
      json.isASCII = try machine.isTrue(given[0], or: false)
      switch given[1] {
      case nil, .some(.none): break
      case .text(let text): json.indent = text.scalars
      case let count?:
        let count = max(0, try machine.integer(count, or: 0))
        try machine.budget.spend(count, of: 4)
        json.indent = Array(repeating: " ", count: count)
      }
      if json.indent != nil { json.comma = [","] }
      if let separators = given[2], case let parts = separators, !{ if case .none = parts { true } else { false } }() {
        let texts = try machine.items(of: parts, for: "separators")
        guard texts.count == 2, let comma = try machine.characters(texts[0]),
          let colon = try machine.characters(texts[1])
        else {
          throw JinjaFailure("separators that are not two texts")
        }
        (json.comma, json.colon) = (comma, colon)
      }
      json.sortsKeys = try machine.isTrue(given[3], or: false)
      return try machine.budget.text(try json.text(value))
    },
    "attr": JinjaRoutine("name", required: 1) { (machine, value, given) throws(JinjaFailure) in
      guard case .text(let name)? = given[0] else { throw JinjaFailure("'attr' without a name") }
      if case .dictionary = value, JinjaMachine.dictionaryMethods[name.string] == nil {
        return .missing("no attribute '\(name.string)'")
      }
      return try machine.attribute(name, of: value)
    },
  ]

  private static let fallback = JinjaRoutine("default_value", "boolean") {
    (machine, value, given) throws(JinjaFailure) in
    if case .undefined = value { return given[0] ?? .constant("") }
    guard try machine.isTrue(given[1], or: false) else { return value }
    return try machine.isTrue(value) ? value : given[0] ?? .constant("")
  }

  /// Python's `float(value)`; nil where it fails.
  static func parsedDouble(_ value: JinjaValue) -> Double? {
    switch value.number {
    case .integer(let number)?: return Double(number)
    case .number(let number)?: return number
    default: break
    }
    guard case .text(let text) = value, text.scalars.count <= 1000 else { return nil }
    let word = String(JinjaMachine.stripped(text.scalars, nil))
    let digits = word.lowercased()
    guard !digits.isEmpty, digits.allSatisfy({ $0.isASCII }), !digits.hasPrefix("0x"),
      !digits.dropFirst().hasPrefix("0x"),
      digits.last != "_", digits.first != "_", !digits.contains("__")
    else { return nil }
    return Double(digits.filter { $0 != "_" })
  }

  private func wholeNumber(_ value: JinjaValue, or other: JinjaValue, base: Int) throws(JinjaFailure) -> JinjaValue {
    switch value {
    case .undefined(let undefined): throw JinjaFailure(undefined.reason)
    case .integer, .bool: return value.number ?? value
    case .text(let text) where text.scalars.count <= 1000:
      var word = String(Self.stripped(text.scalars, nil)).lowercased()
      let sign = word.hasPrefix("-") ? "-" : ""
      if word.hasPrefix("-") || word.hasPrefix("+") { word.removeFirst() }
      var base = base
      for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)]
      where word.hasPrefix(prefix) && (base == radix || base == 0) {
        word.removeFirst(2)
        base = radix
      }
      if base == 0 { base = 10 }
      let isNumber =
        !word.isEmpty && word.first?.isASCII == true && word.first != "_" && word.last != "_" && !word.contains("__")
      if isNumber, (2...36).contains(base), let number = Int(sign + word.filter { $0 != "_" }, radix: base) {
        return .integer(number)
      }
    default: break
    }
    // As "42.23" gives 42.
    guard let number = Self.parsedDouble(value) else { return other }
    guard number.isFinite else { return other }
    guard let whole = Int(exactly: number.rounded(.towardZero)) else {
      throw JinjaFailure("\(number) has more than 64 bits")
    }
    return .integer(whole)
  }

  private func rounded(_ value: JinjaValue, _ precision: Int, _ method: String) throws(JinjaFailure) -> JinjaValue {
    guard ["common", "ceil", "floor"].contains(method) else { throw JinjaFailure("'round' by '\(method)'") }
    let number = try number(value, sign: "round")
    if method == "common" {
      if case .integer(let whole) = number {
        guard precision < 0 else { return number }
        guard precision > -19 else { return .integer(0) }
        var unit = 1
        for _ in 0..<(-precision) { unit *= 10 }
        let rest = ((whole % unit) + unit) % unit
        let (down, overflow) = whole.subtractingReportingOverflow(rest)
        let isUp = rest * 2 > unit || (rest * 2 == unit && (down / unit) % 2 != 0)
        let (up, overflowUp) = down.addingReportingOverflow(isUp ? unit : 0)
        guard !overflow, !overflowUp else { throw JinjaFailure("the result of 'round' has more than 64 bits") }
        return .integer(up)
      }
      let number = try double(number)
      guard number.isFinite, precision < 300 else { return .number(number) }
      if precision < 0 {
        let unit = try double(try binary("**", .number(10), .integer(max(-precision, 0))))
        return .number((number / unit).rounded(.toNearestOrEven) * unit)
      }
      return .number(Double(JinjaNumberFormat.fixed(number, precision)) ?? number)
    }
    let unit = try binary("**", .integer(10), .integer(precision))
    let scaled = try double(try binary("*", number, unit))
    guard let whole = Int(exactly: scaled.rounded(method == "ceil" ? .up : .down)) else {
      throw JinjaFailure("the result of 'round' has more than 64 bits")
    }
    return try binary("/", .integer(whole), unit)
  }
}
