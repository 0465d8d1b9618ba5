/// Methods of texts. Source: Python's `str`.
extension JinjaMachine {
  private typealias Scalars = [Unicode.Scalar]

  private static func changing(_ change: @escaping @Sendable ([Unicode.Scalar]) -> [Unicode.Scalar]) -> JinjaRoutine {
    JinjaRoutine { (machine, value, _) throws(JinjaFailure) in
      let scalars = try machine.written(value)
      try machine.budget.look(at: scalars.count)
      try machine.budget.spend(scalars.count, of: 12)
      return try machine.budget.text(change(scalars), isMarkup: value.isMarkup)
    }
  }

  private static func stripping(left: Bool, right: Bool) -> JinjaRoutine {
    JinjaRoutine("chars") { (machine, value, given) throws(JinjaFailure) in
      let scalars = try machine.written(value)
      let removed = try machine.characters(given[0])
      try machine.budget.look(at: scalars.count + (removed?.count ?? 0) * 16)
      return try machine.budget.text(stripped(scalars, removed, left: left, right: right), isMarkup: value.isMarkup)
    }
  }

  /// A place or a count of a part, between a start and an end.
  private static func finding(
    _ what: String,
    _ search:
      @escaping @Sendable (JinjaMachine, [Unicode.Scalar], [Unicode.Scalar], Range<Int>) throws(JinjaFailure) -> Int?
  ) -> JinjaRoutine {
    JinjaRoutine("sub", "start", "end", required: 1) { (machine, value, given) throws(JinjaFailure) in
      let scalars = try machine.written(value)
      guard let part = try machine.characters(given[0]) else { throw JinjaFailure("'\(what)' of none") }
      let range = try machine.range(given[1], given[2], scalars.count)
      guard let range, let place = try search(machine, scalars, part, range) else {
        if what.hasSuffix("index") { throw JinjaFailure("'\(what)' of what is not in the text") }
        return .integer(what == "count" ? 0 : -1)
      }
      return .integer(place)
    }
  }

  /// nil where the start is behind the end of the text.
  private func range(_ start: JinjaValue?, _ end: JinjaValue?, _ count: Int) throws(JinjaFailure) -> Range<Int>? {
    let first = start.map(\.isNone) == false ? try integer(start, or: 0) : 0
    let last = end.map(\.isNone) == false ? try integer(end, or: Int.max) : Int.max
    return first > count ? nil : Self.bounds(first, last, count)
  }

  private static func beginning(atEnd: Bool) -> JinjaRoutine {
    JinjaRoutine("prefix", "start", "end", required: 1) { (machine, value, given) throws(JinjaFailure) in
      let scalars = try machine.written(value)
      guard let range = try machine.range(given[1], given[2], scalars.count) else { return .bool(false) }
      var parts = [given[0] ?? .none]
      if case .tuple(let list)? = given[0] { parts = list.items }
      for part in parts {
        guard case .text(let text) = part else { throw JinjaFailure("\(part.typeName) in the place of a text") }
        try machine.budget.look(at: min(text.scalars.count, scalars.count))
        let piece = scalars[range]
        if atEnd ? piece.suffix(text.scalars.count).elementsEqual(text.scalars) : piece.starts(with: text.scalars) {
          return .bool(true)
        }
      }
      return .bool(false)
    }
  }

  private static func padding(left: Bool) -> JinjaRoutine {
    JinjaRoutine("width", "fillchar", required: 1) { (machine, value, given) throws(JinjaFailure) in
      let scalars = try machine.written(value)
      let count = try machine.integer(given[0], or: 0)
      let fill = try machine.fill(given[1])
      guard count > scalars.count else { return value }
      try machine.budget.spend(count, of: 4)
      let space = Array(repeating: fill, count: count - scalars.count)
      return try machine.budget.text(left ? space + scalars : scalars + space)
    }
  }

  private func fill(_ value: JinjaValue?) throws(JinjaFailure) -> Unicode.Scalar {
    let text = try characters(value) ?? [" "]
    guard text.count == 1 else { throw JinjaFailure("a fill of \(text.count) characters") }
    return text[0]
  }

  private static func splitting(fromRight: Bool) -> JinjaRoutine {
    JinjaRoutine("sep", "maxsplit") { (machine, value, given) throws(JinjaFailure) in
      let scalars = try machine.written(value)
      let limit = try machine.integer(given[1], or: -1)
      var parts: [[Unicode.Scalar]]
      if let separator = try machine.characters(given[0]) {
        // From the right the mirrored text is divided.
        parts = try machine.divided(
          fromRight ? scalars.reversed() : scalars, by: fromRight ? separator.reversed() : separator, limit: limit)
        if fromRight { parts = parts.reversed().map { $0.reversed() } }
      } else {
        parts = try machine.words(scalars)
        if limit >= 0, parts.count > limit {
          parts = try machine.words(scalars, limit: limit, fromRight: fromRight)
        }
      }
      var items: [JinjaValue] = []
      for part in parts { items.append(try machine.budget.text(part, isMarkup: value.isMarkup)) }
      return try machine.budget.list(items)
    }
  }

  /// At most `limit` words; the rest stays one text.
  private func words(_ text: [Unicode.Scalar], limit: Int, fromRight: Bool) throws(JinjaFailure) -> [[Unicode.Scalar]] {
    try budget.look(at: text.count)
    let source = fromRight ? text.reversed() : text
    var words: [[Unicode.Scalar]] = []
    var place = 0
    func skipSpace() { while place < source.count, source[place].isPythonSpace { place += 1 } }
    skipSpace()
    while place < source.count, words.count < limit {
      let start = place
      while place < source.count, !source[place].isPythonSpace { place += 1 }
      words.append(Array(source[start..<place]))
      skipSpace()
    }
    if place < source.count { words.append(Array(source[place...])) }
    return fromRight ? words.reversed().map { $0.reversed() } : words
  }

  private static func parting(fromRight: Bool) -> JinjaRoutine {
    JinjaRoutine("sep", required: 1) { (machine, value, given) throws(JinjaFailure) in
      let scalars = try machine.written(value)
      guard let separator = try machine.characters(given[0]), !separator.isEmpty else {
        throw JinjaFailure("an empty separator")
      }
      let place =
        fromRight
        ? try machine.findLast(separator, in: scalars, from: 0, to: scalars.count)
        : try machine.find(separator, in: scalars, from: 0)
      var parts: [[Unicode.Scalar]] = fromRight ? [[], [], scalars] : [scalars, [], []]
      if let place { parts = [Array(scalars[..<place]), separator, Array(scalars[(place + separator.count)...])] }
      var items: [JinjaValue] = []
      for part in parts { items.append(try machine.budget.text(part)) }
      return try machine.budget.tuple(items)
    }
  }

  private static func asking(_ holds: @escaping @Sendable ([Unicode.Scalar]) -> Bool) -> JinjaRoutine {
    JinjaRoutine { (machine, value, _) throws(JinjaFailure) in
      let scalars = try machine.written(value)
      try machine.budget.look(at: scalars.count)
      return .bool(holds(scalars))
    }
  }

  private static func each(_ holds: @escaping @Sendable (Unicode.Scalar) -> Bool) -> JinjaRoutine {
    asking { !$0.isEmpty && $0.allSatisfy(holds) }
  }

  static let textMethods: [String: JinjaRoutine] = [
    "upper": changing(JinjaCase.upper), "lower": changing(JinjaCase.lower), "title": changing(JinjaCase.title),
    "capitalize": changing(JinjaCase.capitalized), "swapcase": changing(JinjaCase.swapped),
    "casefold": changing { JinjaCase.lower(JinjaCase.upper($0)) },
    "strip": stripping(left: true, right: true), "lstrip": stripping(left: true, right: false),
    "rstrip": stripping(left: false, right: true),
    "startswith": beginning(atEnd: false), "endswith": beginning(atEnd: true),
    "split": splitting(fromRight: false), "rsplit": splitting(fromRight: true),
    "partition": parting(fromRight: false), "rpartition": parting(fromRight: true),
    "ljust": padding(left: false), "rjust": padding(left: true),
    "find": finding("find") { (machine, text, part, range) throws(JinjaFailure) in
      try machine.find(part, in: text, from: range.lowerBound, to: range.upperBound)
    },
    "index": finding("index") { (machine, text, part, range) throws(JinjaFailure) in
      try machine.find(part, in: text, from: range.lowerBound, to: range.upperBound)
    },
    "rfind": finding("rfind") { (machine, text, part, range) throws(JinjaFailure) in
      try machine.findLast(part, in: text, from: range.lowerBound, to: range.upperBound)
    },
    "rindex": finding("rindex") { (machine, text, part, range) throws(JinjaFailure) in
      try machine.findLast(part, in: text, from: range.lowerBound, to: range.upperBound)
    },
    "count": finding("count") { (machine, text, part, range) throws(JinjaFailure) in
      if part.isEmpty { return range.count + 1 }
      var (count, start) = (0, range.lowerBound)
      while let place = try machine.find(part, in: text, from: start, to: range.upperBound) {
        (count, start) = (count + 1, place + part.count)
      }
      return count
    },
    "isalpha": each(\.isPythonLetter), "isalnum": each(\.isPythonAlphanumeric), "isspace": each(\.isPythonSpace),
    "isdigit": each { $0.properties.numericType == .decimal || $0.properties.numericType == .digit },
    "isdecimal": each { $0.properties.numericType == .decimal }, "isnumeric": each { $0.properties.numericType != nil },
    "isascii": asking { $0.allSatisfy(\.isASCII) }, "isprintable": asking { $0.allSatisfy(\.isPythonPrintable) },
    "isupper": asking { hasCase($0, upper: true) }, "islower": asking { hasCase($0, upper: false) },
    "istitle": asking { scalars in scalars.contains(where: \.isCased) && JinjaCase.title(scalars) == scalars },
    "isidentifier": asking { scalars in
      scalars.first.map { $0 == "_" || $0.properties.isXIDStart } == true
        && scalars.allSatisfy { $0.properties.isXIDContinue }
    },
    "replace": JinjaRoutine("old", "new", "count", required: 2) { (machine, value, given) throws(JinjaFailure) in
      guard let old = try machine.characters(given[0]), let new = try machine.characters(given[1]) else {
        throw JinjaFailure("'replace' of none")
      }
      let scalars = try machine.written(value)
      return try machine.budget.text(
        try machine.replaced(scalars, old, new, try machine.integer(given[2], or: -1)), isMarkup: value.isMarkup)
    },
    "splitlines": JinjaRoutine("keepends") { (machine, value, given) throws(JinjaFailure) in
      var items: [JinjaValue] = []
      for line in try machine.lines(try machine.written(value), keepsEnds: try machine.isTrue(given[0], or: false)) {
        items.append(try machine.budget.text(line))
      }
      return try machine.budget.list(items)
    },
    "join": JinjaRoutine("iterable", required: 1) { (machine, value, given) throws(JinjaFailure) in
      let separator = try machine.written(value)
      var result: [Unicode.Scalar] = []
      for (index, item) in try machine.items(of: given[0] ?? .none, for: "'join'").enumerated() {
        guard case .text(let text) = item else { throw JinjaFailure("'join' of \(item.typeName)") }
        try machine.budget.spend(text.scalars.count + separator.count, of: 4)
        if index > 0 { result += separator }
        result += text.scalars
      }
      return try machine.budget.text(result)
    },
    "center": JinjaRoutine("width", "fillchar", required: 1) { (machine, value, given) throws(JinjaFailure) in
      try machine.budget.text(
        try machine.centred(
          try machine.written(value), try machine.integer(given[0], or: 0), try machine.fill(given[1])))
    },
    "zfill": JinjaRoutine("width", required: 1) { (machine, value, given) throws(JinjaFailure) in
      let scalars = try machine.written(value)
      let width = try machine.integer(given[0], or: 0)
      guard width > scalars.count else { return value }
      try machine.budget.spend(width, of: 4)
      let sign = scalars.prefix(scalars.first == "-" || scalars.first == "+" ? 1 : 0)
      return try machine.budget.text(
        sign + Array(repeating: "0", count: width - scalars.count) + scalars.dropFirst(sign.count))
    },
    "removeprefix": JinjaRoutine("prefix", required: 1) { (machine, value, given) throws(JinjaFailure) in
      let scalars = try machine.written(value)
      let part = try machine.characters(given[0]) ?? []
      return scalars.starts(with: part) ? try machine.budget.text(Array(scalars.dropFirst(part.count))) : value
    },
    "removesuffix": JinjaRoutine("suffix", required: 1) { (machine, value, given) throws(JinjaFailure) in
      let scalars = try machine.written(value)
      let part = try machine.characters(given[0]) ?? []
      return scalars.suffix(part.count).elementsEqual(part)
        ? try machine.budget.text(Array(scalars.dropLast(part.count))) : value
    },
    "expandtabs": JinjaRoutine("tabsize") { (machine, value, given) throws(JinjaFailure) in
      let size = try machine.integer(given[0], or: 8)
      var result: [Unicode.Scalar] = []
      var column = 0
      for scalar in try machine.written(value) {
        guard scalar == "\t" else {
          result.append(scalar)
          column = scalar == "\n" || scalar == "\r" ? 0 : column + 1
          continue
        }
        guard size > 0 else { continue }
        let space = size - column % size
        try machine.budget.spend(space, of: 4)
        guard result.count + space <= JinjaBudget.byteLimit / 8 else {
          throw JinjaFailure("a text of \(result.count + space) characters")
        }
        result += Array(repeating: " ", count: space)
        column += space
      }
      return try machine.budget.text(result)
    },
    "format": JinjaRoutine(free: { (machine, value, given) throws(JinjaFailure) in
      try machine.braceFormat(try machine.written(value), given)
    }),
    "format_map": JinjaRoutine("mapping", required: 1) { (machine, value, given) throws(JinjaFailure) in
      guard case .dictionary(let dictionary)? = given[0] else {
        throw JinjaFailure("'format_map' of what is no dictionary")
      }
      var arguments = JinjaArguments()
      for case (.text(let name), let value) in dictionary.entries { arguments.named.append((name, value)) }
      return try machine.braceFormat(try machine.written(value), arguments)
    },
  ]
}
