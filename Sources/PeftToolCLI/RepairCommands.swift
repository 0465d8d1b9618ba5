internal import PEFT
internal import TensorFiles

private let adapterOperand = Operand(name: "ADAPTER", summary: "directory of the adapter", isModel: true)
private let outputOperand = Operand(name: "OUT", summary: "directory to be made")
private let baseFlag = Flag("base", value: "DIR", "the model that the adapter is for", isModel: true)

let slimEntry = Command(
  name: "slim", summary: "leave out of an adapter what its base has itself",
  operands: [adapterOperand, outputOperand], flags: [baseFlag, CommandTable.forceFlag, CommandTable.jsonFlag],
  detail: """
    PEFT stores embeddings beside a LoRA on them, and modules in full that modules_to_save names, whether training changed them \
    or not. Those whose values are the base's are left out; a saved module only if all of its tensors are. All other tensors \
    keep their bits.
    """,
  run: slimCommand)

let renameKeysEntry = Command(
  name: "rename-keys", summary: "give an adapter's modules the names that they have in a base",
  operands: [adapterOperand, outputOperand], flags: [baseFlag, CommandTable.forceFlag, CommandTable.jsonFlag],
  detail: """
    Releases of transformers differ in parts that only wrap a model, such as language_model. Each module is found in the base by \
    the end of its name; several answers, or none, are an error. Targets and patterns of the configuration follow.
    """,
  run: renameKeysCommand)

let repairMetadataEntry = Command(
  name: "repair-metadata", summary: "write a safetensors file with the metadata that loaders ask for",
  operands: [
    Operand(name: "FILE", summary: "safetensors file"), Operand(name: "OUT", summary: "file to be made"),
  ],
  flags: [
    Flag("force", letter: "f", "replace OUT if it exists", remedy: .replaceOutput), CommandTable.jsonFlag,
  ],
  detail: "Some loaders refuse files whose metadata has no format \"pt\". Only the header is written anew.",
  run: repairMetadataCommand)

let fixConfigEntry = Command(
  name: "fix-config", summary: "write an adapter's configuration for an earlier release of PEFT",
  operands: [adapterOperand, outputOperand],
  flags: [
    Flag("target-peft", value: "RELEASE", "the release that is to read it, such as 0.13"), CommandTable.forceFlag,
    CommandTable.jsonFlag,
  ],
  detail: """
    A release of PEFT refuses keys that it does not know. Keys that came later are left out where their values change nothing; \
    where one changes something, the release cannot run the adapter, and nothing is written.
    """,
  run: fixConfigCommand)

@Sendable private func slimCommand(_ invocation: Invocation, _ console: Console) async throws -> Int32 {
  let stored = try StoredAdapter(directory: invocation.operands[0])
  let base = try base(invocation, "slim", stored)
  return try write(try stored.slimmed(by: base), invocation, console)
}

@Sendable private func renameKeysCommand(_ invocation: Invocation, _ console: Console) async throws -> Int32 {
  let stored = try StoredAdapter(directory: invocation.operands[0])
  let base = try base(invocation, "rename-keys", stored)
  return try write(try stored.renamed(after: base), invocation, console)
}

@Sendable private func fixConfigCommand(_ invocation: Invocation, _ console: Console) async throws -> Int32 {
  guard let release = invocation.value("target-peft") else {
    throw UsageError.oneNeeded(
      command: "fix-config", [.init(flag: "target-peft", summary: "the release that is to read it")])
  }
  let stored = try StoredAdapter(directory: invocation.operands[0])
  return try write(try stored.configured(for: release), invocation, console)
}

private func base(_ invocation: Invocation, _ command: String, _ stored: StoredAdapter) throws -> BaseModel {
  guard let path = invocation.value("base") else {
    throw UsageError.oneNeeded(command: command, [.init(flag: "base", summary: "the model that the adapter is for")])
  }
  return try BaseModel(path: path, taskType: stored.config.taskType)
}

private func write(_ rewriting: AdapterRewriting, _ invocation: Invocation, _ console: Console) throws -> Int32 {
  let output = invocation.operands[1]
  try rewriting.write(to: output, replacing: invocation.has("force"))
  report(output, rewriting.tensorCount, rewriting.notes, invocation, console)
  return 0
}

private func report(
  _ output: String, _ tensors: Int, _ notes: [String], _ invocation: Invocation, _ console: Console
) {
  if invocation.has("json") {
    console.json(
      .object([
        .init("output", .string(output)), .init("tensors", .integer(tensors)),
        .init("notes", .array(notes.map { .string($0) })),
      ]))
    return
  }
  for note in notes { console.report(note) }
  console.report("wrote \(output): \(countText(tensors, "tensor"))")
}

@Sendable private func repairMetadataCommand(_ invocation: Invocation, _ console: Console) async throws -> Int32 {
  let output = invocation.operands[1]
  let count: Int
  do throws(TensorFileError) {
    let source = try SafetensorsFile(path: invocation.operands[0])
    try source.writeWithMetadata(to: output, replacing: invocation.has("force"))
    count = source.entries.count
  } catch {
    throw AdapterError.file(error)
  }
  report(output, count, [], invocation, console)
  return 0
}
