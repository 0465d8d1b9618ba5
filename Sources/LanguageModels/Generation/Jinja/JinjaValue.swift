internal import TensorFiles

/// A value of a template. Values do not change, except namespaces, iterators and what belongs to loops.
enum JinjaValue {
  case undefined(JinjaUndefined)
  case none
  case bool(Bool)
  case integer(Int)
  case number(Double)
  case text(JinjaText)
  case list(JinjaList)
  case tuple(JinjaList)
  case dictionary(JinjaDictionary)
  case view(JinjaView)
  case range(JinjaRange)
  case iterator(JinjaIterator)
  case namespace(JinjaNamespace)
  case loop(JinjaLoop)
  case function(JinjaFunction)

  /// A text of the program itself.
  static func constant(_ string: String) -> JinjaValue { .text(JinjaText(string)) }

  static func missing(_ reason: String) -> JinjaValue { .undefined(JinjaUndefined(reason)) }

  /// Levels of values in values.
  var levels: Int {
    switch self {
    case .list(let list), .tuple(let list): list.levels
    case .dictionary(let dictionary): dictionary.levels
    case .view(let view): view.list.levels
    case .iterator(let iterator): iterator.list.levels
    case .function(let function): function.levels
    case .loop(let loop): loop.source.list.levels
    default: 0
    }
  }
}

/// What stands for a value that is not there.
final class JinjaUndefined {
  /// A sentence about what is missing.
  let reason: String

  init(_ reason: String) { self.reason = reason }
}

/// The items of a list or a tuple.
final class JinjaList {
  let items: [JinjaValue]
  let levels: Int
  /// True for a group of `groupby`, a tuple whose parts have names.
  let isGroup: Bool
  private let budget: JinjaBudget

  fileprivate init(_ items: [JinjaValue], levels: Int, isGroup: Bool, _ budget: JinjaBudget) {
    self.items = items
    self.levels = levels
    self.isGroup = isGroup
    self.budget = budget
    budget.hold(byteCount)
  }

  deinit { budget.release(byteCount) }

  private var byteCount: Int { 64 + items.count * MemoryLayout<JinjaValue>.stride }
}

/// What a dictionary finds its values by: Python's hash and equality, by which 1, 1.0 and True are one key.
enum JinjaKey: Hashable {
  case none
  case undefined
  case integer(Int)
  case number(Double)
  case text(JinjaText)
  case tuple([JinjaKey])
  case object(ObjectIdentifier)
}

/// Keys and values in the order in which they came.
final class JinjaDictionary {
  typealias Entry = (key: JinjaValue, value: JinjaValue)

  let entries: [Entry]
  let levels: Int
  private let places: [JinjaKey: Int]
  private let budget: JinjaBudget

  fileprivate init(_ entries: [Entry], _ places: [JinjaKey: Int], levels: Int, _ budget: JinjaBudget) {
    self.entries = entries
    self.places = places
    self.levels = levels
    self.budget = budget
    budget.hold(byteCount)
  }

  deinit { budget.release(byteCount) }

  private var byteCount: Int { 128 + entries.count * 96 }

  func value(_ key: JinjaKey) -> JinjaValue? { places[key].map { entries[$0].value } }
}

/// What `keys()`, `values()` and `items()` give.
final class JinjaView {
  let kind: String
  let list: JinjaList

  init(_ kind: String, _ list: JinjaList) {
    self.kind = kind
    self.list = list
  }
}

/// Python's range: numbers that are not stored.
final class JinjaRange {
  let (start, end, step): (Int, Int, Int)
  let count: Int

  /// Throws for a step of zero, and where the number of numbers is no number.
  init(_ start: Int, _ end: Int, _ step: Int) throws(JinjaFailure) {
    guard step != 0 else { throw JinjaFailure("a range with a step of zero") }
    (self.start, self.end, self.step) = (start, end, step)
    guard step > 0 ? start < end : start > end else {
      count = 0
      return
    }
    let (distance, overflow) =
      step > 0 ? end.subtractingReportingOverflow(start) : start.subtractingReportingOverflow(end)
    guard !overflow, step != Int.min else { throw JinjaFailure("a range from \(start) to \(end)") }
    count = (distance - 1) / abs(step) + 1
  }

  func contains(_ value: Int) -> Bool {
    guard step > 0 ? value >= start && value < end : value <= start && value > end else { return false }
    let (distance, overflow) = value.subtractingReportingOverflow(start)
    return !overflow && distance % step == 0
  }

  /// The number at a place from 0 to `count`: one past the last is where a slice may end.
  func number(_ index: Int) -> Int { start &+ index &* step }
}

/// A generator: its items are given once.
final class JinjaIterator {
  let list: JinjaList
  private var position = 0

  init(_ list: JinjaList) { self.list = list }

  var left: Int { list.items.count - position }

  func next() -> JinjaValue? {
    guard position < list.items.count else { return nil }
    position += 1
    return list.items[position - 1]
  }

  func rest() -> [JinjaValue] {
    defer { position = list.items.count }
    return position == 0 ? list.items : Array(list.items[position...])
  }
}

/// What `namespace()` gives: values that assignments in loops change for good.
final class JinjaNamespace {
  var values: [(name: JinjaText, value: JinjaValue)] = []

  func value(_ name: JinjaText) -> JinjaValue? { values.first { $0.name == name }?.value }
}

extension JinjaBudget {
  func text(_ scalars: [Unicode.Scalar], isMarkup: Bool = false) throws(JinjaFailure) -> JinjaValue {
    try spend(bytes: 64 + 4 * scalars.count)
    return .text(JinjaText(scalars, isMarkup: isMarkup, budget: self))
  }

  func items(_ items: [JinjaValue], isGroup: Bool = false) throws(JinjaFailure) -> JinjaList {
    try spend(bytes: 64 + items.count * MemoryLayout<JinjaValue>.stride)
    var levels = 0
    for item in items { levels = max(levels, item.levels) }
    guard levels < Self.levelLimit else { throw JinjaFailure("lists in lists of more than \(Self.levelLimit) levels") }
    return JinjaList(items, levels: levels + 1, isGroup: isGroup, self)
  }

  func list(_ items: [JinjaValue]) throws(JinjaFailure) -> JinjaValue { .list(try self.items(items)) }

  func tuple(_ items: [JinjaValue]) throws(JinjaFailure) -> JinjaValue { .tuple(try self.items(items)) }

  func iterator(_ items: [JinjaValue]) throws(JinjaFailure) -> JinjaValue {
    .iterator(JinjaIterator(try self.items(items)))
  }

  /// A later value takes the place of an earlier one with the same key.
  func dictionary(_ pairs: [JinjaDictionary.Entry]) throws(JinjaFailure) -> JinjaValue {
    try spend(bytes: 128 + 96 * pairs.count)
    var entries: [JinjaDictionary.Entry] = []
    var places: [JinjaKey: Int] = [:]
    var levels = 0
    for pair in pairs {
      try step()
      levels = max(levels, pair.key.levels, pair.value.levels)
      let key = try key(pair.key)
      if let place = places[key] {
        entries[place].value = pair.value
      } else {
        places[key] = entries.count
        entries.append(pair)
      }
    }
    guard levels < Self.levelLimit else { throw JinjaFailure("lists in lists of more than \(Self.levelLimit) levels") }
    return .dictionary(JinjaDictionary(entries, places, levels: levels + 1, self))
  }

  /// What a dictionary finds a value by. Throws for what has no hash.
  func key(_ value: JinjaValue) throws(JinjaFailure) -> JinjaKey {
    switch value {
    case .none: return .none
    case .undefined: return .undefined
    case .bool(let value): return .integer(value ? 1 : 0)
    case .integer(let value): return .integer(value)
    case .number(let value): return Int(exactly: value).map { .integer($0) } ?? .number(value)
    case .text(let text):
      try look(at: text.scalars.count)
      return .text(text)
    case .tuple(let list):
      var parts: [JinjaKey] = []
      for item in list.items {
        try step()
        parts.append(try key(item))
      }
      return .tuple(parts)
    case .namespace(let space): return .object(ObjectIdentifier(space))
    case .function(let function): return .object(ObjectIdentifier(function))
    case .loop(let loop): return .object(ObjectIdentifier(loop))
    case .iterator(let iterator): return .object(ObjectIdentifier(iterator))
    case .range(let range):
      guard range.count > 0 else { return .tuple([.integer(0), .none, .none]) }
      return .tuple([.integer(range.count), .integer(range.start), range.count == 1 ? .none : .integer(range.step)])
    case .list, .dictionary, .view: throw JinjaFailure("\(value.typeName) as a key")
    }
  }

  /// A value of what the caller gives.
  func value(_ json: JSONValue, level: Int = 0) throws(JinjaFailure) -> JinjaValue {
    try step()
    guard level < Self.levelLimit else { throw JinjaFailure("lists in lists of more than \(Self.levelLimit) levels") }
    switch json {
    case .null: return .none
    case .bool(let value): return .bool(value)
    case .integer(let value): return .integer(value)
    case .number(let value): return .number(value)
    case .string(let value): return try text(Array(value.unicodeScalars))
    case .array(let elements):
      var items: [JinjaValue] = []
      for element in elements { items.append(try value(element, level: level + 1)) }
      return try list(items)
    case .object(let members):
      var pairs: [JinjaDictionary.Entry] = []
      for member in members {
        pairs.append((try text(Array(member.key.unicodeScalars)), try value(member.value, level: level + 1)))
      }
      return try dictionary(pairs)
    }
  }
}
