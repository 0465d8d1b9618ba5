internal import TensorFiles

/// A parameter's value in a recipe: one value, a list that is spread over the layers, or values for tensors by their names.
///
/// Source: mergekit 0.1.5, config.py `evaluate_setting`.
indirect enum RecipeSetting: Sendable, Equatable {
  case value(Value)
  /// Values at even distances over the layers: numbers between two are interpolated, others hold up to the next.
  case gradient([Value])
  /// The first whose filter occurs in the tensor's name; nil fits all.
  case conditions([(filter: String?, setting: RecipeSetting)])

  /// A number or a truth value, as the parameter wants it.
  enum Value: Sendable, Equatable {
    case number(Double)
    case flag(Bool)

    var number: Double {
      switch self {
      case .number(let number): number
      case .flag(let flag): flag ? 1 : 0
      }
    }

    var flag: Bool {
      switch self {
      case .number(let number): number != 0
      case .flag(let flag): flag
      }
    }
  }

  static func == (left: RecipeSetting, right: RecipeSetting) -> Bool {
    switch (left, right) {
    case (.value(let a), .value(let b)): a == b
    case (.gradient(let a), .gradient(let b)): a == b
    case (.conditions(let a), .conditions(let b)):
      a.count == b.count && zip(a, b).allSatisfy { $0.filter == $1.filter && $0.setting == $1.setting }
    default: false
    }
  }

  /// The value for a tensor; nil if no filter fits its name.
  ///
  /// - Parameter position: of the layer, from 0 for the first to 1 for the last.
  func value(for tensor: String, at position: Double) -> Value? {
    switch self {
    case .value(let value): return value
    case .gradient(let values):
      guard let last = values.last else { return nil }
      let place = position * Double(values.count - 1)
      let index = min(Int(place), values.count - 1)
      guard case .number(let low) = values[index], index + 1 < values.count, case .number(let high) = values[index + 1]
      else { return index < values.count ? values[index] : last }
      let share = place - Double(index)
      return .number((1 - share) * low + share * high)
    case .conditions(let conditions):
      let first = conditions.first { condition in
        condition.filter.map { $0 == "*" || tensor.utf8.contains($0.utf8) } ?? true
      }
      return first?.setting.value(for: tensor, at: position)
    }
  }

  // MARK: Reading

  /// Filters that one setting may have: each is asked for each tensor.
  private static let filterLimit = 1000

  /// What a setting may be read as.
  enum Form: Sendable { case number, flag }

  /// Reads a setting. Throws `.badValue`, `.unknownKey`, `.missing`.
  init(_ json: JSONValue, as form: Form, path: String, at place: String) throws(RecipeError) {
    if let value = Self.scalar(json, form) {
      self = .value(value)
    } else if json.members != nil {
      self = .conditions([try Self.condition(json, form, path, place)])
    } else if let elements = json.elements, !elements.isEmpty {
      if elements.allSatisfy({ $0.members != nil }) {
        guard elements.count <= Self.filterLimit else {
          throw .badValue(
            path: path, at: place, expected: "at most \(Self.filterLimit) values with filters",
            found: "\(elements.count)")
        }
        var conditions: [(filter: String?, setting: RecipeSetting)] = []
        for (index, element) in elements.enumerated() {
          conditions.append(try Self.condition(element, form, path, "\(place)[\(index)]"))
        }
        self = .conditions(conditions)
        return
      }
      var values: [Value] = []
      for (index, element) in elements.enumerated() {
        guard let value = Self.scalar(element, form) else {
          throw .badValue(
            path: path, at: "\(place)[\(index)]", expected: Self.expected(form), found: element.compactText)
        }
        values.append(value)
      }
      self = .gradient(values)
    } else {
      throw .badValue(
        path: path, at: place, expected: "\(Self.expected(form)), a list, or a list of 'value' with 'filter'",
        found: json.compactText)
    }
  }

  private static func expected(_ form: Form) -> String { form == .number ? "a finite number" : "true or false" }

  private static func condition(
    _ json: JSONValue, _ form: Form, _ path: String, _ place: String
  ) throws(RecipeError) -> (filter: String?, setting: RecipeSetting) {
    for member in json.members ?? [] where member.key != "value" && member.key != "filter" {
      throw .unknownKey(
        path: path, at: place, key: member.key, nearest: nearestNames(to: member.key, in: ["value", "filter"]))
    }
    guard let value = json["value"] else { throw .missing(path: path, at: place, key: "value") }
    var filter: String?
    if let given = json["filter"], given != .null {
      // A number in a filter is meant as its digits.
      filter = given.stringValue ?? given.compactText
    }
    guard value.members == nil, value.elements?.contains(where: { $0.members != nil }) != true else {
      throw .badValue(
        path: path, at: "\(place).value", expected: "a value or a list of values", found: value.compactText)
    }
    return (filter, try RecipeSetting(value, as: form, path: path, at: "\(place).value"))
  }

  private static func scalar(_ json: JSONValue, _ form: Form) -> Value? {
    if let flag = json.boolValue { return form == .flag ? .flag(flag) : .number(flag ? 1 : 0) }
    let number = PythonNumber(json: json)?.doubleValue ?? json.stringValue.flatMap { Double($0) }
    switch form {
    case .number: return number.flatMap { $0.isFinite ? .number($0) : nil }
    case .flag:
      if let number { return number == 0 ? .flag(false) : number == 1 ? .flag(true) : nil }
      switch json.stringValue?.lowercased() {
      case "true", "t", "yes", "y", "on": return .flag(true)
      case "false", "f", "no", "n", "off": return .flag(false)
      default: return nil
      }
    }
  }
}
