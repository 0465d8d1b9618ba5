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
