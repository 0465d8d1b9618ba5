public import TensorFiles

extension PeftConfig {
  /// Reads a configuration's JSON.
  ///
  /// Absent keys take their defaults, as in files of earlier releases. Keys that are not PEFT 0.21.2's are kept in
  /// `unknownKeys`; `checkUnknownKeys` judges them.
  /// - Parameter path: names the file in errors.
  /// Throws `.configNotObject`, `.foreignAdapter`, `.configValue`, `.unknownPeftType`, `.configContradiction`.
  public init(json: JSONValue, path: String) throws(AdapterError) {
    guard let members = json.members else { throw .configNotObject(path: path) }
    if let format = ForeignAdapter(config: json) { throw .foreignAdapter(path: path, format: format) }
    guard let name = json["peft_type"]?.stringValue else {
      throw .configValue(
        path: path, key: "peft_type", expected: "the name of a method, such as \"LORA\"",
        found: json["peft_type"]?.compactText ?? "absent")
    }
    let type = PeftType(rawValue: name)
    let method = type == .lora ? nil : AdapterMethod.named(type)
    guard type == .lora || method != nil else { throw .unknownPeftType(path: path, found: name) }
    self.init()
    let methodKeys = Set(exactly: (method?.defaultSettings ?? []).map(\.key))
    if let method { settings = .object(method.defaultSettings.filter { !Self.sharedKeys.contains($0.key) }) }
    for member in members {
      let field = Self.fields.first { $0.key == member.key }
      if method != nil, methodKeys.contains(member.key), !Self.sharedKeys.contains(member.key) {
        settings[member.key] = member.value
        continue
      }
      guard let field, method == nil || Self.commonKeys.contains(member.key) || methodKeys.contains(member.key) else {
        unknownKeys.append(member)
        continue
      }
      let value = Self.usual(member)
      if value != member.value { asWritten[member.key] = member.value }
      guard field.write(&self, value) else {
        throw .configValue(
          path: path, key: member.key, expected: field.expectation, found: member.value.compactText)
      }
    }
    arrangeFeedForward()
    try check(path: path)
  }

  /// A value as PEFT's own files have it: a default for null where PEFT only asks whether a value is true, and a version
  /// as text.
  private static func usual(_ member: JSONValue.Member) -> JSONValue {
    if member.value == .null, nullableKeys.contains(member.key) {
      return fields.first { $0.key == member.key }?.read(PeftConfig()) ?? .null
    }
    let isVersion = member.key == "peft_version" && PythonNumber(json: member.value) != nil
    return isVersion ? .string(member.value.compactText) : member.value
  }

  /// What PEFT refuses when it constructs a configuration. Source: `LoraConfig.__post_init__`.
  private func check(path: String) throws(AdapterError) {
    if let taskType, !Self.taskTypes.contains(taskType) {
      throw .configValue(
        path: path, key: "task_type", expected: "one of \(Self.taskTypes.joined(separator: ", "))",
        found: "\"\(taskType)\"")
    }
    guard peftType == .lora else { return }
    if let count = targetParameters?.count, count > ParameterTargets.limit {
      throw .configValue(
        path: path, key: "target_parameters", expected: "\(ParameterTargets.limit) names or fewer",
        found: "\(count) names")
    }
    if case .pattern? = targetModules {
      if layersToTransform != nil || (layersPattern != nil && layersPattern != .one("")) {
        throw .configContradiction(
          path: path,
          reason: "layers_to_transform and layers_pattern need target_modules to be a list; it is a string.")
      }
    }
    if let layersPattern, layersPattern != .one(""), !layersPattern.values.isEmpty, layersToTransform == nil {
      throw .configContradiction(path: path, reason: "layers_pattern needs layers_to_transform, which is not set.")
    }
    if useDoRA && !megatronConfig.isEmptyOrFalse {
      throw .configContradiction(path: path, reason: "use_dora cannot be combined with megatron_config.")
    }
    if loraBias && (useDoRA || initLoRAWeights.boolValue == nil) {
      throw .configContradiction(
        path: path, reason: "lora_bias cannot be combined with use_dora or a named initialisation.")
    }
    if !["none", "all", "lora_only"].contains(bias) {
      throw .configValue(path: path, key: "bias", expected: "none, all or lora_only", found: "\"\(bias)\"")
    }
    for (key, _) in Self.nestedDefaults {
      let value = Self.fields.first { $0.key == key }?.read(self) ?? .null
      if value != .null && value.members == nil {
        throw .configValue(path: path, key: key, expected: "an object or null", found: value.compactText)
      }
    }
  }

  /// Unknown keys that may change the numbers: those that are not known to be harmless and whose value is neither null,
  /// false nor empty.
  var doubtfulKeys: [JSONValue.Member] {
    unknownKeys.filter { member in
      switch member.value {
      case .null, .bool(false), .string(""), .array([]), .object([]): false
      default:
        !Self.harmlessKeys.contains(member.key)
          && Self.harmlessFormerValues[member.key]?.contains(member.value) != true
      }
    }
  }

  /// Refuses unknown keys that may change the numbers and are not in `ignored`.
  ///
  /// Throws `.unknownConfigKey`.
  public func checkUnknownKeys(path: String, ignored: Set<String> = []) throws(AdapterError) {
    if let member = doubtfulKeys.first(where: { !ignored.containsExactly($0.key) }) {
      throw .unknownConfigKey(path: path, key: member.key, value: member.value.compactText)
    }
  }

  /// The configuration as PEFT 0.21.2 holds it: nested configurations completed, a list of targets without duplicates,
  /// `loftq_config` emptied where it is not used, and `peft_version` filled in.
  public var json: JSONValue {
    var members = unknownKeys.filter { $0.key != "runtime_config" }
    let method = AdapterMethod.named(peftType)
    let methodKeys = Set(exactly: (method?.defaultSettings ?? []).map(\.key)).intersection(
      Set(exactly: Self.sharedKeys))
    members += settings.members ?? []
    for field in Self.fields
    where method == nil || Self.commonKeys.contains(field.key) || methodKeys.contains(field.key) {
      var value = field.read(self)
      if let defaults = Self.nestedDefaults[field.key], let given = value.members {
        value = defaults
        for member in given where defaults[member.key] != nil { value[member.key] = member.value }
      }
      switch (field.key, value) {
      case ("target_modules", .array(let names)), ("exclude_modules", .array(let names)):
        var seen: Set<ExactName> = []
        value = .array(names.filter { $0.stringValue.map { seen.insert($0).inserted } ?? true })
      case ("loftq_config", .object) where initLoRAWeights != .string("loftq"): value = .object([])
      case ("eva_config", .null) where initLoRAWeights == .string("eva"):
        value = Self.nestedDefaults["eva_config"] ?? .null
      case ("corda_config", .null) where initLoRAWeights == .string("corda"):
        value = Self.nestedDefaults["corda_config"] ?? .null
      case ("peft_version", .null): value = .string(Self.mirroredVersion)
      default: break
      }
      if let original = asWritten[field.key], value == Self.usual(JSONValue.Member(field.key, original)) {
        value = original
      }
      members.append(JSONValue.Member(field.key, value))
    }
    return .object(members)
  }

  /// The file that PEFT 0.21.2 writes for this configuration, byte for byte; unknown keys in their places.
  ///
  /// PEFT keeps `target_modules` and `exclude_modules` as sets, so the order of a list there is not defined; here it is
  /// the order given. Source: peft/config.py `PeftConfigMixin.save_pretrained`.
  public var fileText: String { json.pythonText(sortedKeys: true) }

  /// Reads `adapter_config.json` in a directory, or a `config.json` that has a `peft_type`.
  ///
  /// Throws `.configMissing`, `.file`, and what `init(json:path:)` throws.
  public static func load(directory: String) throws(AdapterError) -> PeftConfig {
    for name in [fileName, "config.json"] {
      guard let path = try asAdapterError({ () throws(TensorFileError) in try ModelFiles.path(name, in: directory) })
      else { continue }
      let json = try asAdapterError { () throws(TensorFileError) in try JSONValue(contentsOf: path) }
      if name != fileName && json["peft_type"] == nil { continue }
      return try PeftConfig(json: json, path: path)
    }
    if let format = ForeignAdapter(path: directory) { throw .foreignAdapter(path: directory, format: format) }
    throw .configMissing(directory: directory)
  }

  /// Reads the configuration of an adapter's directory, or a JSON file of any name; returns its path too.
  ///
  /// Throws as `load(directory:)`.
  public static func load(path: String) throws(AdapterError) -> (config: PeftConfig, path: String) {
    guard FileSystem.kind(path) == .file else {
      return (try load(directory: path), FileSystem.join(path, fileName))
    }
    let json = try asAdapterError { () throws(TensorFileError) in try JSONValue(contentsOf: path) }
    return (try PeftConfig(json: json, path: path), path)
  }

  /// The file's name in an adapter's directory.
  public static let fileName = "adapter_config.json"
}

extension PeftConfig: Codable {
  /// Decodes what `init(json:path:)` reads; its errors are wrapped in `DecodingError.dataCorrupted`.
  public init(from decoder: any Decoder) throws {
    let json = try JSONValue(from: decoder)
    do throws(AdapterError) {
      try self.init(json: json, path: PeftConfig.fileName)
    } catch {
      throw DecodingError.dataCorrupted(
        DecodingError.Context(codingPath: decoder.codingPath, debugDescription: error.description))
    }
  }

  public func encode(to encoder: any Encoder) throws { try json.encode(to: encoder) }
}
