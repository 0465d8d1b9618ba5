import LanguageModels
import TestSupport
import Testing

@Suite struct TextGenerationTests {
  private func model() throws -> (PeftModel, Tokenizer) {
    let directory = Fixtures.path("running/chat")
    return (try PeftModel(base: directory), try Tokenizer(directory: directory))
  }

  @Test func piecesOfTextAreTogetherTheTextOfOneCallAndThatOfTheTokens() async throws {
    let (model, tokenizer) = try model()
    var stop = StopConditions()
    stop.newTokens = 24
    let prompt = "The quick brown fox"
    let whole = try model.text(after: prompt, tokenizer, stop: stop)
    var pieces: [String] = []
    for try await piece in try model.pieces(after: prompt, tokenizer, stop: stop) { pieces.append(piece) }
    let tokens = try model.generate(try tokenizer.encode(prompt), stop: stop)
    #expect(tokens.count == 24 && pieces.count > 1 && !pieces.contains(""))
    #expect(pieces.joined() == whole)
    var text = try TextStream(tokenizer, after: tokenizer.encode(prompt))
    for token in tokens { _ = try text.add(token) }
    _ = try text.finish()
    #expect(text.text == whole)
  }

  @Test func aStopTextEndsThePiecesAndIsNotPartOfThem() async throws {
    let (model, tokenizer) = try model()
    var stop = StopConditions()
    stop.newTokens = 24
    let whole = try model.text(after: "fox", tokenizer, stop: stop)
    let word = String(whole.dropFirst(4).prefix(2))
    stop.texts = [word]
    var text = ""
    for try await piece in try model.pieces(after: "fox", tokenizer, stop: stop) { text += piece }
    #expect(try model.text(after: "fox", tokenizer, stop: stop) == text)
    #expect(whole.hasPrefix(text) && text.count < whole.count && !text.contains(word))
  }

  @Test func aSequenceWithoutRoomForItsTokensIsRefusedBeforeAnyIsMade() async throws {
    let (model, tokenizer) = try model()
    var stop = StopConditions()
    stop.newTokens = 1 << 20
    await #expect(throws: ModelError.self) {
      for try await _ in try model.pieces(after: "fox", tokenizer, stop: stop) { Issue.record("a piece came") }
    }
  }
}
