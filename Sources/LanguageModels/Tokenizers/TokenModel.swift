internal import TensorFiles

/// How words become ids.
protocol TokenModel {
  /// The id of a token; nil if the vocabulary has none.
  func id(of token: [UInt8]) -> Int?
  /// The token of an id.
  func token(of id: Int) -> [UInt8]?
  /// Greatest id.
  var largestID: Int { get }
  /// The ids of a word. Throws `.tokenizerTooCostly`.
  func encode(_ word: [UInt8], _ budget: TokenBudget) throws(ModelError) -> [Int]
}

/// Bounds of the characters of valid UTF-8.
func characterBounds(_ text: [UInt8]) -> [Range<Int>] {
  var bounds: [Range<Int>] = []
  var start = 0
  while start < text.count {
    var end = start + 1
    while end < text.count, text[end] & 0xC0 == 0x80 { end += 1 }
    bounds.append(start..<end)
    start = end
  }
  return bounds
}

/// The name of a byte where no token has its character: `<0x0A>`.
func byteToken(_ byte: UInt8) -> [UInt8] {
  let digits = String(byte, radix: 16, uppercase: true)
  return Array("<0x\(digits.count == 1 ? "0" : "")\(digits)>".utf8)
}

/// Tokens by their bytes, and the other way.
struct Vocabulary {
  private(set) var ids: [[UInt8]: Int] = [:]
  private(set) var tokens: [Int: [UInt8]] = [:]

  mutating func add(_ token: [UInt8], _ id: Int) {
    ids[token] = id
    tokens[id] = token
  }

  /// Ids of the 256 byte tokens; nil where one is missing.
  var byteIDs: [Int?] { (0...255).map { ids[byteToken(UInt8($0))] } }
}

/// Byte-pair encoding: neighbours merge in the order of their ranks. Source: huggingface/tokenizers, `models/bpe`.
final class BytePairModel: TokenModel {
  private struct Pair: Hashable {
    let left: Int32
    let right: Int32
  }

  private let vocabulary: Vocabulary
  private let merges: [Pair: (rank: Int, id: Int)]
  private let unknown: Int?
  private let fusesUnknown: Bool
  private let byteIDs: [Int?]
  private let usesBytes: Bool
  private let ignoresMerges: Bool
  private let suffix: [UInt8]
  private let prefix: [UInt8]
  private var cache: [[UInt8]: [Int]] = [:]

  let largestID: Int

  /// Throws `.configValue` for a vocabulary or merges that are none.
  init(_ json: JSONValue, path: String) throws(ModelError) {
    var vocabulary = Vocabulary()
    for member in json["vocab"]?.members ?? [] {
      guard let id = member.value.integerValue, (0..<1 << 30).contains(id) else {
        throw .configValue(path: path, key: "vocab", expected: "ids", found: member.value.compactText)
      }
      vocabulary.add(Array(member.key.utf8), id)
    }
    let prefix = Array((json["continuing_subword_prefix"]?.stringValue ?? "").utf8)
    var merges: [Pair: (Int, Int)] = [:]
    for (rank, entry) in (json["merges"]?.elements ?? []).enumerated() {
      let parts: [String]
      if let pair = entry.elements?.compactMap(\.stringValue) {
        parts = pair
      } else {
        parts = (entry.stringValue ?? "").split(separator: " ", maxSplits: 1, omittingEmptySubsequences: false).map(
          String.init)
      }
      guard parts.count == 2, let left = vocabulary.ids[Array(parts[0].utf8)],
        let right = vocabulary.ids[Array(parts[1].utf8)],
        let merged = vocabulary.ids[Array(parts[0].utf8) + Array(parts[1].utf8).dropFirst(prefix.count)]
      else {
        throw .configValue(path: path, key: "merges", expected: "pairs of tokens", found: entry.compactText)
      }
      merges[Pair(left: Int32(left), right: Int32(right))] = (rank, merged)
    }
    self.vocabulary = vocabulary
    self.merges = merges
    self.prefix = prefix
    unknown = json["unk_token"]?.stringValue.flatMap { vocabulary.ids[Array($0.utf8)] }
    fusesUnknown = json["fuse_unk"]?.boolValue ?? false
    usesBytes = json["byte_fallback"]?.boolValue ?? false
    ignoresMerges = json["ignore_merges"]?.boolValue ?? false
    suffix = Array((json["end_of_word_suffix"]?.stringValue ?? "").utf8)
    byteIDs = vocabulary.byteIDs
    largestID = vocabulary.tokens.keys.max() ?? -1
  }

  func id(of token: [UInt8]) -> Int? { vocabulary.ids[token] }
  func token(of id: Int) -> [UInt8]? { vocabulary.tokens[id] }

  func encode(_ word: [UInt8], _ budget: TokenBudget) throws(ModelError) -> [Int] {
    // Each character is looked up with what stands before and after it.
    try budget.spend(word.count, times: 16 + prefix.count)
    try budget.spend(suffix.count)
    if let known = cache[word] { return known }
    let ids = merged(word)
    if word.count < 256 {
      if cache.count > 20_000 { cache.removeAll(keepingCapacity: true) }
      cache[word] = ids
    }
    return ids
  }

  private func symbols(_ word: [UInt8]) -> [Int] {
    var symbols: [Int] = []
    var lastIsUnknown = false
    let bounds = characterBounds(word)
    for (index, range) in bounds.enumerated() {
      var token = Array(word[range])
      if index > 0 { token = prefix + token }
      if index == bounds.count - 1 { token += suffix }
      if let id = vocabulary.ids[token] {
        symbols.append(id)
        lastIsUnknown = false
        continue
      }
      if usesBytes {
        let bytes = word[range].compactMap { byteIDs[Int($0)] }
        if bytes.count == range.count {
          symbols += bytes
          lastIsUnknown = false
          continue
        }
      }
      guard let unknown else { continue }
      if !(lastIsUnknown && fusesUnknown) { symbols.append(unknown) }
      lastIsUnknown = true
    }
    return symbols
  }

  private func merged(_ word: [UInt8]) -> [Int] {
    if ignoresMerges, let id = vocabulary.ids[word] { return [id] }
    var ids = symbols(word)
    guard ids.count > 1 else { return ids }
    var next = (0..<ids.count).map { $0 + 1 < ids.count ? $0 + 1 : -1 }
    var previous = (0..<ids.count).map { $0 - 1 }
    var isAlive = [Bool](repeating: true, count: ids.count)
    var queue = MergeQueue()
    func consider(_ left: Int, _ right: Int) {
      guard let merge = merges[Pair(left: Int32(ids[left]), right: Int32(ids[right]))] else { return }
      queue.push(
        MergeQueue.Item(
          rank: merge.rank, position: left, right: right, leftID: ids[left], rightID: ids[right], id: merge.id))
    }
    for index in 0..<ids.count - 1 { consider(index, index + 1) }
    while let item = queue.pop() {
      guard isAlive[item.position], isAlive[item.right], next[item.position] == item.right,
        ids[item.position] == item.leftID, ids[item.right] == item.rightID
      else { continue }
      ids[item.position] = item.id
      isAlive[item.right] = false
      let after = next[item.right]
      next[item.position] = after
      if after >= 0 {
        previous[after] = item.position
        consider(item.position, after)
      }
      let before = previous[item.position]
      if before >= 0 { consider(before, item.position) }
    }
    return ids.indices.filter { isAlive[$0] }.map { ids[$0] }
  }
}

/// Merges to be done, least rank first, then leftmost.
private struct MergeQueue {
  struct Item {
    let rank: Int
    let position: Int
    let right: Int
    let leftID: Int
    let rightID: Int
    let id: Int
  }

  private var heap: [Item] = []

  private static func precedes(_ a: Item, _ b: Item) -> Bool { (a.rank, a.position) < (b.rank, b.position) }

  mutating func push(_ item: Item) {
    heap.append(item)
    var index = heap.count - 1
    while index > 0, Self.precedes(heap[index], heap[(index - 1) / 2]) {
      heap.swapAt(index, (index - 1) / 2)
      index = (index - 1) / 2
    }
  }

  mutating func pop() -> Item? {
    guard let top = heap.first else { return nil }
    let last = heap.removeLast()
    guard !heap.isEmpty else { return top }
    heap[0] = last
    var index = 0
    while true {
      var least = index
      for child in [2 * index + 1, 2 * index + 2] where child < heap.count && Self.precedes(heap[child], heap[least]) {
        least = child
      }
      if least == index { return top }
      heap.swapAt(index, least)
      index = least
    }
  }
}

/// Unigram: the most likely division into tokens. Source: huggingface/tokenizers, `models/unigram`.
final class UnigramModel: TokenModel {
  private let vocabulary: Vocabulary
  private let scores: [Double]
  private let unknown: Int?
  private let usesBytes: Bool
  private let byteIDs: [Int?]
  private let leastScore: Double
  private let table: PrefixTable

  let largestID: Int

  /// Throws `.configValue` for a vocabulary that is none.
  init(_ json: JSONValue, path: String) throws(ModelError) {
    var vocabulary = Vocabulary()
    var scores: [Double] = []
    for entry in json["vocab"]?.elements ?? [] {
      guard let token = entry.elements?.first?.stringValue, let score = entry.elements?.last?.doubleValue else {
        throw .configValue(path: path, key: "vocab", expected: "tokens with scores", found: entry.compactText)
      }
      vocabulary.add(Array(token.utf8), scores.count)
      scores.append(score)
    }
    guard !scores.isEmpty else {
      throw .configValue(path: path, key: "vocab", expected: "tokens with scores", found: "none")
    }
    self.vocabulary = vocabulary
    self.scores = scores
    unknown = json["unk_id"]?.integerValue
    usesBytes = json["byte_fallback"]?.boolValue ?? false
    byteIDs = vocabulary.byteIDs
    leastScore = scores.min() ?? 0
    table = PrefixTable(vocabulary.ids.map { ($0.key, $0.value) })
    largestID = scores.count - 1
  }

  func id(of token: [UInt8]) -> Int? { vocabulary.ids[token] }
  func token(of id: Int) -> [UInt8]? { vocabulary.tokens[id] }

  private struct Node {
    var score = 0.0
    var start = -1
    var id = -1
  }

  func encode(_ word: [UInt8], _ budget: TokenBudget) throws(ModelError) -> [Int] {
    guard !word.isEmpty else { return [] }
    let bounds = characterBounds(word)
    var nodes = [Node](repeating: Node(), count: word.count + 1)
    let unknownScore = leastScore - 10
    for first in bounds {
      let start = first.lowerBound
      let score = nodes[start].score
      var hasSingle = false
      try table.matches(in: word, at: start, budget) { id, end in
        let candidate = score + scores[id]
        if nodes[end].start < 0 || candidate > nodes[end].score {
          nodes[end] = Node(score: candidate, start: start, id: id)
        }
        if end == first.upperBound { hasSingle = true }
      }
      if !hasSingle {
        let candidate = score + unknownScore
        if nodes[first.upperBound].start < 0 || candidate > nodes[first.upperBound].score {
          nodes[first.upperBound] = Node(score: candidate, start: start, id: unknown ?? -1)
        }
      }
    }
    var pieces: [(range: Range<Int>, isUnknown: Bool)] = []
    var end = word.count
    while end > 0 {
      let node = nodes[end]
      let isUnknown = node.id == unknown || node.id < 0
      if isUnknown, let last = pieces.last, last.isUnknown {
        pieces[pieces.count - 1].range = node.start..<last.range.upperBound
      } else {
        pieces.append((node.start..<end, isUnknown))
      }
      end = node.start
    }
    return pieces.reversed().flatMap { piece -> [Int] in
      let token = Array(word[piece.range])
      if let id = vocabulary.ids[token] { return [id] }
      if usesBytes {
        let bytes = token.compactMap { byteIDs[Int($0)] }
        if bytes.count == token.count { return bytes }
      }
      return unknown.map { [$0] } ?? []
    }
  }
}
