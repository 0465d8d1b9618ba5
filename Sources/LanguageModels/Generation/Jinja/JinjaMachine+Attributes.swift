/// Attributes, items and slices, as Jinja's sandbox gives them.
extension JinjaMachine {
  /// `value.name`: an attribute that Python has, else an item.
  func attribute(_ name: JinjaText, of value: JinjaValue) throws(JinjaFailure) -> JinjaValue {
    if case .undefined(let undefined) = value { throw JinjaFailure(undefined.reason) }
    if let found = try pythonAttribute(name, of: value) { return found }
    if case .dictionary(let dictionary) = value, let found = dictionary.value(.text(name)) { return found }
    return missing(name, in: value)
  }

  /// `value[index]`: an item, else an attribute.
  func item(_ index: JinjaValue, of value: JinjaValue) throws(JinjaFailure) -> JinjaValue {
    func place(_ count: Int) -> Int? {
      guard case .integer(let index)? = index.number else { return nil }
      let place = index < 0 ? index + count : index
      return place >= 0 && place < count ? place : nil
    }
    switch value {
    case .undefined(let undefined): throw JinjaFailure(undefined.reason)
    case .text(let text):
      if let place = place(text.scalars.count) {
        return .text(JinjaText([text.scalars[place]], isMarkup: text.isMarkup, budget: budget))
      }
    case .list(let list), .tuple(let list): if let place = place(list.items.count) { return list.items[place] }
    case .range(let range): if let place = place(range.count) { return .integer(range.number(place)) }
    case .dictionary(let dictionary):
      switch index {
      case .list, .dictionary, .view: break
      default: if let found = dictionary.value(try budget.key(index)) { return found }
      }
    default: break
    }
    guard case .text(let name) = index else { return .missing("\(value.typeName) has no such item") }
    return try pythonAttribute(name, of: value) ?? missing(name, in: value)
  }

  private func missing(_ name: JinjaText, in value: JinjaValue) -> JinjaValue {
    .missing("\(value.typeName) has no attribute '\(name.string)'")
  }

  /// What Python itself has by that name; nil if nothing. Attributes that the sandbox hides are undefined.
  private func pythonAttribute(_ name: JinjaText, of value: JinjaValue) throws(JinjaFailure) -> JinjaValue? {
    let word = name.string
    func method(_ table: [String: JinjaRoutine], hidden: [String] = []) -> JinjaValue? {
      if hidden.contains(word) { return .missing("'\(word)' of \(value.typeName) is not safe") }
      return table[word] == nil ? nil : .function(JinjaFunction(.method(value, word)))
    }
    switch value {
    case .text: return method(Self.textMethods)
    case .dictionary:
      return method(Self.dictionaryMethods, hidden: ["clear", "pop", "popitem", "setdefault", "update"])
    case .list:
      return method(
        Self.listMethods, hidden: ["append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"])
    case .tuple(let list):
      if list.isGroup, word == "grouper" || word == "list" { return list.items[word == "grouper" ? 0 : 1] }
      return word == "copy" ? nil : method(Self.listMethods)
    case .integer, .bool, .number:
      switch word {
      case "real": return value.number
      case "imag": if case .number = value { return .number(0) } else { return .integer(0) }
      case "numerator": if case .number = value { return nil } else { return value.number }
      case "denominator": if case .number = value { return nil } else { return .integer(1) }
      default: return nil
      }
    case .range(let range):
      if word == "count" || word == "index" { return method(Self.listMethods) }
      return ["start": .integer(range.start), "stop": .integer(range.end), "step": .integer(range.step)][word]
    case .namespace(let space): return space.value(name)
    case .loop(let loop): return try attribute(word, of: loop)
    case .function(let function):
      switch (function.kind, word) {
      case (.macro(let macro, _), "name"): return .text(macro.name)
      case (.macro(let macro, _), "arguments"): return try budget.tuple(macro.parameters.map { .text($0.name) })
      case (.macro(let macro, _), "catch_kwargs"): return .bool(macro.special.contains("kwargs"))
      case (.macro(let macro, _), "catch_varargs"): return .bool(macro.special.contains("varargs"))
      case (.macro(let macro, _), "caller"): return .bool(macro.special.contains("caller"))
      case (.cycler(let list), "current"): return list.items[function.count % list.items.count]
      case (.cycler, "next"), (.cycler, "reset"): return .function(JinjaFunction(.method(value, word)))
      default: return nil
      }
    default: return nil
    }
  }

  func slice(
    _ value: JinjaValue, _ first: JinjaValue, _ last: JinjaValue, _ step: JinjaValue
  ) throws(JinjaFailure) -> JinjaValue {
    func bound(_ value: JinjaValue) throws(JinjaFailure) -> Int? {
      if case .none = value { return nil }
      guard case .integer(let number)? = value.number else {
        throw JinjaFailure("a slice from or to \(value.typeName)")
      }
      return number
    }
    let (first, last) = (try bound(first), try bound(last))
    let stride = try bound(step) ?? 1
    guard stride != 0 else { throw JinjaFailure("a slice with a step of zero") }
    func places(_ count: Int) throws(JinjaFailure) -> JinjaRange {
      func place(_ bound: Int) -> Int {
        let place = bound < 0 ? bound + count : bound
        return stride > 0 ? min(max(place, 0), count) : min(max(place, -1), count - 1)
      }
      return try JinjaRange(
        first.map(place) ?? (stride > 0 ? 0 : count - 1), last.map(place) ?? (stride > 0 ? count : -1),
        stride == Int.min ? -Int.max : stride)
    }
    func cut<Item>(_ items: [Item]) throws(JinjaFailure) -> [Item] {
      let places = try places(items.count)
      try budget.spend(places.count, of: MemoryLayout<Item>.stride)
      if places.step == 1 { return places.count == 0 ? [] : Array(items[places.start..<places.end]) }
      try budget.look(at: places.count)
      return (0..<places.count).map { items[places.number($0)] }
    }
    switch value {
    case .undefined(let undefined): throw JinjaFailure(undefined.reason)
    case .text(let text): return try budget.text(try cut(text.scalars), isMarkup: text.isMarkup)
    case .list(let list): return try budget.list(try cut(list.items))
    case .tuple(let list): return try budget.tuple(try cut(list.items))
    case .range(let range):
      let places = try places(range.count)
      let (step, overflow) = range.step.multipliedReportingOverflow(by: places.step)
      guard !overflow else { throw JinjaFailure("a slice with a step of \(places.step)") }
      return .range(try JinjaRange(range.number(places.start), range.number(places.end), step))
    default: throw JinjaFailure("a slice of \(value.typeName)")
    }
  }

  // MARK: Items

  /// The items of what can be gone through.
  func items(of value: JinjaValue, for use: String) throws(JinjaFailure) -> [JinjaValue] {
    switch value {
    case .undefined: return []
    case .list(let list), .tuple(let list): return list.items
    case .view(let view): return view.list.items
    case .iterator(let iterator):
      try budget.look(at: iterator.left)
      return iterator.rest()
    case .dictionary(let dictionary):
      try budget.spend(dictionary.entries.count, of: 16)
      return dictionary.entries.map(\.key)
    case .text(let text):
      try budget.look(at: text.scalars.count)
      try budget.spend(text.scalars.count, of: 128)
      return text.scalars.map { .text(JinjaText([$0], isMarkup: text.isMarkup, budget: budget)) }
    case .range(let range):
      try budget.look(at: range.count)
      try budget.spend(range.count, of: 16)
      return (0..<range.count).map { .integer(range.number($0)) }
    case .loop(let loop):
      var rest: [JinjaValue] = []
      while let item = loop.source.next() { rest.append(item) }
      return rest
    default: throw JinjaFailure("\(use) over \(value.typeName)")
    }
  }

  func iterator(over value: JinjaValue) throws(JinjaFailure) -> JinjaIterator {
    switch value {
    case .iterator(let iterator): return iterator
    case .list(let list), .tuple(let list): return JinjaIterator(list)
    case .view(let view): return JinjaIterator(view.list)
    default: return JinjaIterator(try budget.items(try items(of: value, for: "a loop")))
    }
  }

  /// Python's `len`.
  func count(_ value: JinjaValue) throws(JinjaFailure) -> Int {
    switch value {
    case .undefined: return 0
    case .text(let text): return text.scalars.count
    case .list(let list), .tuple(let list): return list.items.count
    case .dictionary(let dictionary): return dictionary.entries.count
    case .view(let view): return view.list.items.count
    case .range(let range): return range.count
    case .loop(let loop):
      guard case .integer(let count)? = try attribute("length", of: loop) else { return 0 }
      return count
    default: throw JinjaFailure("the length of \(value.typeName)")
    }
  }
}
