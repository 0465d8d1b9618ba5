/// Methods of dictionaries and lists, and what texts share with filters.
extension JinjaMachine {
  static let dictionaryMethods: [String: JinjaRoutine] = [
    "get": JinjaRoutine("key", "default", required: 1) { (machine, value, given) throws(JinjaFailure) in
      guard case .dictionary(let dictionary) = value else { return .none }
      return dictionary.value(try machine.budget.key(given[0] ?? .none)) ?? given[1] ?? .none
    },
    "keys": view("dict_keys") { (machine, dictionary) throws(JinjaFailure) in dictionary.entries.map(\.key) },
    "values": view("dict_values") { (machine, dictionary) throws(JinjaFailure) in dictionary.entries.map(\.value) },
    "items": view("dict_items") { (machine, dictionary) throws(JinjaFailure) in try machine.pairs(dictionary) },
    "copy": JinjaRoutine { (_, value, _) throws(JinjaFailure) in value },
    "fromkeys": JinjaRoutine("iterable", "value", required: 1) { (machine, _, given) throws(JinjaFailure) in
      let keys = try machine.items(of: given[0] ?? .none, for: "'fromkeys'")
      return try machine.budget.dictionary(keys.map { ($0, given[1] ?? .none) })
    },
  ]

  private static func view(
    _ kind: String, _ list: @escaping @Sendable (JinjaMachine, JinjaDictionary) throws(JinjaFailure) -> [JinjaValue]
  ) -> JinjaRoutine {
    JinjaRoutine { (machine, value, _) throws(JinjaFailure) in
      guard case .dictionary(let dictionary) = value else { return .none }
      return .view(JinjaView(kind, try machine.budget.items(try list(machine, dictionary))))
    }
  }

  static let listMethods: [String: JinjaRoutine] = [
    "index": JinjaRoutine("value", "start", "stop", required: 1) { (machine, value, given) throws(JinjaFailure) in
      let items = try machine.items(of: value, for: "'index'")
      let range = JinjaMachine.bounds(
        try machine.integer(given[1], or: 0), try machine.integer(given[2], or: Int.max), items.count)
      for place in range where try machine.equals(items[place], given[0] ?? .none) { return .integer(place) }
      throw JinjaFailure("the index of what is not in a list")
    },
    "count": JinjaRoutine("value", required: 1) { (machine, value, given) throws(JinjaFailure) in
      var count = 0
      for item in try machine.items(of: value, for: "'count'") where try machine.equals(item, given[0] ?? .none) {
        count += 1
      }
      return .integer(count)
    },
    "copy": JinjaRoutine { (_, value, _) throws(JinjaFailure) in value },
  ]

  /// Places from and to, counted from the end where they are negative.
  static func bounds(_ start: Int, _ end: Int, _ count: Int) -> Range<Int> {
    func place(_ bound: Int) -> Int { min(max(bound < 0 ? bound + count : bound, 0), count) }
    let (first, last) = (place(start), place(end))
    return first < last ? first..<last : first..<first
  }

  // MARK: Texts

  static func stripped(
    _ scalars: [Unicode.Scalar], _ removed: [Unicode.Scalar]?, left: Bool = true, right: Bool = true
  ) -> [Unicode.Scalar] {
    let set = removed.map { Set($0) }
    func goes(_ scalar: Unicode.Scalar) -> Bool { set.map { $0.contains(scalar) } ?? scalar.isPythonSpace }
    var (first, last) = (0, scalars.count)
    if left { while first < last, goes(scalars[first]) { first += 1 } }
    if right { while last > first, goes(scalars[last - 1]) { last -= 1 } }
    return first == 0 && last == scalars.count ? scalars : Array(scalars[first..<last])
  }

  /// Where a part begins in a text; nil if it does not occur from `start` on and before `end`.
  func find(
    _ part: [Unicode.Scalar], in text: [Unicode.Scalar], from start: Int, to end: Int? = nil
  ) throws(JinjaFailure) -> Int? {
    let end = end ?? text.count
    guard start + part.count <= end else { return nil }
    guard let first = part.first else { return start }
    var looked = 0
    defer { budget.note(looked) }
    var place = start
    while place + part.count <= end {
      looked += 1
      if text[place] == first {
        var length = 1
        while length < part.count, text[place + length] == part[length] { length += 1 }
        if length == part.count { return place }
        looked += length
      }
      if looked >= 1 << 12 {
        try budget.look(at: looked)
        looked = 0
      }
      place += 1
    }
    return nil
  }

  /// The last place of a part from `start` on and before `end`.
  func findLast(
    _ part: [Unicode.Scalar], in text: [Unicode.Scalar], from start: Int, to end: Int
  ) throws(JinjaFailure) -> Int? {
    guard start + part.count <= end else { return nil }
    var looked = 0
    for place in stride(from: end - part.count, through: start, by: -1) {
      var length = 0
      while length < part.count, text[place + length] == part[length] { length += 1 }
      if length == part.count { return place }
      looked += length + 1
      if looked >= 1 << 12 {
        try budget.look(at: looked)
        looked = 0
      }
    }
    return nil
  }

  /// Python's `split` at a separator, from the left, at most `limit` times if that is not negative.
  func divided(_ text: [Unicode.Scalar], by separator: [Unicode.Scalar], limit: Int) throws(JinjaFailure) -> [[Unicode
    .Scalar]]
  {
    guard !separator.isEmpty else { throw JinjaFailure("an empty separator") }
    try budget.look(at: text.count)
    var parts: [[Unicode.Scalar]] = []
    var start = 0
    while limit < 0 || parts.count < limit, let place = try find(separator, in: text, from: start) {
      try budget.spend(bytes: 112 + 4 * (place - start))
      parts.append(Array(text[start..<place]))
      start = place + separator.count
      guard parts.count <= 500_000 else { throw JinjaFailure("a text in more than 500000 parts") }
    }
    return parts + [Array(text[start...])]
  }

  /// Words between white space.
  func words(_ text: [Unicode.Scalar]) throws(JinjaFailure) -> [[Unicode.Scalar]] {
    try budget.look(at: text.count)
    let words = text.split(whereSeparator: \.isPythonSpace)
    try budget.spend(words.count, of: 112)
    return words.map { Array($0) }
  }

  func lines(_ text: [Unicode.Scalar], keepsEnds: Bool) throws(JinjaFailure) -> [[Unicode.Scalar]] {
    try budget.look(at: text.count)
    var lines: [[Unicode.Scalar]] = []
    var (start, place) = (0, 0)
    while place < text.count {
      guard text[place].endsPythonLine else {
        place += 1
        continue
      }
      let end = place
      place += text[place] == "\r" && place + 1 < text.count && text[place + 1] == "\n" ? 2 : 1
      try budget.spend(bytes: 112)
      lines.append(Array(text[start..<(keepsEnds ? place : end)]))
      start = place
    }
    if start < text.count { lines.append(Array(text[start...])) }
    return lines
  }

  func replaced(
    _ text: [Unicode.Scalar], _ old: [Unicode.Scalar], _ new: [Unicode.Scalar], _ count: Int
  ) throws(JinjaFailure) -> [Unicode.Scalar] {
    try budget.look(at: text.count)
    var result: [Unicode.Scalar] = []
    var (start, replaced) = (0, 0)
    if old.isEmpty {
      guard count != 0 else { return text }
      try budget.spend((text.count + 1) * (new.count + 1), of: 4)
      for scalar in text where count < 0 || replaced < count {
        result += new + [scalar]
        replaced += 1
      }
      if count < 0 || replaced < count { return result + new }
      return result + text[replaced...]
    }
    while count < 0 || replaced < count, let place = try find(old, in: text, from: start) {
      try budget.spend(place - start + new.count, of: 4)
      result += text[start..<place] + new
      start = place + old.count
      replaced += 1
    }
    return replaced == 0 ? text : result + text[start...]
  }

  func centred(_ text: [Unicode.Scalar], _ width: Int, _ fill: Unicode.Scalar) throws(JinjaFailure) -> [Unicode.Scalar]
  {
    let space = width - min(text.count, max(0, width))
    guard width > text.count else { return text }
    try budget.spend(width, of: 4)
    let left = space / 2 + (space & width & 1)
    return Array(repeating: fill, count: left) + text + Array(repeating: fill, count: space - left)
  }
}
