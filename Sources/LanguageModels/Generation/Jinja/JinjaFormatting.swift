/// `"%s" % x` and `"{}".format(x)`.
extension JinjaMachine {
  /// Python's `%` of a text.
  func percentFormat(_ format: JinjaText, _ value: JinjaValue) throws(JinjaFailure) -> JinjaValue {
    var values = [value]
    if case .tuple(let list) = value { values = list.items }
    var reader = JinjaFormatReader(format.scalars)
    var (result, used): ([Unicode.Scalar], Int) = ([], 0)
    func next() throws(JinjaFailure) -> JinjaValue {
      guard used < values.count else { throw JinjaFailure("a format with more places than values") }
      used += 1
      return values[used - 1]
    }
    while let scalar = reader.next() {
      try budget.step()
      guard scalar == "%" else {
        result.append(scalar)
        continue
      }
      var named: JinjaValue?
      if reader.take("(") {
        guard case .dictionary(let dictionary) = value else {
          throw JinjaFailure("a format with names for what is no dictionary")
        }
        let name = try reader.text(upTo: ")")
        guard let found = dictionary.value(.text(JinjaText(name))) else {
          throw JinjaFailure("a format with the unknown name '\(String(name))'")
        }
        (named, used) = (found, values.count)
      }
      var spec = JinjaNumberFormat()
      while let flag = reader.take(anyOf: ["-", "+", " ", "#", "0"]) {
        switch flag {
        case "-": spec.align = "<"
        case "+": spec.sign = "+"
        case " ": spec.sign = spec.sign ?? " "
        case "#": spec.isAlternate = true
        default: if spec.align == nil { (spec.fill, spec.align) = ("0", "=") }
        }
      }
      if spec.align == "<" { spec.fill = " " }
      spec.width = reader.take("*") ? try integer(try next(), or: 0) : try reader.number() ?? 0
      if reader.take(".") {
        spec.precision = reader.take("*") ? try integer(try next(), or: 0) : try reader.number() ?? 0
      }
      _ = reader.take(anyOf: ["h", "l", "L"])
      guard let type = reader.next() else { throw JinjaFailure("a format that ends in the middle") }
      if type == "%" {
        result.append("%")
        continue
      }
      guard spec.width <= JinjaNumberFormat.limit, (spec.precision ?? 0) <= JinjaNumberFormat.limit else {
        throw JinjaFailure("a format of \(spec.width) characters")
      }
      let item: JinjaValue
      if let named { item = named } else { item = try next() }
      let part = try percentPart(item, type, spec, isMarkup: format.isMarkup)
      try budget.spend(part.count, of: 4)
      result += part
    }
    if used < values.count {
      switch value {
      case .dictionary, .list, .range, .view: break
      default: throw JinjaFailure("a format with fewer places than values")
      }
    }
    return try budget.text(result, isMarkup: format.isMarkup)
  }

  private func percentPart(
    _ item: JinjaValue, _ type: Unicode.Scalar, _ spec: JinjaNumberFormat, isMarkup: Bool
  ) throws(JinjaFailure) -> [Unicode.Scalar] {
    var spec = spec
    switch type {
    case "s", "r", "a", "c":
      if spec.align == "=" { (spec.align, spec.fill) = (nil, " ") }
      spec.align = spec.align ?? ">"
      if type == "c", case .integer(let code)? = item.number {
        return spec.text([try character(code)])
      }
      if type == "c" {
        guard case .text(let text) = item, text.scalars.count == 1 else {
          throw JinjaFailure("'%c' of \(item.typeName)")
        }
      }
      return spec.text(isMarkup ? try escaped(item) : type == "r" ? try represented(item) : try written(item))
    case "d", "i", "u":
      spec.type = "d"
      guard let number = item.number else { throw JinjaFailure("a number's format for \(item.typeName)") }
      var whole = number
      if case .number(let double) = number {
        guard let exact = Int(exactly: double.rounded(.towardZero)) else {
          throw JinjaFailure("\(double) has more than 64 bits")
        }
        whole = .integer(exact)
      }
      return try spec.number(whole)
    case "x", "X", "o":
      guard case .integer? = item.number else { throw JinjaFailure("a whole number's format for \(item.typeName)") }
      spec.type = type
      return try spec.number(item)
    case "e", "E", "f", "F", "g", "G":
      spec.type = type
      return try spec.number(.number(try double(item)))
    default: throw JinjaFailure("the format '%\(String(Character(type)))'")
    }
  }

  private func character(_ code: Int) throws(JinjaFailure) -> Unicode.Scalar {
    guard let code = UInt32(exactly: code), let scalar = Unicode.Scalar(code) else {
      throw JinjaFailure("\(code) is no character")
    }
    return scalar
  }

  /// Python's `str.format`, in which attributes are found as templates find them.
  func braceFormat(_ format: [Unicode.Scalar], _ arguments: JinjaArguments) throws(JinjaFailure) -> JinjaValue {
    var counter: Int? = 0
    return try budget.text(try braceFormat(format, arguments, &counter, level: 0))
  }

  private func braceFormat(
    _ format: [Unicode.Scalar], _ arguments: JinjaArguments, _ counter: inout Int?, level: Int
  ) throws(JinjaFailure) -> [Unicode.Scalar] {
    guard level < 2 else { throw JinjaFailure("a format in a format in a format") }
    var reader = JinjaFormatReader(format)
    var result: [Unicode.Scalar] = []
    while let scalar = reader.next() {
      try budget.step()
      if scalar == "}" {
        guard reader.take("}") else { throw JinjaFailure("a format with a single '}'") }
        result.append("}")
      } else if scalar != "{" || reader.take("{") {
        result.append(scalar)
      } else {
        var field = try reader.field()
        var value = try braceValue(field.name, arguments, &counter)
        switch field.conversion {
        case "r", "a": value = try budget.text(try represented(value))
        case "s": value = try budget.text(try written(value))
        case nil: break
        default: throw JinjaFailure("a format with an unknown conversion")
        }
        if field.format.contains("{") {
          field.format = try braceFormat(field.format, arguments, &counter, level: level + 1)
        }
        let part = try formatted(value, field.format)
        try budget.spend(part.count, of: 4)
        result += part
      }
    }
    return result
  }

  private func braceValue(
    _ name: [Unicode.Scalar], _ arguments: JinjaArguments, _ counter: inout Int?
  ) throws(JinjaFailure) -> JinjaValue {
    let end = name.firstIndex { $0 == "." || $0 == "[" } ?? name.count
    let first = Array(name[..<end])
    var value: JinjaValue
    if first.isEmpty || first.allSatisfy({ ("0"..."9").contains($0) }) {
      var place = Int(String(first)) ?? -1
      if first.isEmpty {
        guard let next = counter else { throw JinjaFailure("a format with numbers in some places only") }
        (place, counter) = (next, next + 1)
      } else {
        guard counter == nil || counter == 0 else { throw JinjaFailure("a format with numbers in some places only") }
        counter = nil
      }
      guard arguments.plain.indices.contains(place) else { throw JinjaFailure("a format with more places than values") }
      value = arguments.plain[place]
    } else {
      guard let found = arguments.named.first(where: { $0.name.scalars == first }) else {
        throw JinjaFailure("a format with the unknown name '\(String(first))'")
      }
      value = found.value
    }
    var reader = JinjaFormatReader(Array(name[end...]))
    while let mark = reader.next() {
      if mark == "." {
        value = try attribute(JinjaText(reader.word()), of: value)
      } else {
        let key = try reader.text(upTo: "]")
        let isNumber = !key.isEmpty && key.allSatisfy { ("0"..."9").contains($0) }
        value = try item(isNumber ? .integer(Int(String(key)) ?? Int.max) : .text(JinjaText(key)), of: value)
      }
    }
    return value
  }

  /// Python's `format(value, spec)`.
  private func formatted(_ value: JinjaValue, _ spec: [Unicode.Scalar]) throws(JinjaFailure) -> [Unicode.Scalar] {
    guard !spec.isEmpty else { return try written(value) }
    var reader = JinjaFormatReader(spec)
    let format = try reader.specification()
    switch value {
    case .text(let text):
      guard format.type == nil || format.type == "s", format.align != "=", format.sign == nil, format.grouping == nil,
        !format.isAlternate
      else { throw JinjaFailure("a number's format for a text") }
      return format.text(text.scalars)
    case .integer, .bool, .number:
      if format.type == "c", case .integer(let code)? = value.number {
        var format = format
        format.align = format.align ?? "<"
        return format.text([try character(code)])
      }
      return try format.number(value)
    default: throw JinjaFailure("a format for \(value.typeName)")
    }
  }
}

/// Reads a format's characters.
struct JinjaFormatReader {
  private let scalars: [Unicode.Scalar]
  private var position = 0

  init(_ scalars: [Unicode.Scalar]) { self.scalars = scalars }

  mutating func next() -> Unicode.Scalar? {
    guard position < scalars.count else { return nil }
    position += 1
    return scalars[position - 1]
  }

  mutating func take(_ scalar: Unicode.Scalar) -> Bool { take(anyOf: [scalar]) != nil }

  mutating func take(anyOf set: [Unicode.Scalar]) -> Unicode.Scalar? {
    guard position < scalars.count, set.contains(scalars[position]) else { return nil }
    return next()
  }

  mutating func text(upTo end: Unicode.Scalar) throws(JinjaFailure) -> [Unicode.Scalar] {
    let start = position
    while position < scalars.count, scalars[position] != end { position += 1 }
    guard position < scalars.count else { throw JinjaFailure("a format that ends in the middle") }
    position += 1
    return Array(scalars[start..<position - 1])
  }

  /// Characters up to a dot or a bracket.
  mutating func word() -> [Unicode.Scalar] {
    let start = position
    while position < scalars.count, scalars[position] != ".", scalars[position] != "[" { position += 1 }
    return Array(scalars[start..<position])
  }

  mutating func number() throws(JinjaFailure) -> Int? {
    let start = position
    while position < scalars.count, ("0"..."9").contains(scalars[position]) { position += 1 }
    guard position > start else { return nil }
    guard let number = Int(String(scalars[start..<position])), number <= JinjaNumberFormat.limit else {
      throw JinjaFailure("a format of more than \(JinjaNumberFormat.limit) characters")
    }
    return number
  }

  /// What stands in braces: a name, a conversion, a format.
  mutating func field() throws(JinjaFailure) -> (
    name: [Unicode.Scalar], conversion: Unicode.Scalar?, format: [Unicode.Scalar]
  ) {
    var parts: (name: [Unicode.Scalar], conversion: Unicode.Scalar?, format: [Unicode.Scalar]) = ([], nil, [])
    while position < scalars.count, !["}", ":", "!"].contains(scalars[position]) {
      parts.name.append(scalars[position])
      position += 1
    }
    if take("!") { parts.conversion = next() }
    if take(":") {
      var open = 0
      while position < scalars.count, open > 0 || scalars[position] != "}" {
        if scalars[position] == "{" { open += 1 }
        if scalars[position] == "}" { open -= 1 }
        parts.format.append(scalars[position])
        position += 1
      }
    }
    guard take("}") else { throw JinjaFailure("a format that ends in the middle") }
    return parts
  }

  mutating func specification() throws(JinjaFailure) -> JinjaNumberFormat {
    var format = JinjaNumberFormat()
    let aligns: [Unicode.Scalar] = ["<", ">", "^", "="]
    if position + 1 < scalars.count, aligns.contains(scalars[position + 1]) {
      (format.fill, format.align) = (scalars[position], scalars[position + 1])
      position += 2
    } else if let align = take(anyOf: aligns) {
      format.align = align
    }
    if let sign = take(anyOf: ["+", "-", " "]) { format.sign = sign }
    format.isAlternate = take("#")
    if take("0"), format.align == nil { (format.fill, format.align) = ("0", "=") }
    format.width = try number() ?? 0
    format.grouping = take(anyOf: [",", "_"])
    if take(".") {
      guard let precision = try number() else { throw JinjaFailure("a format without its precision") }
      format.precision = precision
    }
    format.type = next()
    guard position == scalars.count else { throw JinjaFailure("the format '\(String(scalars))'") }
    return format
  }
}
