/// Filters of lists and dictionaries.
extension JinjaMachine {
  static let itemFilters: [String: JinjaRoutine] = [
    "length": length, "count": length,
    "list": JinjaRoutine { (machine, value, _) throws(JinjaFailure) in
      try machine.budget.list(try machine.items(of: value, for: "'list'"))
    },
    "first": JinjaRoutine { (machine, value, _) throws(JinjaFailure) in
      switch value {
      case .iterator(let iterator): return iterator.next() ?? .missing("the first of no items")
      case .text(let text) where !text.scalars.isEmpty: return try machine.item(.integer(0), of: value)
      default: break
      }
      return try machine.items(of: value, for: "'first'").first ?? .missing("the first of no items")
    },
    "last": JinjaRoutine { (machine, value, _) throws(JinjaFailure) in
      switch value {
      case .iterator: throw JinjaFailure("the last of a generator")
      case .text(let text) where !text.scalars.isEmpty: return try machine.item(.integer(-1), of: value)
      default: break
      }
      return try machine.items(of: value, for: "'last'").last ?? .missing("the last of no items")
    },
    "random": JinjaRoutine { (_, _, _) throws(JinjaFailure) in throw JinjaFailure("the filter 'random'") },
    "reverse": JinjaRoutine { (machine, value, _) throws(JinjaFailure) in
      if case .text(let text) = value {
        return try machine.budget.text(text.scalars.reversed(), isMarkup: text.isMarkup)
      }
      return try machine.budget.iterator(try machine.items(of: value, for: "'reverse'").reversed())
    },
    "join": JinjaRoutine("d", "attribute") { (machine, value, given) throws(JinjaFailure) in
      let separator = try given[0].map { (value) throws(JinjaFailure) in try machine.written(value) } ?? []
      let path = try machine.path(given[1])
      var result: [Unicode.Scalar] = []
      for (index, item) in try machine.items(of: value, for: "'join'").enumerated() {
        let text = try machine.written(try machine.follow(path, from: item))
        try machine.budget.spend(text.count + separator.count, of: 4)
        if index > 0 { result += separator }
        result += text
        try machine.budget.step()
      }
      return try machine.budget.text(result)
    },
    "items": JinjaRoutine { (machine, value, _) throws(JinjaFailure) in
      switch value {
      case .undefined: return try machine.budget.iterator([])
      case .dictionary(let dictionary): return try machine.budget.iterator(try machine.pairs(dictionary))
      default: throw JinjaFailure("'items' of \(value.typeName)")
      }
    },
    "dictsort": JinjaRoutine("case_sensitive", "by", "reverse") { (machine, value, given) throws(JinjaFailure) in
      guard case .dictionary(let dictionary) = value else { throw JinjaFailure("'dictsort' of \(value.typeName)") }
      let keepsCase = try machine.isTrue(given[0], or: false)
      let by = try machine.characters(given[1]).map { String($0) } ?? "key"
      guard by == "key" || by == "value" else { throw JinjaFailure("'dictsort' by '\(by)'") }
      let entries = try machine.sorted(
        dictionary.entries,
        by: { (entry) throws(JinjaFailure) in
          try machine.cased(by == "key" ? entry.key : entry.value, keepsCase)
        }, reversed: try machine.isTrue(given[2], or: false))
      var pairs: [JinjaValue] = []
      for entry in entries { pairs.append(try machine.budget.tuple([entry.key, entry.value])) }
      return try machine.budget.list(pairs)
    },
    "sort": JinjaRoutine("reverse", "case_sensitive", "attribute") { (machine, value, given) throws(JinjaFailure) in
      let keepsCase = try machine.isTrue(given[1], or: false)
      var paths: [[JinjaValue]] = []
      if case .text(let text)? = given[2] {
        for part in try machine.divided(text.scalars, by: [","], limit: -1) {
          paths.append(try machine.path(.text(JinjaText(part))))
        }
      } else {
        paths = [try machine.path(given[2])]
      }
      return try machine.budget.list(
        try machine.sorted(
          try machine.items(of: value, for: "'sort'"),
          by: { (item) throws(JinjaFailure) in
            var keys: [JinjaValue] = []
            for path in paths { keys.append(try machine.cased(try machine.follow(path, from: item), keepsCase)) }
            return try machine.budget.list(keys)
          }, reversed: try machine.isTrue(given[0], or: false)))
    },
    "unique": JinjaRoutine("case_sensitive", "attribute") { (machine, value, given) throws(JinjaFailure) in
      let keepsCase = try machine.isTrue(given[0], or: false)
      let path = try machine.path(given[1])
      var seen: Set<JinjaKey> = []
      var kept: [JinjaValue] = []
      for item in try machine.items(of: value, for: "'unique'") {
        let key = try machine.cased(try machine.follow(path, from: item), keepsCase)
        if seen.insert(try machine.budget.key(key)).inserted { kept.append(item) }
      }
      return try machine.budget.iterator(kept)
    },
    "min": extreme(isMax: false), "max": extreme(isMax: true),
    "sum": JinjaRoutine("attribute", "start") { (machine, value, given) throws(JinjaFailure) in
      let path = try machine.path(given[0])
      var total = given[1] ?? .integer(0)
      if case .text = total { throw JinjaFailure("'sum' of texts") }
      for item in try machine.items(of: value, for: "'sum'") {
        total = try machine.binary("+", total, try machine.follow(path, from: item))
      }
      return total
    },
    "batch": JinjaRoutine("linecount", "fill_with", required: 1) { (machine, value, given) throws(JinjaFailure) in
      let size = try machine.integer(given[0], or: 1)
      var batches: [JinjaValue] = []
      var batch: [JinjaValue] = []
      for item in try machine.items(of: value, for: "'batch'") {
        if batch.count == size {
          batches.append(try machine.budget.list(batch))
          batch = []
        }
        batch.append(item)
      }
      if !batch.isEmpty {
        if let fill = given[1], case let fill = fill, batch.count < size, !fill.isNone {
          try machine.budget.spend(size, of: 16)
          batch += Array(repeating: fill, count: size - batch.count)
        }
        batches.append(try machine.budget.list(batch))
      }
      return try machine.budget.iterator(batches)
    },
    "slice": JinjaRoutine("slices", "fill_with", required: 1) { (machine, value, given) throws(JinjaFailure) in
      let items = try machine.items(of: value, for: "'slice'")
      let count = try machine.integer(given[0], or: 1)
      guard count != 0 else { throw JinjaFailure("a division by zero") }
      try machine.budget.spend(max(0, count), of: 96)
      var slices: [JinjaValue] = []
      var start = 0
      for index in 0..<max(0, count) {
        try machine.budget.step()
        let size = items.count / count + (index < items.count % count ? 1 : 0)
        var slice = Array(items[start..<start + size])
        if let fill = given[1], !fill.isNone, index >= items.count % count { slice.append(fill) }
        slices.append(try machine.budget.list(slice))
        start += size
      }
      return try machine.budget.iterator(slices)
    },
    "groupby": JinjaRoutine("attribute", "default", "case_sensitive", required: 1) {
      (machine, value, given) throws(JinjaFailure) in
      let path = try machine.path(given[0])
      let keepsCase = try machine.isTrue(given[2], or: false)
      let items = try machine.items(of: value, for: "'groupby'")
      var keyed: [(key: JinjaValue, item: JinjaValue)] = []
      for item in items {
        keyed.append((try machine.cased(try machine.follow(path, from: item, or: given[1]), keepsCase), item))
      }
      keyed = try machine.sorted(keyed, by: { $0.key }, reversed: false)
      var groups: [JinjaValue] = []
      var start = 0
      while start < keyed.count {
        var end = start + 1
        while end < keyed.count, try machine.equals(keyed[end].key, keyed[start].key) { end += 1 }
        let key = keepsCase ? keyed[start].key : try machine.follow(path, from: keyed[start].item, or: given[1])
        let members = try machine.budget.list(keyed[start..<end].map(\.item))
        groups.append(.tuple(try machine.budget.items([key, members], isGroup: true)))
        start = end
      }
      return try machine.budget.list(groups)
    },
  ]

  private static let length = JinjaRoutine { (machine, value, _) throws(JinjaFailure) in
    .integer(try machine.count(value))
  }

  private static func extreme(isMax: Bool) -> JinjaRoutine {
    JinjaRoutine("case_sensitive", "attribute") { (machine, value, given) throws(JinjaFailure) in
      let keepsCase = try machine.isTrue(given[0], or: false)
      let path = try machine.path(given[1])
      var best: (key: JinjaValue, item: JinjaValue)?
      for item in try machine.items(of: value, for: isMax ? "'max'" : "'min'") {
        let key = try machine.cased(try machine.follow(path, from: item), keepsCase)
        guard let current = best else {
          best = (key, item)
          continue
        }
        if try isMax ? machine.precedes(current.key, key) : machine.precedes(key, current.key) { best = (key, item) }
      }
      return best?.item ?? .missing("the least or greatest of no items")
    }
  }

  // MARK: Attributes of items, and order

  /// `a.b.0` as the keys that lead to it.
  func path(_ attribute: JinjaValue?) throws(JinjaFailure) -> [JinjaValue] {
    switch attribute {
    case nil, .some(.none): return []
    case .text(let text):
      return try divided(text.scalars, by: ["."], limit: -1).map { (part) throws(JinjaFailure) in
        if !part.isEmpty, part.count < 19, part.allSatisfy({ ("0"..."9").contains($0) }) {
          return .integer(Int(String(part)) ?? 0)
        }
        return try budget.text(part)
      }
    case let index?: return [index]
    }
  }

  func follow(_ path: [JinjaValue], from item: JinjaValue, or other: JinjaValue? = nil) throws(JinjaFailure)
    -> JinjaValue
  {
    var value = item
    for key in path {
      try budget.step()
      value = try self.item(key, of: value)
      if case .undefined = value, let other, !other.isNone { value = other }
    }
    return value
  }

  /// A text in small letters, where case does not count.
  func cased(_ value: JinjaValue, _ keepsCase: Bool) throws(JinjaFailure) -> JinjaValue {
    guard !keepsCase, case .text(let text) = value else { return value }
    try budget.look(at: text.scalars.count)
    return try budget.text(JinjaCase.lower(text.scalars))
  }

  func pairs(_ dictionary: JinjaDictionary) throws(JinjaFailure) -> [JinjaValue] {
    try budget.spend(dictionary.entries.count, of: 112)
    var pairs: [JinjaValue] = []
    for entry in dictionary.entries {
      try budget.step()
      pairs.append(try budget.tuple([entry.key, entry.value]))
    }
    return pairs
  }

  /// A stable sort whose comparisons may fail.
  func sorted<Item>(
    _ items: [Item], by key: (Item) throws(JinjaFailure) -> JinjaValue, reversed: Bool
  ) throws(JinjaFailure) -> [Item] {
    var keyed: [(key: JinjaValue, item: Item)] = []
    for item in items { keyed.append((try key(item), item)) }
    var width = 1
    while width < keyed.count {
      var merged: [(key: JinjaValue, item: Item)] = []
      merged.reserveCapacity(keyed.count)
      for start in stride(from: 0, to: keyed.count, by: 2 * width) {
        let (middle, end) = (min(start + width, keyed.count), min(start + 2 * width, keyed.count))
        var (left, right) = (start, middle)
        while left < middle, right < end {
          let takesRight =
            try reversed ? precedes(keyed[left].key, keyed[right].key) : precedes(keyed[right].key, keyed[left].key)
          merged.append(takesRight ? keyed[right] : keyed[left])
          if takesRight { right += 1 } else { left += 1 }
        }
        merged += keyed[left..<middle] + keyed[right..<end]
      }
      keyed = merged
      width *= 2
    }
    return keyed.map(\.item)
  }
}

extension JinjaValue {
  var isNone: Bool { if case .none = self { true } else { false } }
}
