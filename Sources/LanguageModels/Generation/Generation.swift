internal import TensorFiles
internal import TensorMath

/// What ends a generation.
public struct StopConditions: Sendable {
  public var newTokens = 100
  /// Ids after which nothing follows.
  public var ends: Set<Int> = []
  /// Texts after which nothing follows; they are left out.
  public var texts: [String] = []

  public init() {}

  /// The end-of-sequence ids of generation_config.json, or else of config.json. Source: transformers `GenerationConfig`.
  public static func endIDs(directory: String) -> Set<Int> {
    for name in ["generation_config.json", "config.json"] {
      guard let path = try? ModelFiles.path(name, in: directory), let json = try? JSONValue(contentsOf: path),
        let value = json["eos_token_id"]
      else {
        continue
      }
      if let id = value.integerValue { return [id] }
      if let ids = value.elements { return Set(ids.compactMap(\.integerValue)) }
    }
    return []
  }
}

extension PeftModel {
  /// Goes on from a prompt, token by token.
  ///
  /// - Parameter each: told of each token as it comes; false ends the generation.
  /// Returns the new tokens, an end-of-sequence id left out. Throws `.contextTooLong` before anything is computed, `.tokenOutside`,
  /// `.file` if the checkpoint is cut meanwhile, and what `each` throws.
  public func generate(
    _ prompt: [Int], sampling: Sampling = Sampling(), stop: StopConditions = StopConditions(),
    each: (Int) throws(ModelError) -> Bool = { _ in true }
  ) throws(ModelError) -> [Int] {
    var generation = try TokenGeneration(self, prompt, sampling, stop)
    var tokens: [Int] = []
    while let token = try generation.next() {
      tokens.append(token)
      if try !each(token) { break }
    }
    return tokens
  }

  /// A model without adapters.
  public convenience init(base directory: String) throws(ModelError) {
    self.init(try CausalLanguageModel(directory: directory))
  }
}

/// Text from tokens as they come: whole characters only, and nothing of a stop text.
public struct TextStream {
  private let tokenizer: Tokenizer
  private let stops: [String]
  private var tokens: [Int] = []
  private var shown = 0
  /// All text so far that will not change.
  public private(set) var text = ""
  /// True once a stop text has come.
  public private(set) var isStopped = false

  /// - Parameter prompt: what comes before, which decides about a leading space.
  /// Throws `.tokenizerTooCostly`.
  public init(_ tokenizer: Tokenizer, after prompt: [Int], stops: [String] = []) throws(ModelError) {
    self.tokenizer = tokenizer
    self.stops = stops.filter { !$0.isEmpty }
    context = Array(prompt.suffix(4))
    base = Array(try tokenizer.decode(context).utf8).count
  }

  private let context: [Int]
  private let base: Int

  /// Takes one more token and returns the text that can be shown now. Throws `.tokenizerTooCostly`.
  public mutating func add(_ token: Int) throws(ModelError) -> String {
    tokens.append(token)
    return try advance(isLast: false)
  }

  /// What is left when no token follows. Throws `.tokenizerTooCostly`.
  public mutating func finish() throws(ModelError) -> String { try advance(isLast: true) }

  private mutating func advance(isLast: Bool) throws(ModelError) -> String {
    guard !isStopped else { return "" }
    var bytes = Array(try tokenizer.decode(context + tokens, skipsSpecial: false).utf8.dropFirst(base))
    for stop in stops.map({ Array($0.utf8) }) {
      guard bytes.count >= stop.count else { continue }
      for start in max(0, shown - stop.count)...bytes.count - stop.count where bytes[start...].starts(with: stop) {
        bytes = Array(bytes[..<start])
        isStopped = true
        break
      }
    }
    if !isLast && !isStopped {
      // A character's first bytes look like a replacement character; a stop text's beginning is held back.
      if bytes.suffix(3) == Array("\u{FFFD}".utf8)[...] { return "" }
      let held = stops.map { stop in Self.overlap(bytes, Array(stop.utf8)) }.max() ?? 0
      bytes.removeLast(held)
    }
    guard bytes.count > shown else { return "" }
    let fresh = String(decoding: bytes[shown...], as: UTF8.self)
    shown = bytes.count
    text += fresh
    return fresh
  }

  /// The longest end of `bytes` that begins `stop`.
  private static func overlap(_ bytes: [UInt8], _ stop: [UInt8]) -> Int {
    for length in stride(from: min(bytes.count, stop.count - 1), to: 0, by: -1)
    where bytes.suffix(length).elementsEqual(stop.prefix(length)) {
      return length
    }
    return 0
  }
}
