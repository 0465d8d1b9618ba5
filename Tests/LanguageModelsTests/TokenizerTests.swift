import LanguageModels
import TensorFiles
import TestSupport
import Testing

/// Tokenizers of every kind against huggingface/tokenizers, on texts of many scripts and on what is hardly text.
@Suite struct TokenizerTests {
  static let cases =
    ((try? FileSystem.names(in: Fixtures.path("tokenizers"))) ?? []).filter { $0 != "corpus.json" }

  private func integers(_ json: JSONValue?) -> [Int] { json?.elements?.compactMap(\.integerValue) ?? [] }

  @Test(arguments: cases)
  func idsAndTextsAreTheReferences(name: String) throws {
    let root = Fixtures.path("tokenizers/\(name)")
    let tokenizer = try Tokenizer(directory: root)
    let corpus = try #require(try JSONValue(contentsOf: Fixtures.path("tokenizers/corpus.json")).elements)
    let expected = try JSONValue(contentsOf: "\(root)/expected.json")
    let texts = try #require(expected["texts"]?.elements)
    #expect(texts.count == corpus.count && texts.count > 80)
    for (source, wanted) in zip(corpus, texts) {
      let text = try #require(source.stringValue)
      let ids = try tokenizer.encode(text)
      #expect(ids == integers(wanted["ids"]), "\(text.debugDescription)")
      #expect(try tokenizer.encode(text, addsSpecial: false) == integers(wanted["bare"]), "\(text.debugDescription)")
      let (found, plain) = (try tokenizer.decode(ids), try tokenizer.decode(ids, skipsSpecial: true))
      #expect(Array(found.utf8) == Array((wanted["text"]?.stringValue ?? "").utf8), "\(text.debugDescription)")
      #expect(Array(plain.utf8) == Array((wanted["plain"]?.stringValue ?? "").utf8), "\(text.debugDescription)")
    }
    for cut in expected["cut"]?.elements ?? [] {
      let found = try tokenizer.decode(integers(cut["ids"]))
      #expect(Array(found.utf8) == Array((cut["text"]?.stringValue ?? "").utf8))
    }
  }
}
