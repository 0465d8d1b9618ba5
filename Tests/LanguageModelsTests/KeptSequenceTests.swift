import LanguageModels
import TensorMath
import TestSupport
import Testing

/// Generations that go on from what an earlier one computed.
@Suite struct KeptSequenceTests {
  private static let kinds = ["llama-f32", "prefix", "prompt", "adaption", "dora", "gpt2"]
  private static let cases = PeftModelTests.cases.filter { name in
    kinds.contains(where: name.contains) && !name.contains("bf16") && !name.contains("f16")
  }

  private var stop: StopConditions {
    var stop = StopConditions()
    stop.newTokens = 5
    return stop
  }

  @Test(arguments: cases)
  func whatIsKeptChangesNoToken(name: String) throws {
    let root = Fixtures.path(name)
    let model = try PeftModel.load(base: "\(root)/base", adapter: "\(root)/adapter")
    let kept = KeptSequence()
    let first = Array(PeftModelTests.tokens.prefix(7))
    let answer = try model.generate(first, stop: stop, keeping: kept)
    #expect(try answer == model.generate(first, stop: stop))
    #expect(kept.count == first.count + answer.count - 1)
    // A prompt that goes on from it, one that parts from it, the same again, a shorter one, and another.
    for prompt in [first + answer + [3, 8], first.prefix(4) + [20, 33], first, Array(first.prefix(2)), [36, 1, 5]] {
      let again = try model.generate(Array(prompt), stop: stop, keeping: kept)
      #expect(try again == model.generate(Array(prompt), stop: stop), "\(prompt)")
    }
  }

  @Test func anotherAdapterBeginsAnew() throws {
    let root = Fixtures.path("running")
    let model = try PeftModel.load(base: "\(root)/chat", adapter: "\(root)/chatting/first", named: "first")
    try model.load("\(root)/chatting/second", named: "second")
    let kept = KeptSequence()
    let prompt = [5, 9, 100, 23, 77, 41]
    for active in [[("first", Float(1))], [("second", 1)], [("first", 1), ("second", 0.5)], []] {
      try model.setActive(active.map { (name: $0.0, weight: $0.1) })
      let found = try model.generate(prompt, stop: stop, keeping: kept)
      #expect(try found == model.generate(prompt, stop: stop))
    }
    let plain = try model.withAdaptersDisabled { () throws(ModelError) in
      try model.generate(prompt, stop: stop, keeping: kept)
    }
    try model.setActive("first")
    #expect(try model.generate(prompt, stop: stop, keeping: kept) == model.generate(prompt, stop: stop))
    #expect(plain.count == 5)
  }

  @Test func aFailureLeavesNothingThatIsUsed() throws {
    let model = try PeftModel(base: Fixtures.path("running/chat"))
    let kept = KeptSequence()
    _ = try model.generate([5, 9, 100], stop: stop, keeping: kept)
    #expect(throws: ModelError.self) {
      try model.generate([5, 9, 100, 23], stop: stop, keeping: kept) { _ throws(ModelError) in
        throw .unsupported(what: "this", reason: "it is a test.")
      }
    }
    #expect(kept.count == 0)
    #expect(
      try model.generate([5, 9, 100, 23], stop: stop, keeping: kept) == model.generate([5, 9, 100, 23], stop: stop))
  }
}
