internal import Glibc
internal import TensorFiles

/// The functions, methods, filters and tests that chat templates use.
extension JinjaMachine {
  mutating func call(
    _ callee: Expression, _ plain: [Expression], _ named: [(String, Expression)]
  ) throws(JinjaFailure) -> JinjaValue {
    let values = try all(plain)
    if case .name(let name) = callee {
      switch name {
      case "raise_exception": throw JinjaFailure(reason: "it says: \(values.first?.text ?? "")")
      case "namespace":
        let space = JinjaNamespace()
        for (key, value) in named { space.values[key] = try evaluate(value) }
        return .namespace(space)
      case "range":
        let bounds = values.compactMap { if case .integer(let value) = $0 { value } else { nil } }
        guard let last = bounds.count > 1 ? bounds[1] : bounds.first, bounds.count <= 2, last < 100_000 else {
          throw JinjaFailure(reason: "a range")
        }
        let first = bounds.count > 1 ? bounds[0] : 0
        return .list(first < last ? (first..<last).map { .integer($0) } : [])
      case "strftime_now": return .string(Self.now(values.first?.text ?? ""))
      case "dict":
        var members: [(key: String, value: JinjaValue)] = []
        for (key, value) in named { members.append((key, try evaluate(value))) }
        return .dictionary(members)
      default: throw JinjaFailure(reason: "the function '\(name)'")
      }
    }
    guard case .attribute(let base, let method) = callee else { throw JinjaFailure(reason: "a call of an expression") }
    let value = try evaluate(base)
    switch (value, method) {
    case (.dictionary(let members), "items"): return .list(members.map { .list([.string($0.key), $0.value]) })
    case (.dictionary(let members), "keys"): return .list(members.map { .string($0.key) })
    case (.dictionary(let members), "values"): return .list(members.map(\.value))
    case (.dictionary(let members), "get"):
      return members.first { $0.key == values.first?.text }?.value ?? (values.count > 1 ? values[1] : .none)
    case (.string(let text), "strip"), (.string(let text), "lstrip"), (.string(let text), "rstrip"):
      return .string(
        Self.stripped(text, values.first?.text, left: method != "rstrip", right: method != "lstrip"))
    case (.string(let text), "startswith"): return .bool(text.utf8.starts(with: (values.first?.text ?? "").utf8))
    case (.string(let text), "endswith"):
      return .bool(text.utf8.reversed().starts(with: (values.first?.text ?? "").utf8.reversed()))
    case (.string(let text), "split"):
      guard let separator = values.first?.text, !separator.isEmpty else {
        return .list(text.split(whereSeparator: \.isWhitespace).map { .string(String($0)) })
      }
      return .list(text.components(separatedBy: separator).map { .string($0) })
    case (.string(let text), "replace") where values.count >= 2:
      return .string(text.replacing(values[0].text, with: values[1].text))
    case (.string(let text), "upper"): return .string(text.uppercased())
    case (.string(let text), "lower"): return .string(text.lowercased())
    case (.string(let text), "title"), (.string(let text), "capitalize"):
      return .string(text.prefix(1).uppercased() + text.dropFirst().lowercased())
    default: throw JinjaFailure(reason: "the method '\(method)'")
    }
  }

  private static func stripped(_ text: String, _ characters: String?, left: Bool, right: Bool) -> String {
    func goes(_ scalar: Unicode.Scalar) -> Bool {
      characters.map { $0.unicodeScalars.contains(scalar) } ?? scalar.properties.isWhitespace
    }
    var scalars = Array(text.unicodeScalars)[...]
    if left { scalars = scalars.drop(while: goes) }
    if right { while let last = scalars.last, goes(last) { scalars.removeLast() } }
    return String(String.UnicodeScalarView(scalars))
  }

  private static func now(_ format: String) -> String {
    var seconds = time(nil)
    var parts = tm()
    localtime_r(&seconds, &parts)
    var buffer = [CChar](repeating: 0, count: 256)
    let length = strftime(&buffer, buffer.count, format, &parts)
    return String(decoding: buffer.prefix(length).map { UInt8(bitPattern: $0) }, as: UTF8.self)
  }

  func filter(
    _ value: JinjaValue, _ name: String, _ arguments: [JinjaValue], _ options: [String: JinjaValue]
  ) throws(JinjaFailure) -> JinjaValue {
    switch name {
    case "trim": return .string(Self.stripped(value.text, arguments.first?.text, left: true, right: true))
    case "upper": return .string(value.text.uppercased())
    case "lower": return .string(value.text.lowercased())
    case "capitalize": return .string(value.text.prefix(1).uppercased() + value.text.dropFirst().lowercased())
    case "string": return .string(value.text)
    case "length", "count": return .integer(try elements(value).count)
    case "first": return try elements(value).first ?? .undefined
    case "last": return try elements(value).last ?? .undefined
    case "list": return .list(try elements(value))
    case "reverse": return .list(try elements(value).reversed())
    case "join": return .string(try elements(value).map(\.text).joined(separator: arguments.first?.text ?? ""))
    case "default", "d":
      let replaces = value.isUndefined || (arguments.count > 1 && arguments[1].isTrue && !value.isTrue)
      return replaces ? arguments.first ?? .string("") : value
    case "replace" where arguments.count >= 2:
      return .string(value.text.replacing(arguments[0].text, with: arguments[1].text))
    case "items":
      guard case .dictionary(let members) = value else { return .list([]) }
      return .list(members.map { .list([.string($0.key), $0.value]) })
    case "int": return .integer(Int(value.text) ?? 0)
    case "safe": return value
    case "tojson":
      let indent = options["indent"]?.double.map { Int(min(max($0, 0), 16)) }
      return .string(value.json.dumped(indent: indent))
    case "selectattr", "rejectattr":
      let wanted = name == "selectattr"
      var kept: [JinjaValue] = []
      for item in try elements(value) {
        let found = member(item, arguments.first?.text ?? "")
        let holds =
          arguments.count > 1 ? try test(found, arguments[1].text, Array(arguments.dropFirst(2))) : found.isTrue
        if holds == wanted { kept.append(item) }
      }
      return .list(kept)
    case "map":
      guard let attribute = options["attribute"]?.text else {
        throw JinjaFailure(reason: "the filter 'map' without attribute")
      }
      return .list(try elements(value).map { member($0, attribute) })
    default: throw JinjaFailure(reason: "the filter '\(name)'")
    }
  }

  func test(_ value: JinjaValue, _ name: String, _ arguments: [JinjaValue]) throws(JinjaFailure) -> Bool {
    switch (name, value) {
    case ("defined", _): return !value.isUndefined
    case ("undefined", _): return value.isUndefined
    case ("none", .none), ("string", .string), ("mapping", .dictionary), ("boolean", .bool), ("integer", .integer):
      return true
    case ("none", _), ("string", _), ("mapping", _), ("boolean", _), ("integer", _): return false
    case ("number", _): return value.double != nil
    case ("iterable", .list), ("iterable", .string), ("iterable", .dictionary): return true
    case ("sequence", .list), ("sequence", .string): return true
    case ("iterable", _), ("sequence", _): return false
    case ("true", .bool(let flag)): return flag
    case ("false", .bool(let flag)): return !flag
    case ("true", _), ("false", _): return false
    case ("equalto", _), ("eq", _), ("==", _): return value.equals(arguments.first ?? .undefined)
    case ("in", _): return try elements(arguments.first ?? .undefined).contains { $0.equals(value) }
    default: throw JinjaFailure(reason: "the test '\(name)'")
    }
  }
}

extension String {
  /// The parts between a separator.
  fileprivate func components(separatedBy separator: String) -> [String] {
    var parts: [String] = []
    var rest = self[...]
    while let range = rest.firstRange(of: separator) {
      parts.append(String(rest[..<range.lowerBound]))
      rest = rest[range.upperBound...]
    }
    return parts + [String(rest)]
  }
}

extension JSONValue {
  /// Python's `json.dumps` with its own separators, and `indent` spaces a level if given. Characters stay as they are.
  fileprivate func dumped(indent: Int?, level: Int = 0) -> String {
    func block(_ open: String, _ parts: [String], _ close: String) -> String {
      guard !parts.isEmpty else { return open + close }
      guard let indent else { return open + parts.joined(separator: ", ") + close }
      let (inner, outer) = (
        String(repeating: " ", count: indent * (level + 1)), String(repeating: " ", count: indent * level)
      )
      return open + "\n" + parts.map { inner + $0 }.joined(separator: ",\n") + "\n" + outer + close
    }
    switch self {
    case .array(let items): return block("[", items.map { $0.dumped(indent: indent, level: level + 1) }, "]")
    case .object(let members):
      return block(
        "{",
        members.map { JSONValue.string($0.key).compactText + ": " + $0.value.dumped(indent: indent, level: level + 1) },
        "}")
    default: return compactText
    }
  }
}
