/// Filters of texts.
extension JinjaMachine {
  private static func changing(
    _ change: @escaping @Sendable ([Unicode.Scalar]) -> [Unicode.Scalar]
  ) -> JinjaRoutine {
    JinjaRoutine { (machine, value, _) throws(JinjaFailure) in
      let scalars = try machine.written(value)
      try machine.budget.look(at: scalars.count)
      try machine.budget.spend(scalars.count, of: 12)
      return try machine.budget.text(change(scalars), isMarkup: value.isMarkup)
    }
  }

  private static let escape = JinjaRoutine { (machine, value, _) throws(JinjaFailure) in
    try machine.budget.text(try machine.escaped(value), isMarkup: true)
  }

  static let textFilters: [String: JinjaRoutine] = [
    "upper": changing(JinjaCase.upper), "lower": changing(JinjaCase.lower),
    "capitalize": changing(JinjaCase.capitalized), "title": changing(titled),
    "escape": escape, "e": escape,
    "forceescape": JinjaRoutine { (machine, value, _) throws(JinjaFailure) in
      try machine.budget.text(try machine.escaped(JinjaText(try machine.written(value))), isMarkup: true)
    },
    "safe": JinjaRoutine { (machine, value, _) throws(JinjaFailure) in
      try machine.budget.text(try machine.written(value), isMarkup: true)
    },
    "string": JinjaRoutine { (machine, value, _) throws(JinjaFailure) in
      if case .text = value { return value }
      return try machine.budget.text(try machine.written(value))
    },
    "trim": JinjaRoutine("chars") { (machine, value, given) throws(JinjaFailure) in
      let scalars = try machine.written(value)
      let removed = try machine.characters(given[0])
      try machine.budget.look(at: scalars.count + (removed?.count ?? 0) * 16)
      return try machine.budget.text(JinjaMachine.stripped(scalars, removed), isMarkup: value.isMarkup)
    },
    "replace": JinjaRoutine("old", "new", "count", required: 2) { (machine, value, given) throws(JinjaFailure) in
      let old = try machine.written(given[0] ?? .none)
      let new = try machine.written(given[1] ?? .none)
      var count = -1
      if let limit = given[2], case .integer(let number)? = limit.number { count = number }
      return try machine.budget.text(try machine.replaced(try machine.written(value), old, new, count))
    },
    "format": JinjaRoutine(free: { (machine, value, given) throws(JinjaFailure) in
      guard given.plain.isEmpty || given.named.isEmpty else { throw JinjaFailure("'format' with names and places") }
      let format = JinjaText(try machine.written(value), isMarkup: value.isMarkup)
      return try machine.percentFormat(
        format,
        given.named.isEmpty
          ? try machine.budget.tuple(given.plain)
          : try machine.budget.dictionary(given.named.map { (.text($0.name), $0.value) }))
    }),
    "center": JinjaRoutine("width") { (machine, value, given) throws(JinjaFailure) in
      try machine.budget.text(
        try machine.centred(try machine.written(value), try machine.integer(given[0], or: 80), " "))
    },
    "indent": JinjaRoutine("width", "first", "blank") { (machine, value, given) throws(JinjaFailure) in
      guard case .text(let text) = value else { throw JinjaFailure("'indent' of \(value.typeName)") }
      var space: [Unicode.Scalar] = []
      if case .text(let given)? = given[0] {
        space = given.scalars
      } else {
        let width = max(0, try machine.integer(given[0], or: 4))
        try machine.budget.spend(width, of: 4)
        space = Array(repeating: " ", count: width)
      }
      let fillsBlank = try machine.isTrue(given[2], or: false)
      let lines = try machine.lines(text.scalars + ["\n"], keepsEnds: false)
      var result: [Unicode.Scalar] = try machine.isTrue(given[1], or: false) ? space : []
      for (index, line) in lines.enumerated() {
        try machine.budget.spend(line.count + space.count + 1, of: 4)
        if index > 0 {
          result.append("\n")
          if fillsBlank || !line.isEmpty { result += space }
        }
        result += line
      }
      return try machine.budget.text(result, isMarkup: text.isMarkup)
    },
    "truncate": JinjaRoutine("length", "killwords", "end", "leeway") { (machine, value, given) throws(JinjaFailure) in
      guard case .text(let text) = value else { throw JinjaFailure("'truncate' of \(value.typeName)") }
      let length = try machine.integer(given[0], or: 255)
      let end = try machine.characters(given[2]) ?? [".", ".", "."]
      let leeway = try machine.integer(given[3], or: 5)
      guard length >= end.count, leeway >= 0 else { throw JinjaFailure("'truncate' to \(length) characters") }
      if text.scalars.count - min(leeway, text.scalars.count) <= length { return value }
      var kept = text.scalars.prefix(length - end.count)
      if try !machine.isTrue(given[1], or: false), let space = kept.lastIndex(of: " ") { kept = kept[..<space] }
      return try machine.budget.text(kept + end)
    },
    "wordcount": JinjaRoutine { (machine, value, _) throws(JinjaFailure) in
      let scalars = try machine.written(value)
      try machine.budget.look(at: scalars.count)
      var (count, isInWord) = (0, false)
      for scalar in scalars {
        if scalar.isPythonWord, !isInWord { count += 1 }
        isInWord = scalar.isPythonWord
      }
      return .integer(count)
    },
    "striptags": JinjaRoutine { (machine, value, _) throws(JinjaFailure) in
      let scalars = try machine.written(value)
      guard !scalars.contains("<"), !scalars.contains("&") else {
        throw JinjaFailure("'striptags' of a text with tags")
      }
      let words = try machine.words(scalars)
      return try machine.budget.text(Array(words.joined(separator: [" "])))
    },
    "urlencode": JinjaRoutine { (machine, value, _) throws(JinjaFailure) in
      let pairs: [JinjaValue]
      switch value {
      case .dictionary(let dictionary):
        pairs = try dictionary.entries.map { (entry) throws(JinjaFailure) in
          try machine.budget.tuple([entry.key, entry.value])
        }
      case .list(let list), .tuple(let list): pairs = list.items
      default: return .constant(try machine.urlQuoted(value, isQuery: false))
      }
      var parts: [String] = []
      for pair in pairs {
        let members = try machine.items(of: pair, for: "'urlencode'")
        guard members.count == 2 else { throw JinjaFailure("'urlencode' of what are no pairs") }
        parts.append(
          try machine.urlQuoted(members[0], isQuery: true) + "=" + machine.urlQuoted(members[1], isQuery: true))
      }
      return try machine.budget.text([Unicode.Scalar](parts.joined(separator: "&")))
    },
    "xmlattr": JinjaRoutine("autospace") { (machine, value, given) throws(JinjaFailure) in
      guard case .dictionary(let dictionary) = value else { throw JinjaFailure("'xmlattr' of \(value.typeName)") }
      var result: [Unicode.Scalar] = []
      for entry in dictionary.entries {
        switch entry.value {
        case .none, .undefined: continue
        default: break
        }
        let key = try machine.escaped(entry.key)
        guard !key.contains(where: { " \t\n\u{B}\u{C}\r/>=".unicodeScalars.contains($0) }) else {
          throw JinjaFailure("'xmlattr' with the name '\(String(key))'")
        }
        if !result.isEmpty { result.append(" ") }
        result += key + ["=", "\""] + (try machine.escaped(entry.value)) + ["\""]
      }
      let isSpaced = try machine.isTrue(given[0], or: true) && !result.isEmpty
      return try machine.budget.text((isSpaced ? [" "] : []) + result)
    },
  ]

  /// A capital after each space, hyphen or opening bracket.
  private static func titled(_ scalars: [Unicode.Scalar]) -> [Unicode.Scalar] {
    func divides(_ scalar: Unicode.Scalar) -> Bool {
      scalar.isPythonSpace || ["-", "(", "{", "[", "<"].contains(scalar)
    }
    var result: [Unicode.Scalar] = []
    for word in scalars.chunked(where: divides) {
      result += JinjaCase.upper([word[0]]) + JinjaCase.lower(Array(word.dropFirst()))
    }
    return result
  }

  private func urlQuoted(_ value: JinjaValue, isQuery: Bool) throws(JinjaFailure) -> String {
    let scalars = try written(value)
    try budget.look(at: scalars.count * 8)
    try budget.spend(scalars.count, of: 24)
    var result = ""
    for byte in String(scalars).utf8 {
      let scalar = Unicode.Scalar(byte)
      if byte < 0x80,
        scalar.isPythonAlphanumeric || "_.-~".unicodeScalars.contains(scalar) || (scalar == "/" && !isQuery)
      {
        result.unicodeScalars.append(scalar)
      } else if isQuery, scalar == " " {
        result += "+"
      } else {
        result += "%" + (byte < 16 ? "0" : "") + String(byte, radix: 16, uppercase: true)
      }
    }
    return result
  }
}

extension [Unicode.Scalar] {
  /// Runs of characters that are alike.
  fileprivate func chunked(where holds: (Unicode.Scalar) -> Bool) -> [[Unicode.Scalar]] {
    var chunks: [[Unicode.Scalar]] = []
    var last: Bool?
    for scalar in self {
      let kind = holds(scalar)
      if kind == last { chunks[chunks.count - 1].append(scalar) } else { chunks.append([scalar]) }
      last = kind
    }
    return chunks
  }
}

extension JinjaValue {
  var isMarkup: Bool { if case .text(let text) = self { text.isMarkup } else { false } }
}
