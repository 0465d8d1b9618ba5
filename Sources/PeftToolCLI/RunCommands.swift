internal import LanguageModels
internal import PEFT
internal import TensorFiles

/// `peft-tool tree MODEL [ADAPTER]`
@Sendable func treeCommand(_ invocation: Invocation, _ console: Console) async throws -> Int32 {
  let model = try ModelPlaces(invocation).load(invocation)
  if invocation.operands.count > 1 { try model.load(invocation.operands[1], named: "default") }
  if invocation.has("json") {
    console.json(.object([.init("tree", .string(model.tree))]))
  } else {
    console.output(model.tree + "\n")
  }
  return 0
}

/// `peft-tool perplexity MODEL FILE`; `-` is standard input.
@Sendable func perplexityCommand(_ invocation: Invocation, _ console: Console) async throws -> Int32 {
  let places = try ModelPlaces(invocation)
  let model = try places.load(invocation)
  let tokenizer = try places.tokenizer(for: model)
  let text: String
  if invocation.operands[1] == "-" {
    text = try StandardInput.text()
  } else {
    do { text = try FileSystem.text(invocation.operands[1]) } catch { throw AdapterError.file(error) }
  }
  let result = try model.perplexity(try tokenizer.encode(text), window: try invocation.integer("window"))
  if invocation.has("json") {
    console.json(
      .object([
        .init("perplexity", .number(result.value)), .init("loss", .number(result.meanLoss)),
        .init("tokens", .integer(result.tokens)),
      ]))
  } else {
    console.line("perplexity \(fixed(result.value, 4)) over \(countText(result.tokens, "token"))")
  }
  return 0
}
