internal import Glibc

/// Operators, as Python has them for these types.
extension JinjaMachine {
  func isTrue(_ value: JinjaValue) throws(JinjaFailure) -> Bool {
    switch value {
    case .undefined, .none: return false
    case .bool(let value): return value
    case .integer(let value): return value != 0
    case .number(let value): return value != 0
    case .text(let text): return !text.scalars.isEmpty
    case .list(let list), .tuple(let list): return !list.items.isEmpty
    case .dictionary(let dictionary): return !dictionary.entries.isEmpty
    case .view(let view): return !view.list.items.isEmpty
    case .range(let range): return range.count > 0
    case .loop(let loop): return try attribute("length", of: loop).map(isTrue) ?? true
    case .iterator, .namespace, .function: return true
    }
  }

  func negated(_ value: JinjaValue) throws(JinjaFailure) -> JinjaValue {
    switch try number(value, sign: "-") {
    case .integer(let value): return .integer(try checked((0).subtractingReportingOverflow(value), "-"))
    case .number(let value): return .number(-value)
    case let other: return other
    }
  }

  /// A number as an operand: a truth value counts as 0 or 1. Throws for anything else.
  func number(_ value: JinjaValue, sign: String) throws(JinjaFailure) -> JinjaValue {
    guard let number = value.number else { throw unfit(sign, value) }
    return number
  }

  private func unfit(_ sign: String, _ value: JinjaValue) -> JinjaFailure {
    if case .undefined(let undefined) = value { return JinjaFailure(undefined.reason) }
    return JinjaFailure("'\(sign)' before \(value.typeName)")
  }

  func unfit(_ sign: String, _ a: JinjaValue, _ b: JinjaValue) -> JinjaFailure {
    for case .undefined(let undefined) in [a, b] { return JinjaFailure(undefined.reason) }
    return JinjaFailure("'\(sign)' between \(a.typeName) and \(b.typeName)")
  }

  private func checked(_ result: (partialValue: Int, overflow: Bool), _ sign: String) throws(JinjaFailure) -> Int {
    guard !result.overflow else { throw JinjaFailure("the result of '\(sign)' has more than 64 bits") }
    return result.partialValue
  }

  func binary(_ sign: String, _ a: JinjaValue, _ b: JinjaValue) throws(JinjaFailure) -> JinjaValue {
    try budget.step()
    let pending = budget.pending
    defer { budget.settle(pending) }
    switch (sign, a, b) {
    case ("+", .text(let x), .text(let y)):
      let isMarkup = x.isMarkup || y.isMarkup
      let first = isMarkup ? try escaped(x) : x.scalars
      let second = isMarkup ? try escaped(y) : y.scalars
      try budget.spend(first.count + second.count, of: 4)
      return try budget.text(first + second, isMarkup: isMarkup)
    case ("+", .list(let x), .list(let y)): return try budget.list(try joined(x, y))
    case ("+", .tuple(let x), .tuple(let y)): return try budget.tuple(try joined(x, y))
    case ("%", .text(let format), _): return try percentFormat(format, b)
    default: break
    }
    if sign == "*" {
      if let repeated = try repeated(a, b) { return repeated }
      if let repeated = try repeated(b, a) { return repeated }
    }
    guard let x = a.number, let y = b.number else { throw unfit(sign, a, b) }
    if case .integer(let x) = x, case .integer(let y) = y, sign != "/" { return try integers(sign, x, y) }
    return .number(try numbers(sign, try double(x), try double(y)))
  }

  private func joined(_ a: JinjaList, _ b: JinjaList) throws(JinjaFailure) -> [JinjaValue] {
    try budget.spend(a.items.count + b.items.count, of: MemoryLayout<JinjaValue>.stride)
    return a.items + b.items
  }

  /// A text or list so many times; nil if these are not such operands.
  private func repeated(_ value: JinjaValue, _ count: JinjaValue) throws(JinjaFailure) -> JinjaValue? {
    guard case .integer(let given)? = count.number else { return nil }
    let times = max(0, given)
    func repeated<Item>(_ items: [Item]) throws(JinjaFailure) -> [Item] {
      guard !items.isEmpty else { return [] }
      let (total, overflow) = items.count.multipliedReportingOverflow(by: times)
      try budget.spend(overflow ? Int.max : total, of: MemoryLayout<Item>.stride)
      var result: [Item] = []
      result.reserveCapacity(total)
      for _ in 0..<times { result += items }
      return result
    }
    switch value {
    case .text(let text): return try budget.text(try repeated(text.scalars), isMarkup: text.isMarkup)
    case .list(let list): return try budget.list(try repeated(list.items))
    case .tuple(let list): return try budget.tuple(try repeated(list.items))
    default: return nil
    }
  }

  private func integers(_ sign: String, _ x: Int, _ y: Int) throws(JinjaFailure) -> JinjaValue {
    switch sign {
    case "+": return .integer(try checked(x.addingReportingOverflow(y), sign))
    case "-": return .integer(try checked(x.subtractingReportingOverflow(y), sign))
    case "*": return .integer(try checked(x.multipliedReportingOverflow(by: y), sign))
    case "**":
      guard y >= 0 else { return .number(try numbers(sign, Double(x), Double(y))) }
      if x == 0 || x == 1 { return .integer(y == 0 ? 1 : x) }
      if x == -1 { return .integer(y % 2 == 0 ? 1 : -1) }
      guard y < 64 else { throw JinjaFailure("the result of '**' has more than 64 bits") }
      var result = 1
      for _ in 0..<y { result = try checked(result.multipliedReportingOverflow(by: x), sign) }
      return .integer(result)
    default:
      guard y != 0 else { throw JinjaFailure("a division by zero") }
      let quotient = try checked(x.dividedReportingOverflow(by: y), sign)
      let rest = x.remainderReportingOverflow(dividingBy: y).partialValue
      let isBelow = rest != 0 && (rest < 0) != (y < 0)
      return .integer(sign == "%" ? (isBelow ? rest + y : rest) : (isBelow ? quotient - 1 : quotient))
    }
  }

  func double(_ value: JinjaValue) throws(JinjaFailure) -> Double {
    switch value.number {
    case .integer(let value): return Double(value)
    case .number(let value): return value
    default: throw unfit("float", value)
    }
  }

  private func numbers(_ sign: String, _ x: Double, _ y: Double) throws(JinjaFailure) -> Double {
    switch sign {
    case "+": return x + y
    case "-": return x - y
    case "*": return x * y
    case "**":
      guard !(x == 0 && y < 0), !(x < 0 && y != y.rounded()) else { throw JinjaFailure("\(x) ** \(y)") }
      let result = pow(x, y)
      guard result.isFinite || !x.isFinite || !y.isFinite else { throw JinjaFailure("the result of '**' is too large") }
      return result
    default:
      guard y != 0 else { throw JinjaFailure("a division by zero") }
      if sign == "/" { return x / y }
      // As Python's float_divmod.
      var rest = fmod(x, y)
      var quotient = (x - rest) / y
      if rest != 0 {
        if (y < 0) != (rest < 0) {
          rest += y
          quotient -= 1
        }
      } else {
        rest = Double(signOf: y, magnitudeOf: 0)
      }
      if sign == "%" { return rest }
      guard quotient != 0 else { return Double(signOf: x / y, magnitudeOf: 0) }
      let floor = quotient.rounded(.down)
      return quotient - floor > 0.5 ? floor + 1 : floor
    }
  }

  // MARK: Comparison

  func compare(_ sign: String, _ a: JinjaValue, _ b: JinjaValue) throws(JinjaFailure) -> Bool {
    switch sign {
    case "==": return try equals(a, b)
    case "!=": return try !equals(a, b)
    case "in": return try contains(b, a)
    case "not in": return try !contains(b, a)
    case "<": return try precedes(a, b, sign)
    case ">": return try precedes(b, a, sign)
    // NaN is neither below nor above.
    case "<=": return try precedes(a, b, sign, orEquals: true)
    default: return try precedes(b, a, sign, orEquals: true)
    }
  }

  func equals(_ a: JinjaValue, _ b: JinjaValue) throws(JinjaFailure) -> Bool {
    try budget.step()
    switch (a, b) {
    case (.undefined, .undefined), (.none, .none): return true
    case (.text(let x), .text(let y)):
      guard x.scalars.count == y.scalars.count else { return false }
      try budget.look(at: x.scalars.count)
      return x == y
    case (.list(let x), .list(let y)), (.tuple(let x), .tuple(let y)): return try equals(x.items, y.items)
    case (.dictionary(let x), .dictionary(let y)):
      guard x.entries.count == y.entries.count else { return false }
      for entry in x.entries {
        guard let other = y.value(try budget.key(entry.key)), try equals(entry.value, other) else { return false }
      }
      return true
    case (.range(let x), .range(let y)):
      return x.count == y.count
        && (x.count == 0 || (x.start == y.start && (x.count == 1 || x.step == y.step)))
    case (.view(let x), .view(let y)):
      guard x.kind == y.kind, x.kind != "dict_values" else { return x === y }
      guard x.list.items.count == y.list.items.count else { return false }
      for item in x.list.items where try !contains(.view(y), item) { return false }
      return true
    case (.namespace(let x), .namespace(let y)): return x === y
    case (.loop(let x), .loop(let y)): return x === y
    case (.iterator(let x), .iterator(let y)): return x === y
    case (.function(let x), .function(let y)):
      if case .global(let first) = x.kind, case .global(let second) = y.kind { return first == second }
      return x === y
    default: break
    }
    switch (a.number, b.number) {
    case (.integer(let x)?, .integer(let y)?): return x == y
    case (.integer(let x)?, .number(let y)?), (.number(let y)?, .integer(let x)?): return Int(exactly: y) == x
    case (.number(let x)?, .number(let y)?): return x == y
    default: return false
    }
  }

  private func equals(_ a: [JinjaValue], _ b: [JinjaValue]) throws(JinjaFailure) -> Bool {
    guard a.count == b.count else { return false }
    for (x, y) in zip(a, b) where try !equals(x, y) { return false }
    return true
  }

  /// Order of numbers, texts, lists and tuples. Throws for what has none.
  func precedes(_ a: JinjaValue, _ b: JinjaValue, _ sign: String = "<", orEquals: Bool = false) throws(JinjaFailure)
    -> Bool
  {
    try budget.step()
    switch (a, b) {
    case (.text(let x), .text(let y)):
      try budget.look(at: min(x.scalars.count, y.scalars.count))
      return orEquals ? !y.scalars.lexicographicallyPrecedes(x.scalars) : x.scalars.lexicographicallyPrecedes(y.scalars)
    case (.list(let x), .list(let y)), (.tuple(let x), .tuple(let y)):
      for (first, second) in zip(x.items, y.items) where try !equals(first, second) {
        return try precedes(first, second, sign, orEquals: orEquals)
      }
      return orEquals ? x.items.count <= y.items.count : x.items.count < y.items.count
    default: break
    }
    switch (a.number, b.number) {
    case (.integer(let x)?, .integer(let y)?): return orEquals ? x <= y : x < y
    case (.some(let first), .some(let second)):
      let (x, y) = (try double(first), try double(second))
      return orEquals ? x <= y : x < y
    default: throw sign == ">" || sign == ">=" ? unfit(sign, b, a) : unfit(sign, a, b)
    }
  }

  func contains(_ container: JinjaValue, _ value: JinjaValue) throws(JinjaFailure) -> Bool {
    switch container {
    case .text(let text):
      guard case .text(let part) = value else { throw unfit("in", value, container) }
      return try find(part.scalars, in: text.scalars, from: 0) != nil
    case .dictionary(let dictionary): return dictionary.value(try budget.key(value)) != nil
    case .range(let range):
      switch value.number {
      case .integer(let number): return range.contains(number)
      case .number(let number): return Int(exactly: number).map(range.contains) ?? false
      default: return false
      }
    case .undefined: return false
    case .list(let list), .tuple(let list):
      for item in list.items where try equals(item, value) { return true }
      return false
    case .view(let view):
      for item in view.list.items where try equals(item, value) { return true }
      return false
    case .iterator(let iterator):
      while let item = iterator.next() { if try equals(item, value) { return true } }
      return false
    default: throw JinjaFailure("'in' \(container.typeName)")
    }
  }
}

extension JinjaValue {
  /// The value as a number, in which True is 1; nil for what is none.
  var number: JinjaValue? {
    switch self {
    case .bool(let value): .integer(value ? 1 : 0)
    case .integer, .number: self
    default: nil
    }
  }
}
