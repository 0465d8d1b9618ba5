import LanguageModels
import TensorFiles
import TensorMath
import TestSupport
import Testing

/// Tokenizer files that say too much: refused when they are read, or by the budget of a text.
@Suite struct TokenizerBombTests {
  /// A tokenizer.json, what it is given, and whether it is given as ids to decode.
  struct Bomb: Sendable, CustomTestStringConvertible {
    let testDescription: String
    let json: String
    var text = "aaab"
  }

  private static let bytes = #""model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "aa": 2}, "merges": ["a a"]}"#

  private static func list(_ part: String, _ count: Int) -> String {
    [String](repeating: part, count: count).joined(separator: ", ")
  }

  private static func sequence(_ key: String, _ name: String, _ part: String, _ count: Int) -> String {
    #"{"\#(key)": {"type": "Sequence", "\#(name)": [\#(list(part, count))]}, \#(bytes)}"#
  }

  /// The bombs; `size` makes each as large as it was found, or small enough to be damaged many times.
  static func bombs(size: Int) -> [Bomb] {
    let double = #"{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}"#
    let slow = ["(a|aa|aaa)*c", "(a+)+c", "a*?a*?a*?c", "(?=(a*))\\\\1*?c"].map {
      #"{"type": "Split", "pattern": {"Regex": "\#($0)"}, "behavior": "Isolated", "invert": false}"#
    }
    let long = String(repeating: "a", count: 50 * size)
    let text = String(repeating: "a", count: 4 * size)
    return [
      Bomb(testDescription: "chained Replace", json: sequence("normalizer", "normalizers", double, min(60, size))),
      Bomb(
        testDescription: "chained Replace in the decoder", json: sequence("decoder", "decoders", double, min(60, size))
      ),
      Bomb(
        testDescription: "Prepend",
        json: sequence("normalizer", "normalizers", #"{"type": "Prepend", "prepend": "a"}"#, 20 * size)),
      Bomb(
        testDescription: "long Prepend",
        json: sequence("normalizer", "normalizers", #"{"type": "Prepend", "prepend": "\#(long)"}"#, min(90, size))),
      Bomb(
        testDescription: "one long Unigram token",
        json: #"{"model": {"type": "Unigram", "unk_id": 0, "vocab": [["?", 0], ["\#(long)", -1]]}}"#, text: text),
      Bomb(
        testDescription: "slow patterns",
        json: sequence("pre_tokenizer", "pretokenizers", slow.joined(separator: ", "), min(50, size)),
        text: text),
      Bomb(
        testDescription: "chained ByteLevel",
        json: sequence(
          "pre_tokenizer", "pretokenizers", #"{"type": "ByteLevel", "use_regex": false}"#, min(60, size)),
        text: "é é"),
      Bomb(
        testDescription: "a Metaspace of nothing",
        json: #"{"pre_tokenizer": {"type": "Metaspace", "replacement": ""}, \#(bytes)}"#),
      Bomb(
        testDescription: "a decoder's Metaspace of nothing",
        json: #"{"decoder": {"type": "Metaspace", "replacement": ""}, \#(bytes)}"#),
      Bomb(
        testDescription: "a Metaspace of much",
        json: #"{"pre_tokenizer": {"type": "Metaspace", "replacement": "\#(long)"}, \#(bytes)}"#, text: text),
      Bomb(
        testDescription: "a long prefix of subwords",
        json:
          #"{"model": {"type": "BPE", "continuing_subword_prefix": "\#(long)", "vocab": {"a": 0}, "merges": []}}"#,
        text: text),
      Bomb(
        testDescription: "post-processors",
        json: sequence(
          "post_processor", "processors", #"{"type": "RobertaProcessing", "cls": ["a", 0], "sep": ["b", 1]}"#, 20 * size
        )),
      Bomb(
        testDescription: "special tokens around a text",
        json: #"{"post_processor": {"type": "TemplateProcessing", "single": ["#
          + list(#"{"SpecialToken": {"id": "a"}}"#, 20 * size) + #"], "special_tokens": {}}, \#(bytes)}"#),
      Bomb(
        testDescription: "added tokens that a normalizer lengthens",
        json: #"{"added_tokens": [{"id": 3, "content": "a", "normalized": true}], "#
          + sequence("normalizer", "normalizers", double, min(60, size)).dropFirst()),
    ]
  }

  @Test(arguments: bombs(size: 1000))
  func aTokenizerThatMakesTooMuchOfATextIsRefused(bomb: Bomb) throws {
    let scratch = try ScratchDirectory()
    try OpenFile.create(scratch("tokenizer.json")).write(bomb.json)
    #expect(throws: ModelError.self) {
      let tokenizer = try Tokenizer(directory: scratch.path)
      let ids = try tokenizer.encode(bomb.text)
      _ = try tokenizer.decode(ids)
    }
  }

  /// Many tokens with one beginning are no bomb: the longest is found in a step for each byte.
  @Test func manyAddedTokensThatBeginAlikeAreFound() throws {
    let scratch = try ScratchDirectory()
    let tokens = (0..<20_000).map { #"{"id": \#($0 + 3), "content": "<<\#($0)>"}"# }
    try OpenFile.create(scratch("tokenizer.json")).write(
      #"{"added_tokens": [\#(tokens.joined(separator: ","))], \#(Self.bytes)}"#)
    let tokenizer = try Tokenizer(directory: scratch.path)
    #expect(try tokenizer.encode("<<19999>a<<<7>" + String(repeating: "<", count: 10_000)) == [20_002, 0, 10])
    #expect(try tokenizer.decode([20_002, 0, 10]) == "<<19999> a <<7>")
  }

  @Test func aLongTokenIsFoundInATextThatHoldsIt() throws {
    let scratch = try ScratchDirectory()
    let long = (0..<2000).map { "\($0)" }.joined()
    try OpenFile.create(scratch("tokenizer.json")).write(
      #"{"model": {"type": "Unigram", "unk_id": 0, "vocab": [["?", 0], ["a", -3], ["b", -3], ["\#(long)", -1]]}}"#)
    let tokenizer = try Tokenizer(directory: scratch.path)
    #expect(try tokenizer.encode("b\(long)aba") == [2, 3, 1, 2, 1])
  }

  /// A pattern that takes many steps at one place is not slow.
  @Test func aPatternMayGoBackOverALongText() throws {
    let scratch = try ScratchDirectory()
    try OpenFile.create(scratch("tokenizer.json")).write(
      #"{"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "a*?b|a"}, "behavior": "Removed"}, \#(Self.bytes)}"#)
    let tokenizer = try Tokenizer(directory: scratch.path)
    let run = String(repeating: "a", count: 3000)
    #expect(try tokenizer.encode("\(run)b") == [])
    #expect(try tokenizer.encode("aa") == [])
  }

  @Test func damagedTokenizerBombsNeverTrap() throws {
    let scratch = try ScratchDirectory()
    var random = TorchGenerator(seed: 29)
    let bombs = Self.bombs(size: 4)
    for index in 0..<fuzzRounds / 10 {
      let bomb = bombs[index % bombs.count]
      var bytes = Array(bomb.json.utf8)
      for _ in 0..<Int(random.nextLongBits() % 4) {
        bytes[Int(random.nextLongBits() % UInt64(bytes.count))] = UInt8(truncatingIfNeeded: random.nextLongBits())
      }
      let path = scratch("tokenizer.json")
      if FileSystem.exists(path) { try FileSystem.remove(path) }
      try OpenFile.create(path).write(bytes.span.bytes, at: 0)
      guard let tokenizer = try? Tokenizer(directory: scratch.path), let ids = try? tokenizer.encode(bomb.text) else {
        continue
      }
      _ = try? tokenizer.decode(ids)
    }
  }
}
