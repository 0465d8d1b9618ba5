internal import TensorFiles

/// The settings of a method's configuration, as they hold for one module.
protocol MethodSettings {
  var config: PeftConfig { get }
  /// Names the configuration in errors.
  var configPath: String { get }
  /// The module's path in the model.
  var path: String { get }
  /// What the configuration's patterns spend from, for all modules together.
  var patterns: PatternBudget { get }
}

extension MethodSettings {
  /// A setting of the configuration.
  func setting(_ key: String) -> JSONValue { config.settings[key] ?? .null }

  /// A setting that must be a number.
  func number(_ key: String) throws(AdapterError) -> Double {
    guard let value = PythonNumber(json: setting(key)) else {
      throw .configValue(path: configPath, key: key, expected: "a number", found: setting(key).compactText)
    }
    return value.doubleValue
  }

  /// A setting that must be a whole number within a range.
  func integer(_ key: String, _ range: ClosedRange<Int>) throws(AdapterError) -> Int {
    guard let value = setting(key).integerValue, range.contains(value) else {
      throw .configValue(
        path: configPath, key: key, expected: "a whole number from \(range.lowerBound) to \(range.upperBound)",
        found: setting(key).compactText)
    }
    return value
  }

  func flag(_ key: String) -> Bool { setting(key) == .bool(true) }

  /// A number, or the value of the first of a map's patterns that matches the module.
  ///
  /// Source: peft/utils/other.py `get_pattern_key`.
  func number(_ key: String, pattern map: String) throws(AdapterError) -> Double {
    for member in setting(map).members ?? [] {
      let pattern = try Pattern("(.*\\.)?(\(member.key))$", patterns)
      guard try pattern.matchesStart(path) else { continue }
      guard let value = PythonNumber(json: member.value) else {
        throw .configValue(path: configPath, key: map, expected: "numbers", found: member.value.compactText)
      }
      return value.doubleValue
    }
    return try number(key)
  }
}
