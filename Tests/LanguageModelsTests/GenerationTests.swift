import LanguageModels
import PEFT
import TensorFiles
import TensorMath
import TestSupport
import Testing

@Suite struct GenerationTests {
  @Test(arguments: ArchitectureTests.cases)
  func sixtyFourGreedyTokensAreTransformers(name: String) throws {
    let root = Fixtures.path("models/\(name)")
    let file = try Checkpoint(path: "\(root)/expected.safetensors")
    let model = try PeftModel(base: root)
    var stop = StopConditions()
    stop.newTokens = 64
    #expect(try model.generate(integers(file, "tokens"), stop: stop) == integers(file, "greedy"))
  }

  @Test func endsAndTheCallerStopAGeneration() throws {
    let root = Fixtures.path("models/llama")
    let file = try Checkpoint(path: "\(root)/expected.safetensors")
    let (prompt, greedy) = (try integers(file, "tokens"), try integers(file, "greedy"))
    let model = try PeftModel(base: root)
    var stop = StopConditions()
    stop.newTokens = 64
    stop.ends = [greedy[5]]
    let found = try model.generate(prompt, stop: stop)
    #expect(found == Array(greedy.prefix { $0 != greedy[5] }))
    stop.ends = []
    var count = 0
    _ = try model.generate(prompt, stop: stop) { _ in
      count += 1
      return count < 3
    }
    #expect(count == 3)
  }

  @Test func aSeedDrawsTheSameTokensAndAnotherSeedOthers() throws {
    let model = try PeftModel(base: Fixtures.path("models/llama"))
    var sampling = Sampling()
    sampling.temperature = 1.5
    sampling.topK = 30
    sampling.topP = 0.95
    sampling.minP = 0.01
    sampling.repetitionPenalty = 1.2
    let first = try model.generate([3, 17], sampling: sampling)
    #expect(try model.generate([3, 17], sampling: sampling) == first)
    sampling.seed = 1
    #expect(try model.generate([3, 17], sampling: sampling) != first)
    sampling.topK = 1
    let greedy = try model.generate(
      [3, 17],
      sampling: {
        var one = Sampling()
        one.repetitionPenalty = 1.2
        return one
      }())
    #expect(try model.generate([3, 17], sampling: sampling) == greedy)
  }

  @Test func aContextThatIsTooLongIsRefusedBeforeAnyWork() throws {
    let model = try PeftModel(base: Fixtures.path("models/llama"))
    var stop = StopConditions()
    stop.newTokens = 200
    #expect(throws: ModelError.contextTooLong(tokens: 202, limit: 128)) { try model.generate([3, 17], stop: stop) }
    #expect(throws: ModelError.tokenOutside(id: 40, vocabulary: 40)) { try model.generate([40]) }
    #expect(throws: ModelError.self) { try model.generate([]) }
  }

  @Test func aStopTextIsLeftOutEvenWhenItComesInPieces() throws {
    let tokenizer = try Tokenizer(directory: Fixtures.path("tokenizers/gpt2"))
    let text = "The quick brown fox jumps over 😀 the lazy dog"
    let ids = try tokenizer.encode(text)
    var stream = try TextStream(tokenizer, after: [], stops: ["fox jumps"])
    var shown = ""
    for id in ids where !stream.isStopped {
      let more = try stream.add(id)
      #expect(!more.contains("f") && !more.unicodeScalars.contains("\u{FFFD}"))
      shown += more
    }
    #expect(try stream.isStopped && shown + stream.finish() == "The quick brown ")
    var whole = try TextStream(tokenizer, after: [])
    var all = ""
    for id in ids { all += try whole.add(id) }
    #expect(try all + whole.finish() == text)
  }

  @Test(arguments: ["chatml", "llama2", "llama3", "gemma", "blocks", "qwen", "gemma3", "llama32"])
  func chatTemplatesAreRenderedAsTransformersRendersThem(name: String) throws {
    let root = Fixtures.path("templates/\(name)")
    let template = try ChatTemplate(directory: root)
    let cases = try #require(try JSONValue(contentsOf: "\(root)/expected.json").elements)
    #expect(cases.count == 4)
    for item in cases {
      let messages = try #require(item["messages"]?.elements)
      if let text = item["text"]?.stringValue {
        #expect(try Array(template.render(messages).utf8) == Array(text.utf8))
      } else {
        #expect(throws: ModelError.self) { try template.render(messages) }
      }
    }
  }

  @Test(arguments: [
    "{{ messages | unknown }}", "{{ x", "{% for a in messages %}", "{{ 1 + }}",
    "{{ \(String(repeating: "(", count: 9000)) }}",
    "{{ x\(String(repeating: " + x", count: 9000)) }}", "{{ x\(String(repeating: ".y", count: 9000)) }}",
    String(repeating: "{% if x %}", count: 9000), "{{ unknown_function() }}", "{% include 'x' %}",
    "{{ messages.unknown() }}",
  ])
  func aTemplateThatIsNotUnderstoodSaysSo(source: String) throws {
    let scratch = try ScratchDirectory()
    try OpenFile.create(scratch("chat_template.jinja")).write(source)
    let error = #expect(throws: ModelError.self) {
      try ChatTemplate(directory: scratch.path).render([ChatTemplate.message(role: "user", "x")])
    }
    #expect(error?.description.contains("is not understood") == true)
  }
}
