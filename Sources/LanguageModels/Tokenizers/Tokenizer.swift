internal import PEFT
internal import TensorFiles

/// Text to token ids and back, as tokenizer.json says; or by vocab.json and merges.txt, as GPT-2 does it.
///
/// Source: huggingface/tokenizers; token for token equal to it. Not Sendable: it keeps a cache of words.
public final class Tokenizer {
  private let path: String
  private let normalizer: Normalizer?
  private let preTokenizer: PreTokenizer?
  private let model: any TokenModel
  private let decoder: TokenDecoder?
  private let added: AddedTokens
  /// Ids before and after a text.
  private let before: [Int]
  private let after: [Int]

  /// Loads tokenizer.json of a directory, or vocab.json and merges.txt.
  ///
  /// Throws `.tokenizerMissing`, `.tokenizerComponent` for what is not known, `.configValue`, `.file`.
  public convenience init(directory: String) throws(ModelError) {
    func file(_ name: String) throws(ModelError) -> String? {
      try asModelError { () throws(TensorFileError) in try ModelFiles.path(name, in: directory) }
    }
    if let path = try file("tokenizer.json") {
      let json = try asModelError { () throws(TensorFileError) in try JSONValue(contentsOf: path) }
      try self.init(json: json, path: path)
      return
    }
    guard let vocabulary = try file("vocab.json"), let merges = try file("merges.txt") else {
      throw .tokenizerMissing(path: directory)
    }
    let vocab = try asModelError { () throws(TensorFileError) in try JSONValue(contentsOf: vocabulary) }
    let text = try asModelError { () throws(TensorFileError) in
      try FileSystem.text(merges, limit: JSONValue.fileLimit)
    }
    let lines = text.split(separator: "\n").map { $0.last == "\r" ? $0.dropLast() : $0 }
    let pairs = lines.filter { !$0.hasPrefix("#version") && !$0.isEmpty }.map { JSONValue.string(String($0)) }
    let settings = try file("tokenizer_config.json").flatMap {
      try? JSONValue(contentsOf: $0, readsLongIntegers: true)
    }
    try self.init(json: Self.byteLevel(vocab, pairs, settings), path: vocabulary)
  }

  /// The tokenizer.json that vocab.json and merges.txt stand for.
  private static func byteLevel(_ vocab: JSONValue, _ merges: [JSONValue], _ settings: JSONValue?) -> JSONValue {
    func name(_ key: String) -> String? {
      settings?[key]?.stringValue ?? settings?[key]?["content"]?.stringValue
    }
    var special: [String] = []
    for key in ["bos_token", "eos_token", "unk_token", "pad_token"] {
      if let found = name(key), !special.contains(found) { special.append(found) }
    }
    if special.isEmpty, vocab["<|endoftext|>"] != nil { special = ["<|endoftext|>"] }
    let added = special.compactMap { token -> JSONValue? in
      guard let id = vocab[token] else { return nil }
      return .object([.init("id", id), .init("content", .string(token)), .init("special", .bool(true))])
    }
    var members: [JSONValue.Member] = [
      .init("added_tokens", .array(added)),
      .init(
        "pre_tokenizer",
        .object([
          .init("type", .string("ByteLevel")),
          .init("add_prefix_space", .bool(settings?["add_prefix_space"]?.boolValue ?? false)),
        ])),
      .init("decoder", .object([.init("type", .string("ByteLevel"))])),
      .init("model", .object([.init("type", .string("BPE")), .init("vocab", vocab), .init("merges", .array(merges))])),
    ]
    if settings?["add_bos_token"]?.boolValue == true, let bos = name("bos_token"), let id = vocab[bos] {
      members.append(
        .init(
          "post_processor",
          .object([
            .init("type", .string("TemplateProcessing")),
            .init(
              "single",
              .array([
                .object([.init("SpecialToken", .object([.init("id", .string(bos))]))]),
                .object([.init("Sequence", .object([.init("id", .string("A"))]))]),
              ])),
            .init("special_tokens", .object([.init(bos, .object([.init("ids", .array([id]))]))])),
          ])))
    }
    return .object(members)
  }

  init(json: JSONValue, path: String) throws(ModelError) {
    self.path = path
    try TokenBudget.check(partsOf: json, path: path)
    let normalizer = try Normalizer(json["normalizer"], path: path)
    self.normalizer = normalizer
    preTokenizer = try PreTokenizer(json["pre_tokenizer"], path: path)
    decoder = try TokenDecoder(json["decoder"], path: path)
    added = try AddedTokens(json["added_tokens"], normalizer: normalizer, path: path)
    guard let description = json["model"] else {
      throw .configValue(path: path, key: "model", expected: "a model", found: "absent")
    }
    // Early files do not name a BPE's type.
    let type = description["type"]?.stringValue ?? (description["merges"] == nil ? "Unigram" : "BPE")
    switch type {
    case "BPE": model = try BytePairModel(description, path: path)
    case "Unigram": model = try UnigramModel(description, path: path)
    default: throw .tokenizerComponent(path: path, part: "model", found: type)
    }
    (before, after) = try Self.surroundings(json["post_processor"], path: path)
  }

  /// What a post-processor puts around a single text.
  private static func surroundings(
    _ json: JSONValue?, path: String
  ) throws(ModelError) -> (before: [Int], after: [Int]) {
    guard let json, json != .null else { return ([], []) }
    let type = json["type"]?.stringValue ?? ""
    switch type {
    case "ByteLevel": return ([], [])
    case "Sequence":
      var (before, after): ([Int], [Int]) = ([], [])
      for part in json["processors"]?.elements ?? [] {
        let inner = try surroundings(part, path: path)
        (before, after) = (inner.before + before, after + inner.after)
      }
      return (before, after)
    case "TemplateProcessing":
      var (before, after): ([Int], [Int]) = ([], [])
      var isPast = false
      for part in json["single"]?.elements ?? [] {
        if part["Sequence"] != nil {
          isPast = true
          continue
        }
        let name = part["SpecialToken"]?["id"]?.stringValue ?? ""
        let ids = json["special_tokens"]?[name]?["ids"]?.elements?.compactMap(\.integerValue) ?? []
        if isPast { after += ids } else { before += ids }
      }
      return (before, after)
    case "BertProcessing", "RobertaProcessing":
      func id(_ key: String) -> [Int] { (json[key]?.elements?.last?.integerValue).map { [$0] } ?? [] }
      return (id("cls"), id("sep"))
    default: throw .tokenizerComponent(path: path, part: "post-processor", found: type)
    }
  }

  /// The id of a token as it stands in the vocabulary or among the added ones.
  public func id(of token: String) -> Int? {
    let bytes = Array(token.utf8)
    return added.byID.values.first { $0.content == bytes }?.id ?? model.id(of: bytes)
  }

  /// Greatest id that the tokenizer gives.
  public var largestID: Int { max(model.largestID, added.byID.keys.max() ?? -1) }

  /// Checks that a model embeds all ids. Throws `.tokenizerDoesNotFit`.
  public func check(vocabulary: Int) throws(ModelError) {
    guard largestID < vocabulary else {
      throw .tokenizerDoesNotFit(path: path, largestID: largestID, vocabulary: vocabulary)
    }
  }

  /// The ids of a text. Added tokens in the text are found, special ones too.
  ///
  /// - Parameter addsSpecial: whether the post-processor's tokens go around it.
  /// Throws `.tokenizerTooCostly` if the file makes more work of the text than a tokenizer does.
  public func encode(_ text: String, addsSpecial: Bool = true) throws(ModelError) -> [Int] {
    var ids = addsSpecial ? before : []
    var isFirst = true
    let bytes = Array(text.utf8)
    let budget = TokenBudget(byteCount: bytes.count, path: path)
    for piece in try added.divide(bytes, normalizer, budget) {
      switch piece {
      case .token(let id): ids.append(id)
      case .text(let text):
        let words = try preTokenizer?([(text, isFirst)], budget) ?? [(text, isFirst)]
        for word in words { ids += try model.encode(word.text, budget) }
      }
      isFirst = false
    }
    return addsSpecial ? ids + after : ids
  }

  /// The text of ids. Bytes that are no UTF-8 become replacement characters; ids that the tokenizer does not know are left out.
  ///
  /// Throws `.tokenizerTooCostly` as `encode(_:addsSpecial:)`.
  public func decode(_ ids: [Int], skipsSpecial: Bool = false) throws(ModelError) -> String {
    var tokens: [[UInt8]] = []
    for id in ids {
      if let token = added.byID[id] {
        if token.isSpecial && skipsSpecial { continue }
        tokens.append(token.decoded)
      } else if let token = model.token(of: id) {
        tokens.append(token)
      }
    }
    let budget = TokenBudget(byteCount: tokens.reduce(0) { $0 + $1.count }, path: path)
    let pieces = try decoder?(tokens, budget) ?? [Array(tokens.joined(separator: [0x20]))]
    return String(decoding: pieces.flatMap { $0 }, as: UTF8.self)
  }
}
