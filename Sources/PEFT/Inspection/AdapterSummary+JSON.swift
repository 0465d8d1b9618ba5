public import TensorFiles

extension AdapterSummary {
  /// The summary for machines.
  public var json: JSONValue {
    .object([
      .init("path", .string(directory)),
      .init("peft_type", .string(config.peftType.rawValue)),
      .init("task_type", config.taskType.map { .string($0) } ?? .null),
      .init("base_model_name_or_path", config.baseModelNameOrPath.map { .string($0) } ?? .null),
      .init("peft_version", config.peftVersion.map { .string($0) } ?? .null),
      .init("r", config.peftType == .lora ? .integer(config.rank) : .null),
      .init("lora_alpha", config.peftType == .lora ? config.alpha?.json ?? .null : .null),
      .init("use_rslora", .bool(config.useRSLoRA)),
      .init("target_modules", config.targetModules?.json ?? .null),
      .init("modules_to_save", config.modulesToSave?.json ?? .null),
      .init("tensors", .integer(tensorCount)),
      .init("parameters", .integer(parameterCount)),
      .init(
        "bytes",
        .object(ByteClass.allCases.map { .init($0.rawValue, .integer(bytes[$0] ?? 0)) })),
      .init(
        "dtypes",
        .object(
          bytesByDType.sorted { $0.key.rawValue < $1.key.rawValue }.map { .init($0.key.rawValue, .integer($0.value)) })),
      .init("modules", .array(modules.map(Self.json))),
      .init("other_tensors", .array(tensors.map(Self.json))),
      .init("unknown_keys", .object(config.peftType == .lora ? config.unknownKeys : [])),
    ])
  }

  private static func json(_ group: Group) -> JSONValue {
    var members: [JSONValue.Member] = [
      .init("name", .string(group.name)), .init("count", .integer(group.count)),
      .init("shapes", .array(group.shapes.map { .array($0.map { .integer($0) }) })),
      .init("dtype", .string(group.dtype.rawValue)),
    ]
    if let scaling = group.scaling {
      members += [
        .init("r", .integer(scaling.rank)), .init("alpha", scaling.alpha.json), .init("scale", .number(scaling.scale)),
      ]
    }
    return .object(members)
  }
}
