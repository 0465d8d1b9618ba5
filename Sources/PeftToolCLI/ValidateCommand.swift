internal import PEFT
internal import TensorFiles

/// `peft-tool validate PATH`
@Sendable func validateCommand(_ invocation: Invocation, _ console: Console) async throws -> Int32 {
  let path = invocation.operands[0]
  let validation = try Validation(path: path, readsValues: !invocation.has("headers-only"))
  let findings = validation.findings
  if invocation.has("json") {
    console.json(
      .object([
        .init("path", .string(path)), .init("kind", .string(validation.subject.rawValue)),
        .init("tensors", .integer(validation.tensorCount)), .init("valid", .bool(validation.isValid)),
        .init(
          "findings",
          .array(
            findings.map {
              .object([
                .init("code", .string($0.code)), .init("place", .string($0.place)),
                .init("message", .string($0.message)),
              ])
            })),
      ]))
    return validation.isValid ? 0 : 1
  }
  for finding in findings { console.line("\(finding.code)  \(finding.place): \(finding.message)") }
  if validation.isValid {
    console.line(
      "\(path): \(validation.subject.rawValue), \(countText(validation.tensorCount, "tensor")), nothing wrong found")
  }
  return validation.isValid ? 0 : 1
}
