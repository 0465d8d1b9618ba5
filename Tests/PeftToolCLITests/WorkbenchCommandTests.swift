import PEFT
import TensorFiles
import TestSupport
import Testing

@testable import PeftToolCLI

@Suite struct WorkbenchCommandTests {
  private let root = Fixtures.path("workbench")

  @Test func combineResizeAndToLoRASayWhatTheyLose() async throws {
    let scratch = try ScratchDirectory()
    let (one, two) = ("\(root)/combine/one", "\(root)/combine/two")
    let combined = await run("combine", one, "\(two):-0.5", scratch("sum"), "--rank", "3", "--json")
    #expect(combined.code == 0)
    let json = try #require(JSONValue(parsing: combined.output))
    guard case .number(let error)? = json["error"] else { throw AdapterError.noTensors(path: combined.output) }
    #expect(error > 0.4 && error < 0.42 && json["modules"]?.elements?.count == 8)
    let resized = await run("resize", one, scratch("small"), "--energy=0.9", "--rank=3")
    #expect(resized.code == 0 && resized.output.contains("in all: ") && resized.output.contains("layers.0.up"))
    let converted = await run("to-lora", "\(root)/convert/adapter", scratch("lora"))
    #expect(converted.code == 0 && converted.output.contains("100.0000 %"))
    #expect(try PeftConfig.load(directory: scratch("lora")).peftType == .lora)
    let alike = await run(
      "combine", "\(root)/peft/one", "\(root)/peft/two", scratch("peft"), "--as-peft", "dare_linear", "--density",
      "0.5",
      "--base", "\(root)/peft/base")
    #expect(alike.code == 0 && alike.error.contains("add_weighted_adapter"))
  }

  @Test func extractPrintsWhatIsKeptAndListsWhatIsNotCarried() async throws {
    let scratch = try ScratchDirectory()
    let models = Fixtures.path("extraction/llama")
    let answer = await run("extract", "\(models)/base", "\(models)/tuned", scratch("out"), "--energy", "0.5", "--json")
    let json = try #require(JSONValue(parsing: answer.output))
    #expect(answer.code == 0 && json["modules"]?.elements?.count == 14 && json["others"]?.elements?.count == 7)
    guard case .number(let error)? = json["error"], case .number(let energy)? = json["energy"] else {
      throw AdapterError.noTensors(path: answer.output)
    }
    #expect(abs(error * error + energy - 1) < 1e-9 && error > 0.5 && error < 0.8)
    let table = await run("extract", "\(models)/base", "\(models)/tuned", scratch("norms"), "-r", "2", "--with-norms")
    #expect(table.code == 0 && table.output.contains("2 of 16"))
    for line in ["model.norm.weight", "lm_head.weight", "--with-embeddings", "in all: ", "above floor"] {
      #expect(table.output.contains(line), "\(line)")
    }
    #expect(try PeftConfig.load(directory: scratch("norms")).modulesToSave?.count == 5)
    let again = await run("extract", "\(models)/base", "\(models)/tuned", scratch("norms"), "-r", "2")
    #expect(again.code == 2 && again.error.contains("--force"))
    let none = await run("extract", "\(models)/base", "\(models)/tuned", scratch("none"))
    #expect(none.code == 2 && none.error.contains("--energy") && FileSystem.kind(scratch("none")) == nil)
    let equal = await run("extract", "\(models)/base", "\(models)/base", scratch("none"), "--rank", "2")
    #expect(equal.code == 2 && equal.error.contains("does not differ"))
  }

  @Test func aRuleOfRanksIsNeededOnceAndWithinItsBounds() async throws {
    let scratch = try ScratchDirectory()
    let one = "\(root)/combine/one"
    for words in [
      [], ["--energy", "0.5", "--sv-ratio", "2"], ["--sv-cumulative", "0.5", "--sv-fro", "0.5"], ["--energy", "1.5"],
      ["--rank", "0"], ["--sv-ratio", "0.5"],
    ] {
      let answer = await run(["resize", one, scratch("out")] + words)
      #expect(answer.code == 2 && FileSystem.kind(scratch("out")) == nil, "\(words)")
    }
    let answer = await run("combine", one, one, scratch("out"), "--method", "ties")
    #expect(answer.code == 2 && answer.error.contains("--rank"))
  }
}
